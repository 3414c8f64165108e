"""What is installed and how this machine behaves: packages, cores, accelerator, disk and its fsync cost.

Example:
  slipway doctor --json
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from agent.cli import EXTRAS
from agent.console import results, table, write_json

BASE = ("numpy", "onnxruntime", "zarr", "tyro", "rich")
FSYNC_TRIALS = 20


@dataclass(frozen=True, kw_only=True)
class Args:
    folder: Path = Path()
    """Folder whose disk is measured."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Gather and print."""
    record = examine(args.folder)
    if args.json:
        write_json(record)
        return 0
    rows = [[name, str(value)] for name, value in record.items() if not isinstance(value, dict)]
    rows += [[name, version] for name, version in record["packages"].items()]
    results.print(table("slipway doctor", ["what", "value"], rows))
    return 0


def examine(folder: Path) -> dict[str, Any]:
    """Facts about interpreter, cores, packages, accelerator and the disk under `folder`."""
    packages = {name: version_of(name) or "missing: part of the base install" for name in BASE}
    packages |= {
        name: version_of(name) or f"not installed (pip install 'slipway[{extra}]')" for name, extra in EXTRAS.items()
    }
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "accelerator": accelerator(),
        "disk_free_gb": round(shutil.disk_usage(folder).free / 1e9, 1),
        "fsync_ms_median": round(fsync_milliseconds(folder), 3),
        "packages": packages,
    }


def version_of(package: str) -> str | None:
    """Installed version of a distribution, None where it is not installed."""
    try:
        return metadata.version(package.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None


def accelerator() -> str:
    """What torch can train on, without importing torch where it is absent."""
    if version_of("torch") is None:
        return "none (torch is not installed: this is a device install)"
    try:
        import torch
    except ImportError as error:
        return f"unknown: torch is installed but cannot be imported ({error})"
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (CPU)"


def fsync_milliseconds(folder: Path) -> float:
    """Median time to write and fsync 4 KiB on the disk under `folder`, in ms."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(FSYNC_TRIALS):
            start = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[FSYNC_TRIALS // 2]
