"""Writes docs/errors.md from the exception tree: `python -m docs.errors_page`; a test fails when the page is stale.

What an exception means and what mends it stand in its docstring, the mend after "Mend:".
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from agent.errors import SLIPWAY_ERRORS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = ("agent", "replay", "envs", "export")
HEAD = """# Errors

Made from the exception tree by `python -m docs.errors_page`. Each is raised with one line that says what is wrong,
where (the file, field, step or row) and what to do; the command prints that line and ends with exit code 2. Anything
else is a crash of ours: a traceback and exit code 1, worth a report. [Forty mistakes](mistakes.md) shows the messages
themselves.

In Python all of them are caught by `except agent.SLIPWAY_ERRORS`, those of one package by its first class below.
"""


def tree(root: type[Exception], depth: int = 0) -> Iterator[tuple[type[Exception], int]]:
    """`root` and all that derive from it, each with its depth, in the order of their definition."""
    yield root, depth
    for child in root.__subclasses__():
        if child.__module__.partition(".")[0] in PACKAGES:
            yield from tree(child, depth + 1)


def meaning(error: type[Exception]) -> tuple[str, str]:
    """(what is wrong, what mends it) from the class's docstring; without a mend of its own its parent's holds."""
    text = inspect.cleandoc(error.__doc__ or "")
    wrong, _, mend = text.partition("Mend: ")
    if not mend and error.__base__ is not None and error.__base__ is not Exception:
        mend = meaning(error.__base__)[1]
    return " ".join(wrong.split("\n\n")[0].split()), " ".join(mend.split())


def load() -> None:
    """Import every module that defines an exception, so that the tree is whole."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^class \w+\(\w*(Error|Fault)\):", path.read_text(encoding="utf-8"), re.MULTILINE):
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def render() -> str:
    """The page."""
    load()
    text = HEAD
    for root in SLIPWAY_ERRORS:
        text += f"\n## {root.__module__.partition('.')[0]}\n\n| error | what is wrong | mend |\n|---|---|---|\n"
        for error, depth in tree(root):
            wrong, mend = meaning(error)
            text += f"| {'· ' * depth}`{error.__name__}` | {wrong} | {mend} |\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
