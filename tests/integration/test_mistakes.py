"""Each of the likeliest mistakes gets one line that names the input and the mend, and docs/mistakes.md shows it."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.integration.command import ROOT, refusal
from tests.integration.conftest import Made
from tests.integration.mistakes import CHAPTERS

PAGE = ROOT / "docs" / "mistakes.md"
ALL = {command: words for chapter in CHAPTERS.values() for command, words in chapter}
HEAD = """# Forty mistakes

Made by `tests/integration/test_mistakes.py`, which types each of them and fails when an answer changes. Every refusal
is one line on stderr with exit code 2, and leaves nothing behind. [Errors](errors.md) lists what else can be said.
"""


@pytest.fixture(scope="module")
def answers(place: Path, trained: Made, bundle: Made) -> dict[str, str]:
    """Every command's line, without the folder's own name."""
    (place / "notes").mkdir(exist_ok=True)
    (place / "notes" / "shopping.txt").write_text("bread")
    (place / "config.toml").write_text("pretrain_steps = 10\n[algorithm]\nexpectil = 0.7\n")
    (place / "log.csv").write_text("t,x,y,u\n0,1,2,3\n1,1,2,3\n")
    (place / "logs.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (place / "actor.pt").write_bytes(b"weights")
    np.savez(place / "arrays.npz", obs=np.zeros((4, 2)), act=np.zeros((4, 1)))
    pretrained = place / "pretrained"
    if not pretrained.exists():
        pretrained.mkdir()
        shutil.copy(place / "run" / "config.toml", pretrained)
        text = (pretrained / "config.toml").read_text().replace("online_steps = 900", "online_steps = 0")
        (pretrained / "config.toml").write_text(text)
    return {
        command: refusal(*shlex.split(command)[1:], cwd=place).replace(f"{place.resolve()}/", "") for command in ALL
    }


def test_there_are_forty_different_ones() -> None:
    assert len(ALL) == sum(len(chapter) for chapter in CHAPTERS.values()) == 40


@pytest.mark.parametrize("command", ALL)
def test_a_mistake_is_answered_with_what_is_wrong_and_its_mend(command: str, answers: dict[str, str]) -> None:
    line = answers[command]
    assert not [word for word in ALL[command] if word not in line], line
    assert len(line) < 400, line


def test_the_page_shows_what_is_answered_today(answers: dict[str, str]) -> None:
    text = HEAD
    number = 0
    for title, chapter in CHAPTERS.items():
        text += f"\n## {title}\n"
        for command, _ in chapter:
            number += 1
            text += f"\n**{number}.** `{command}`<br>\n`` {answers[command]} ``\n"
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(text, encoding="utf-8")
    stale = "docs/mistakes.md is stale: WRITE_DOCS=1 python -m pytest tests/integration/test_mistakes.py"
    assert PAGE.read_text(encoding="utf-8") == text, stale
