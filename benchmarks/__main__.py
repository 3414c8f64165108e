"""List the benchmarks with the first line of what each measures."""

import ast
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    words = ast.get_docstring(ast.parse(path.read_text())) or ""
    print(f"  {path.stem:<16} {words.splitlines()[0]}")
