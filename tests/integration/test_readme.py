"""The README's commands, in its own words: every shell block marked `<!-- tested -->` runs line by line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.command import ROOT, SLIPWAY, environment

MARKED = re.compile(r"^<!-- tested -->[ \t]*\n(?:[ \t]*\n)*```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
TIMEOUT_SECONDS = 400.0


def marked_blocks(text: str) -> list[str]:
    """The contents of the fenced sh blocks that the marker stands directly before."""
    return MARKED.findall(text)


BLOCKS = marked_blocks((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_readme_marks_at_least_one_block_and_no_marker_is_lost() -> None:
    assert BLOCKS
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("<!-- tested -->") == len(BLOCKS)


def test_only_marked_shell_blocks_are_found() -> None:
    text = "<!-- tested -->\n```sh\none\n```\n\n```sh\ntwo\n```\n<!-- tested -->\n\n```sh\nthree \\\n  four\n```\n"
    assert marked_blocks(text) == ["one\n", "three \\\n  four\n"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:60])
def test_the_readme_s_own_commands_work(block: str, tmp_path: Path) -> None:
    extra = {"PATH": f"{SLIPWAY.parent}:/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", block],
        cwd=tmp_path, env=environment(extra), capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"the last line shown failed:\n{done.stderr}"
    assert "Traceback" not in done.stderr
