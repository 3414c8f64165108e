"""Peers of the benchmarks, each installed once into a virtual environment of its own, beside Slipway's, never in it."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CACHE = Path.home() / ".cache" / "slipway" / "peers"


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """The Python of an environment that has `requirements`; made on first use with pip, from its configured index.

    Args:
        name: of the peer, for the folder and the messages.
        requirements: as pip takes them. A bare "torch" becomes this interpreter's own version, build tag included, so
            that a comparison never compares two torches.

    Raises:
        RuntimeError: pip failed; the last lines of its output are in the message, and nothing is left behind.
    """
    wanted = [f"torch=={importlib.metadata.version('torch')}" if each == "torch" else each for each in requirements]
    key = hashlib.sha256("\n".join([*sorted(wanted), platform.python_version()]).encode()).hexdigest()[:12]
    home = CACHE / f"{name}-{key}"
    python, complete = home / "bin" / "python", home / "complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}-{key}.lock").open("w") as lock:  # two benchmarks at once: the second waits
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists():
            return python
        print(f"installing {name} into {home}: {' '.join(wanted)} ...", file=sys.stderr, flush=True)
        shutil.rmtree(home, ignore_errors=True)
        try:
            _run([sys.executable, "-m", "venv", str(home)])
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
        except RuntimeError as error:
            shutil.rmtree(home, ignore_errors=True)
            raise RuntimeError(f"cannot install the peer {name}: {error}") from None
        complete.write_text("\n".join(wanted) + "\n")
    return python


def peer_versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages in a peer's environment, for the machine record."""
    code = "import sys, importlib.metadata as m\nfor name in sys.argv[1:]: print(m.version(name))"
    done = subprocess.run([python, "-c", code, *packages], stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(packages, done.stdout.split(), strict=True))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(" | ".join(done.stdout.strip().splitlines()[-3:]) or f"exit {done.returncode}")
