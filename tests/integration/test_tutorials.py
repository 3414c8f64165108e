"""The tutorials, word for word: files that a page shows are written, its marked commands run, in order, in one folder.

The pages share the folder in which the README's commands have run: `first-policy.md` only explains those.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.command import ROOT
from tests.integration.conftest import Played, play_shell

TUTORIALS = ROOT / "docs" / "tutorials"
NEEDS = {"own-data.md": "own-environment.md"}
FENCE = re.compile(
    r"^(?P<marker><!-- tested -->[ \t]*\n(?:[ \t]*\n)*)?```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# What a killed run resumes to is tested in tests/faults, more often and more closely.
LONG = {"resume.md"}
PAGES = [
    pytest.param(path.name, marks=[pytest.mark.full] if path.name in LONG else [])
    for path in sorted(TUTORIALS.glob("*.md"))
    if path.name != "first-policy.md"
]


def fences(page: str) -> list[re.Match[str]]:
    return list(FENCE.finditer((TUTORIALS / page).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def played() -> set[str]:
    return set()


def play(page: str, folder: Path, played: set[str]) -> None:
    """Do what the page says, once, after the page that it needs."""
    if page in played:
        return
    if page in NEEDS:
        play(NEEDS[page], folder, played)
    for fence in fences(page):
        if fence["title"]:
            (folder / fence["title"]).write_text(fence["text"])
        elif fence["marker"]:
            done = play_shell(fence["text"], folder)
            assert done.returncode == 0, f"{page}: the last line shown failed:\n{done.stderr}"
            assert "Traceback" not in done.stderr
    played.add(page)


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_works_as_it_is_written(page: str, readme: Played, played: set[str]) -> None:
    assert not readme.failed, readme.failed
    play(page, readme.folder, played)


def test_the_first_tutorial_explains_the_readme_s_own_commands(readme: Played) -> None:
    blocks = [fence["text"] for fence in fences("first-policy.md") if fence["marker"]]
    assert blocks
    assert not [block for block in blocks if block not in readme.commands]


def test_no_marked_block_of_a_tutorial_is_lost() -> None:
    for page in TUTORIALS.glob("*.md"):
        marked = sum(bool(fence["marker"]) for fence in fences(page.name))
        assert marked == page.read_text(encoding="utf-8").count("<!-- tested -->") > 0
