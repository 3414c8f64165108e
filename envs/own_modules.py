"""Where a user's own modules are found: `module:id` of an environment, `module:factory` of a robot."""

from __future__ import annotations

import sys
from pathlib import Path


def find_in_working_directory() -> None:
    """Put the working directory on the import path, as it is for the processes that a run starts."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
