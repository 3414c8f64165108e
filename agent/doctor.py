"""What commonly goes wrong with an installation or a machine, looked for one by one, each with its mend.

A check looks and returns its `Finding`s. What may abort a process (torch, OpenGL) is tried in a child process.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from agent.machine import Finding, compiler, disk, drawing, installed, normalised, processors
from agent.shadowing import hidden, lurking

IMPORT_SECONDS = 120.0


def examine(folder: Path) -> list[Finding]:
    """All checks, for stores and runs in `folder`."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        interpreter, names, lambda: packages(installed(), requirements()), torch_works, onnxruntime_works, processors,
        compiler, drawing, lambda: disk(folder),
    )  # fmt: skip
    return [finding for check in checks for finding in check()]


# --- Python and packages ----------------------------------------------------------------------------------------------


def interpreter() -> Iterator[Finding]:
    """Python and platform."""
    linux = sys.platform == "linux"
    yield Finding(
        name="python", state="ok" if linux else "problem",
        found=f"{platform.python_version()} on {platform.platform()}",
        mend="" if linux else "Slipway needs Linux: mapped stores and process control are made for it",
    )  # fmt: skip


def names() -> Iterator[Finding]:
    """Other code under our import names."""
    problems = [f"`{name}` is {where}" for name, where in hidden()]
    owners = metadata.packages_distributions()
    for name in ("agent", "envs", "replay", "export"):
        others = sorted({owner for owner in owners.get(name, []) if owner != "slipway"})
        problems += [f"{owner} also installs `{name}`" for owner in others]
    if problems:
        yield Finding(
            name="import names", state="problem", found="; ".join(problems),
            mend="install Slipway into a virtual environment of its own: python -m venv .venv",
        )  # fmt: skip
    near = lurking(Path.cwd())
    if near:
        yield Finding(
            name="import names", state="warning",
            found=f"hidden from `python -m` and --robot by {', '.join(map(str, near))}",
            mend="rename them, or work in another folder",
        )  # fmt: skip
    if not problems and not near:
        yield Finding(name="import names", state="ok", found="agent, envs, replay, export are Slipway's own")


def requirements() -> list[str]:
    """Slipway's requirements, those of extras with their marker; empty where it is not installed as a package."""
    try:
        return metadata.requires("slipway") or []
    except metadata.PackageNotFoundError:
        return []


def packages(versions: Mapping[str, str], required: list[str]) -> Iterator[Finding]:
    """Versions against what Slipway asks for; an extra that is not installed is no fault."""
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion

    if not required:
        yield Finding(
            name="slipway", state="warning", found="runs from its source without being installed",
            mend="pip install -e . in the checkout",
        )  # fmt: skip
    fine = []
    for requirement in map(Requirement, required):
        name, extra = (
            normalised(requirement.name),
            requirement.marker is not None and "extra" in str(requirement.marker),
        )
        version = versions.get(name)
        wanted = f"{requirement.name}{requirement.specifier}"
        if name == "slipway" or (version is None and extra):
            continue
        if version is None:
            yield Finding(name=name, state="problem", found="not installed", mend=f"pip install '{wanted}'")
            continue
        try:
            suits = requirement.specifier.contains(version, prereleases=True)
        except InvalidVersion:
            suits = False
        if suits:
            fine.append(f"{name} {version}")
        else:
            yield Finding(
                name=name, state="problem", found=f"{version}, but {requirement.specifier} is needed",
                mend=f"pip install '{wanted}'",
            )  # fmt: skip
    if fine:
        yield Finding(name="packages", state="ok", found=", ".join(dict.fromkeys(fine)))


def in_child(code: str) -> tuple[dict[str, Any] | None, str]:
    """What `code` prints as JSON in a Python of its own, or None and its last words."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {IMPORT_SECONDS:.0f} s"
    if done.returncode == 0 and done.stdout.strip():
        made: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return made, ""
    return None, (done.stderr.strip() or f"ended with code {done.returncode}").splitlines()[-1][:160]


TORCH = """
import json, torch
torch.zeros(2).numpy()
gpu = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "built_for": torch.version.cuda or torch.version.hip,
    "gpu": torch.cuda.get_device_name(0) if gpu else None}))
"""


def torch_works() -> Iterator[Finding]:
    """Whether torch can be imported, agrees with numpy, and what it trains on."""
    if "torch" not in installed():
        yield Finding(name="torch", state="ok", found="not installed: this is a device (slipway[train] brings it)")
        return
    said, why = in_child(TORCH)
    if said is None:
        yield Finding(
            name="torch", state="problem", found=f"installed, but it cannot be imported: {why}",
            mend="pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cpu",
        )  # fmt: skip
    elif said["built_for"] and not said["gpu"]:
        yield Finding(
            name="torch", state="warning", found=f"{said['version']} for GPUs ({said['built_for']}), but it sees none",
            mend="where a GPU should be, look at its driver (nvidia-smi); else the CPU build is 2 GB smaller: "
            "pip install torch --index-url https://download.pytorch.org/whl/cpu",
        )  # fmt: skip
    else:
        yield Finding(name="torch", state="ok", found=f"{said['version']}, on {said['gpu'] or 'the CPU'}")


ONNXRUNTIME = """
import json, onnxruntime as o
print(json.dumps({"version": o.__version__, "providers": o.get_available_providers()}))
"""


def onnxruntime_works() -> Iterator[Finding]:
    """Whether onnxruntime can be imported, and that only one distribution provides it."""
    several = sorted(name for name in installed() if name.startswith("onnxruntime") and "extensions" not in name)
    if not several:
        return  # told by `packages`
    said, why = in_child(ONNXRUNTIME)
    if said is None:
        yield Finding(
            name="onnxruntime", state="problem", found=f"installed, but it cannot be imported: {why}",
            mend="pip install --force-reinstall onnxruntime",
        )  # fmt: skip
    elif len(several) > 1:
        yield Finding(
            name="onnxruntime", state="problem", found=f"{' and '.join(several)} overwrite each other's files",
            mend=f"pip uninstall {' '.join(several)}, then pip install onnxruntime",
        )  # fmt: skip
    else:
        yield Finding(name="onnxruntime", state="ok", found=f"{said['version']}, {', '.join(said['providers'])}")
