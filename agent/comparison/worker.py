"""One run of a comparison in a process of its own: `python -m agent.comparison.worker RUN`. Ends with its parent.

The run directory holds the configuration already; the same call again resumes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from agent.process import THREAD_VARIABLES, run_child

STOPPED = 3
"""Exit code of a run that was asked to stop and has saved."""


def main(config: str, parent: str) -> int:
    """Entry point of the process."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    from agent.config_files import from_toml
    from agent.training import train

    finished = False

    def body() -> None:
        nonlocal finished
        finished = bool(train(from_toml(Path(config)))["finished"])

    code = run_child(parent, body)
    return STOPPED if code == 0 and not finished else code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
