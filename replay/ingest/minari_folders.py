"""Where Minari datasets lie: a dataset's own folder, and the ids below a root. Cheap: nothing of Minari is loaded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

DEEPEST_ID, MOST_FOLDERS = 4, 2000
"""How far `local_ids` looks: any folder may be given for a source, a home folder among them."""


def data_folder(path: Path) -> Path | None:
    """The folder with `metadata.json`, given the dataset folder or that folder itself."""
    return next((folder for folder in (path / "data", path) if (folder / "metadata.json").is_file()), None)


def datasets_root() -> Path:
    """Where Minari keeps its datasets: `$MINARI_DATASETS_PATH` or `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def local_ids(root: Path) -> list[str]:
    """Ids of the datasets under a Minari root, sorted; looks into no hidden folder, and no deeper than ids go."""
    found, level, left = [], [root], MOST_FOLDERS
    for _ in range(DEEPEST_ID):
        deeper = []
        for folder in (inner for outer in level for inner in _folders(outer)[:left]):
            left -= 1
            if (folder / "data" / "metadata.json").is_file():
                found.append(folder.relative_to(root).as_posix())
            else:
                deeper.append(folder)
        level = deeper
    return sorted(found)


def _folders(root: Path) -> list[Path]:
    """Folders in a folder that are not hidden; none in one that may not be read."""
    with contextlib.suppress(OSError):
        return sorted(root / entry.name for entry in os.scandir(root) if entry.name[0] != "." and entry.is_dir())
    return []
