"""Shell completion for bash, zsh and fish, made from what every verb says of itself with `--help`.

The script is static: completing a word starts no Python.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

from agent.cli import VERBS, main

# A frame of lines or, where the output has no encoding, of blanks.
FLAG = re.compile(r"^[│ ] (?:-h, )?(--[a-z][\w.-]*)((?:, --[\w.-]+)*)(?: (\{[^}]*\}))?", re.MULTILINE)
ACTIONS = re.compile(r"^usage: .*?\{([a-z][\w-]*(?:,[a-z][\w-]*)+)\}", re.MULTILINE)
WIDE = "120"  # wider, and the panels stand side by side


@dataclass(frozen=True, kw_only=True)
class Word:
    """A verb, or an action of one (`replay info`), and what may follow it."""

    path: tuple[str, ...]
    """Its words after `slipway`."""
    summary: str
    """One line."""
    actions: tuple[str, ...]
    """Words that may follow at once."""
    flags: dict[str, tuple[str, ...]]
    """Flags, each with the values that it takes where there are few."""


def help_of(*path: str) -> str:
    """What `slipway PATH --help` prints, empty where its packages are not installed."""
    said = io.StringIO()
    wide = mock.patch.dict(os.environ, {"COLUMNS": WIDE, "NO_COLOR": "1"})
    quiet = contextlib.redirect_stderr(io.StringIO())
    with wide, quiet, contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*path, "--help"])
    return said.getvalue()


def flags_of(text: str) -> dict[str, tuple[str, ...]]:
    """Flags of a help text and their values."""
    found: dict[str, tuple[str, ...]] = {}
    for first, others, values in FLAG.findall(text):
        # One value alone is None, or an algorithm's own name.
        taken = tuple(values.strip("{}").split(",")) if "," in values else ()
        for flag in [first, *others.replace(",", " ").split()]:
            found[flag] = taken
    return found


def vocabulary() -> Iterator[Word]:
    """Every verb and action."""
    for verb, (_, summary) in VERBS.items():
        text = help_of(verb)
        listed = ACTIONS.search(text)
        actions = tuple(listed[1].split(",")) if listed else ()
        yield Word(path=(verb,), summary=summary, actions=actions, flags=flags_of(text) if not actions else {})
        for action in actions:
            yield Word(path=(verb, action), summary="", actions=(), flags=flags_of(help_of(verb, action)))


def bash(words: list[Word]) -> str:
    """A script for bash: `source` it, or save it as ~/.local/share/bash-completion/completions/slipway."""
    verbs = " ".join(word.path[0] for word in words if len(word.path) == 1)
    lines = [
        "_slipway() {",
        '  local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} offered',
        "  COMPREPLY=()",
        "  if (( COMP_CWORD == 1 )); then",
        f'    COMPREPLY=( $(compgen -W "{verbs} --help --version" -- "$cur") ); return',
        "  fi",
        '  case $verb in',
    ]  # fmt: skip
    for word in words:
        if word.actions:
            lines += [
                f"    {word.path[0]})",
                "      if (( COMP_CWORD == 2 )); then",
                f'        COMPREPLY=( $(compgen -W "{" ".join(word.actions)} --help" -- "$cur") ); return',
                "      fi",
                "      verb=\"$verb ${COMP_WORDS[2]}\" ;;",
            ]  # fmt: skip
    lines += ["  esac", '  case "$verb" in']
    for word in words:
        if word.flags:
            values = [(flag, taken) for flag, taken in word.flags.items() if taken]
            lines.append(f'    "{" ".join(word.path)}")')
            if values:
                lines.append("      case $before in")
                lines += [
                    f'        {flag}) COMPREPLY=( $(compgen -W "{" ".join(taken)}" -- "$cur") ); return ;;'
                    for flag, taken in values
                ]
                lines.append("      esac")
            lines.append(f'      offered="{" ".join(word.flags)}" ;;')
    lines += [
        "  esac",
        '  if [[ $cur == -* ]]; then COMPREPLY=( $(compgen -W "$offered" -- "$cur") ); return; fi',
        '  COMPREPLY=( $(compgen -f -- "$cur") )',
        "}",
        "complete -o filenames -F _slipway slipway",
    ]
    return "\n".join(lines) + "\n"


def zsh(words: list[Word]) -> str:
    """A script for zsh: save it as _slipway in a folder of $fpath."""
    verbs = " ".join(f"'{word.path[0]}:{quoted(word.summary)}'" for word in words if len(word.path) == 1)
    lines = [
        "#compdef slipway",
        "_slipway() {",
        '  local verb="${words[2]}" before="${words[CURRENT-1]}" cur="${words[CURRENT]}"',
        f"  local -a verbs=({verbs})",
        "  if (( CURRENT == 2 )); then _describe verb verbs; return; fi",
    ]
    for word in words:
        if word.actions:
            lines += [
                f'  if [[ $verb == {word.path[0]} ]]; then',
                f"    if (( CURRENT == 3 )); then compadd -- {' '.join(word.actions)}; return; fi",
                '    verb="$verb ${words[3]}"',
                "  fi",
            ]  # fmt: skip
    lines.append('  case "$verb" in')
    for word in words:
        if word.flags:
            lines.append(f'    "{" ".join(word.path)}")')
            values = [(flag, taken) for flag, taken in word.flags.items() if taken]
            if values:
                lines.append("      case $before in")
                lines += [f"        {flag}) compadd -- {' '.join(taken)}; return ;;" for flag, taken in values]
                lines.append("      esac")
            lines.append(f"      if [[ $cur == -* ]]; then compadd -- {' '.join(word.flags)}; return; fi ;;")
    lines += [
        "  esac",
        "  _files",
        "}",
        'if [[ $funcstack[1] == _slipway ]]; then _slipway "$@"; else compdef _slipway slipway; fi',
    ]
    return "\n".join(lines) + "\n"


def fish(words: list[Word]) -> str:
    """A script for fish: save it as ~/.config/fish/completions/slipway.fish."""
    lines = []
    for word in words:
        seen = "; and ".join(f"__fish_seen_subcommand_from {part}" for part in word.path)
        if len(word.path) == 1:
            lines.append(
                f"complete -c slipway -f -n __fish_use_subcommand -a {word.path[0]} -d '{quoted(word.summary)}'"
            )
        none_yet = f"{seen}; and not __fish_seen_subcommand_from {' '.join(word.actions)}"
        lines += [f"complete -c slipway -f -n '{none_yet}' -a {action}" for action in word.actions]
        for flag, taken in word.flags.items():
            values = f" -x -a '{' '.join(taken)}'" if taken else ""
            lines.append(f"complete -c slipway -n '{seen}' -l {flag.removeprefix('--')}{values}")
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """Text within single quotes, where a colon would end zsh's word."""
    return text.replace("'", "").replace(":", " -")


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
