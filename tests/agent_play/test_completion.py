"""The shells themselves complete from the scripts; one that is not installed is skipped."""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.cli import VERBS, parse
from agent.completion import SHELLS, Word, flags_of, help_of, vocabulary


@pytest.fixture(scope="module")
def words() -> list[Word]:
    """All verbs, asked once."""
    return list(vocabulary())


@pytest.fixture(scope="module")
def scripts(words: list[Word], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with script.bash, script.zsh and script.fish."""
    folder = tmp_path_factory.mktemp("completion")
    for shell, make in SHELLS.items():
        (folder / f"script.{shell}").write_text(make(words))
    return folder


def test_the_vocabulary_is_that_of_the_help(words: list[Word]) -> None:
    known = {" ".join(word.path): word for word in words}
    assert {word.path[0] for word in words} == set(VERBS)
    assert known["play"].flags["--pick"] == ("first", "last", "best", "worst", "random")
    assert {"--json", "--no-json", "--out", "--help"} <= known["play"].flags.keys()
    assert known["play"].flags["--out"] == ()
    assert "info" in known["replay"].actions
    assert "--html" in known["replay info"].flags
    assert "--algorithm.name" in known["train"].flags or "--online.warmup-steps" in known["train"].flags


def test_flags_are_read_with_and_without_frames() -> None:
    text = "│ -h, --help     show │\n│ --pick {a,b}   of (see --other) │\n  --json, --no-json\n     --deep is no flag\n"
    assert flags_of(text) == {"--help": (), "--pick": ("a", "b"), "--json": (), "--no-json": ()}


def complete(shell: str, scripts: Path, line: str) -> set[str]:
    """What a shell offers after `line`, its last word unfinished."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = scripts / f"script.{shell}"
    words = line.split(" ")
    if shell == "bash":
        quoted = " ".join(f"'{word}'" for word in words)
        code = f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _slipway; "
        code += "printf '%s\\n' \"${COMPREPLY[@]}\""
    elif shell == "fish":
        code = f"source {script}; complete -C '{line}'"
    else:
        # Its completion system, replaced by what it is called with.
        quoted = " ".join(f"'{word}'" for word in words)
        code = (
            "compdef() { : }; compadd() { shift; print -l -- $@ }; _describe() { print -l -- ${(P)2} }; "
            f"_files() {{ print -l -- * }}; source {script}; words=({quoted}); CURRENT={len(words)}; _slipway"
        )
    done = subprocess.run([shell, "-c", code], capture_output=True, text=True, check=True, cwd=scripts)
    offered = {row.split("\t")[0].partition(":")[0] for row in done.stdout.splitlines() if row}
    return {word for word in offered if word.startswith(words[-1])}


@pytest.mark.parametrize("shell", list(SHELLS))
def test_verbs_actions_flags_and_values_are_completed(shell: str, scripts: Path) -> None:
    assert complete(shell, scripts, "slipway re") == {"replay", "report"}
    assert complete(shell, scripts, "slipway replay ver") == {"verify"}
    assert complete(shell, scripts, "slipway replay info --ht") == {"--html"}
    assert complete(shell, scripts, "slipway play --pi") == {"--pick"}
    assert complete(shell, scripts, "slipway play --pick b") == {"best"}
    assert complete(shell, scripts, "slipway verify scr") == {f"script.{name}" for name in SHELLS}


def test_every_example_of_the_help_is_a_command_that_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as its arguments go: the stores that it names do not exist here."""
    from replay.errors import StoreNotFoundError

    monkeypatch.chdir(tmp_path)
    Path("CONFIG.toml").touch()
    examples = 0
    for verb in VERBS:
        for line in re.findall(rf"^ +slipway {verb} (.*)$", help_of(verb), re.MULTILINE):
            arguments = shlex.split(line.partition(" > ")[0], comments=True)
            with contextlib.suppress(StoreNotFoundError):
                parse(importlib.import_module(VERBS[verb][0]), verb, arguments)
            examples += 1
    assert examples >= len(VERBS)
