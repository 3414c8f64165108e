"""The README's commands, in its own words: every shell block marked `<!-- tested -->` runs line by line."""

from __future__ import annotations

from tests.integration.command import ROOT
from tests.integration.conftest import Played, marked_blocks


def test_the_readme_marks_at_least_one_block_and_no_marker_is_lost() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- tested -->") == len(marked_blocks(text)) > 0


def test_only_marked_shell_blocks_are_found() -> None:
    text = "<!-- tested -->\n```sh\none\n```\n\n```sh\ntwo\n```\n<!-- tested -->\n\n```sh\nthree \\\n  four\n```\n"
    assert marked_blocks(text) == ["one\n", "three \\\n  four\n"]


def test_the_readme_s_own_commands_work(readme: Played) -> None:
    assert not readme.failed, f"the last line shown failed:\n{readme.failed}"
    assert (readme.folder / "runs" / "maze" / "report.html").exists()
