"""What processes that were killed left behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove_left_behind(folder: Path, prefix: str) -> None:
    """Remove folders PREFIX + PID in `folder` whose process is gone, or is this one, which is about to make its own."""
    for entry in os.scandir(folder):
        pid = entry.name.removeprefix(prefix)
        if entry.name.startswith(prefix) and pid.isdigit() and (int(pid) == os.getpid() or not alive(int(pid))):
            shutil.rmtree(entry.path, ignore_errors=True)
