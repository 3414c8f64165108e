"""The documentation is true where it can be run: its Python examples work, its links and file names exist.

The ```python fences of one page run in order in one namespace, as a reader would type them, in a folder that all pages
share: `deploy.md` drives the policy that `bundle.md` writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
NEEDS = {"deploy.md": "bundle.md"}
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
SOURCE = re.compile(r"`((?:agent|envs|replay|export|tests|examples|docs)/[\w./-]+)`")


def snippets(page: str) -> list[tuple[int, str]]:
    """(line of the file at which it begins, code) of each Python example."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in FENCE.finditer(text)]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Run all examples of a page, once, after those of the page that it needs; returns their namespace."""
    folder = tmp_path_factory.mktemp("docs")
    played: dict[str, dict[str, Any]] = {}

    def run(page: str) -> dict[str, Any]:
        if page not in played:
            if page in NEEDS:
                run(NEEDS[page])
            namespace: dict[str, Any] = {"__name__": f"docs.{page}"}
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                for line, code in snippets(page):
                    # Blank lines in front, so that a failure names the line of the page.
                    exec(compile("\n" * line + code, str(DOCS / page), "exec"), namespace)
            played[page] = namespace
        return played[page]

    return run


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)])
def test_the_examples_of_a_page_run_in_order(page: str, play: Callable[[str], dict[str, Any]]) -> None:
    play(page)


@pytest.mark.parametrize("page", PAGES)
def test_the_links_and_files_that_a_page_names_exist(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not ((DOCS / page).parent / link).exists()]
    missing += [name for name in SOURCE.findall(text) if not (ROOT / name).exists()]
    assert not missing


def test_every_kind_of_event_is_documented() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "agent").rglob("*.py"))
    kinds = set(re.findall(r"""\b(?:event|_kill_if_hung)\(\s*(?:[\w.]+,\s*)?["'](\w+)["']""", code))
    kinds |= set(re.findall(r"""yield \(\s*["'](\w+)["'],""", (ROOT / "agent" / "data_checks.py").read_text("utf-8")))
    section = (DOCS / "runs.md").read_text(encoding="utf-8").split("## events.jsonl")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == kinds
