"""Whether other code hides Slipway's packages: their import names are common words. Imports nothing of ours."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NAMES = ("agent", "envs", "replay", "export")
HOME = Path(__file__).resolve().parent.parent


def hidden() -> list[tuple[str, str]]:
    """(name, path) of each of our import names that Python finds somewhere else."""
    found = []
    for name in NAMES:
        module = sys.modules.get(name)
        spec = module.__spec__ if module is not None else importlib.util.find_spec(name)
        origin = spec.origin if spec is not None else None
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        where = origin or (folders[0] if folders else "nowhere")
        if where == "nowhere" or Path(where).resolve().parent != HOME / name:
            # A namespace package has no origin, only folders.
            if origin is None and any(Path(folder).resolve() == HOME / name for folder in folders):
                continue
            found.append((name, where))
    return found


def lurking(folder: Path) -> list[Path]:
    """Files and packages in `folder` that hide ours when it comes first on the import path, as with `python -m`."""
    if folder.resolve() == HOME:
        return []
    tried = (path for name in NAMES for path in (folder / f"{name}.py", folder / name / "__init__.py"))
    return [path for path in tried if path.exists()]
