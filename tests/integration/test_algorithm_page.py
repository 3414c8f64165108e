"""docs/algorithm.md, to the letter, in a copy of the checkout: its files, its line in the registry, its commands."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.command import ROOT
from tests.integration.conftest import play_shell
from tests.integration.test_tutorials import FENCE

PAGE = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
COPIED = (
    "agent", "replay", "envs", "export", "pyproject.toml", "tests/__init__.py", "tests/conftest.py",
    "tests/agent/__init__.py", "tests/agent/learners.py", "tests/agent/test_algorithms.py",
)  # fmt: skip
LINE_OF = "line of "


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy with what the page adds."""
    for name in COPIED:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for fence in FENCE.finditer(PAGE):
        title = fence["title"] or ""
        if title.startswith(LINE_OF):
            registry = tmp_path / title.removeprefix(LINE_OF)
            head = "ALGORITHMS: dict[str, tuple[str, str]] = {\n"
            text = registry.read_text(encoding="utf-8")
            assert head in text
            registry.write_text(text.replace(head, head + fence["text"]), encoding="utf-8")
        elif title:
            (tmp_path / title).write_text(fence["text"], encoding="utf-8")
    return tmp_path


def follow(checkout: Path, changes: Mapping[str, str] | None = None) -> None:
    """Run the page's commands, with `changes` of words."""
    commands = "".join(fence["text"] for fence in FENCE.finditer(PAGE) if fence["marker"])
    for old, new in (changes or {}).items():
        assert old in commands
        commands = commands.replace(old, new)
    done = play_shell(commands, checkout, {"PYTHONPATH": str(checkout)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "filtered.policy: policy filtered-200, verified" in done.stdout


def test_an_algorithm_written_by_the_page_trains_and_exports(checkout: Path) -> None:
    # Compiling takes longer than all the rest.
    follow(checkout, {"-k filtered\n": "-k 'filtered and not compiled'\n"})


@pytest.mark.full
def test_the_page_s_commands_work_as_they_stand(checkout: Path) -> None:
    follow(checkout)


def test_the_page_adds_less_than_a_hundred_lines() -> None:
    assert sum(fence["text"].count("\n") for fence in FENCE.finditer(PAGE) if fence["title"]) <= 100
