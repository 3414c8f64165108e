"""List the benchmarks with the first line of what each measures."""

import ast
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    text = path.read_text()
    if "\ndef main(" in text:  # the others serve these
        print(f"  {path.stem:<16} {(ast.get_docstring(ast.parse(text)) or '').splitlines()[0]}")
