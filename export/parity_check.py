"""The parity gate's own process: what a device computes, where neither torch nor onnx can be imported.

    python -m export.parity_check FOLDER VARIANT...

FOLDER holds `cases.npz` and the variants' files (`export.parity.check_parity` writes them). Prints one JSON object: the
reports by variant, or {"refused": reason}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

FORBIDDEN = ("torch", "onnx", "onnxscript", "gymnasium")


class Forbid:
    """Import hook that refuses what a device does not have."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise ImportError for a forbidden package; leave every other to the next finder."""
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} must not be imported on the device")


def main(arguments: Sequence[str]) -> int:
    """Compare and print."""
    sys.meta_path.insert(0, Forbid())
    # Only now: the hook has to be there first.
    import numpy as np

    from export.errors import ParityError
    from export.parity import CASES, compare
    from export.policy import VARIANTS
    from export.runner import PolicyRunner

    folder, variants = Path(arguments[0]), arguments[1:]
    with np.load(folder / CASES, allow_pickle=False) as stored:
        cases = {name: stored[name] for name in stored.files}
    try:
        said: dict[str, object] = {
            variant: compare(PolicyRunner((folder / VARIANTS[variant]).read_bytes(), variant=variant), cases)
            for variant in variants
        }
    except ParityError as error:
        said = {"refused": str(error)}
    sys.stdout.write(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
