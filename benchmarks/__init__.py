"""Benchmarks: `python -m benchmarks` lists them, `python -m benchmarks.NAME [--quick] [--json FILE]` runs one."""

from __future__ import annotations

import ast
from pathlib import Path


def listed() -> dict[str, str]:
    """First line of what each benchmark measures, by module; the other modules serve these."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        # A peer's program, which runs in an environment of its own, has a main() too, but takes no flags.
        if "\ndef main(" in text and "argparse" in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    return found
