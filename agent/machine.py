"""What a machine offers, for `slipway doctor`: cores, compiler, OpenGL, disk; each with the mend of what is amiss."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from agent.errors import RenderingError

FSYNC_TRIALS = 20
SLOW_FSYNC_MS = 20.0
LITTLE_SPACE_GB, NO_SPACE_GB = 5.0, 0.5
NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "gluster", "lustre", "beegfs", "gpfs", "afs", "fuse.sshfs", "fuse.s3fs",
           "fuse.rclone", "fuse.gcsfuse", "virtiofs")  # fmt: skip
VOLATILE = ("tmpfs", "ramfs")
COMPILERS = ("g++", "clang++", "c++")

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What, in a word or two."""
    state: State
    """ok; a warning costs speed or a feature; a problem breaks something."""
    found: str
    """What is there."""
    mend: str = ""
    """What to do, for all but ok."""


def installed() -> dict[str, str]:
    """Version by normalised name of every installed distribution; of several the one that is imported."""
    versions: dict[str, str] = {}
    for each in metadata.distributions():
        name = each.metadata["Name"]
        if name:
            versions.setdefault(normalised(name), each.version)
    return versions


def normalised(name: str) -> str:
    """A distribution's name as registries compare it."""
    return name.lower().replace("_", "-").replace(".", "-")


def processors() -> Iterator[Finding]:
    """Cores, what of them may be used, vector units, and threads asked for."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    if quota is not None and quota < cores:
        yield Finding(
            name="cores", state="warning", found=f"{cores}, of which this container may use {quota:g}",
            mend=f"count on {quota:g}: fewer --online.collectors, or a larger quota",
        )  # fmt: skip
    elif cores == 1:
        yield Finding(
            name="cores",
            state="warning",
            found="1: learner and collectors take turns",
            mend="give the machine a second core",
        )
    else:
        yield Finding(name="cores", state="ok", found=str(cores))
    flags = cpu_flags()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16") if name in flags]
    if platform.machine() == "x86_64" and flags and "avx2" not in flags:
        yield Finding(
            name="vector units", state="warning", found="no AVX2", mend="expect a fraction of the published speeds here"
        )
    else:
        pays = bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))
        yield Finding(
            name="vector units", state="ok",
            found=f"{', '.join(known) or 'unknown'}; --precision bf16 {'can pay' if pays else 'does not pay'} here",
        )  # fmt: skip
    asked = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    wrong = {name: value for name, value in asked.items() if not value.isdigit() or int(value) > cores}
    if wrong:
        shown = ", ".join(f"{name}={value}" for name, value in wrong.items())
        yield Finding(
            name="threads",
            state="warning",
            found=f"{shown} on {cores} cores",
            mend="unset it: threads are measured",
        )


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that the control group allows; None without a limit."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()[:2]
        else:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return float(quota) / float(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None


def cpu_flags() -> frozenset[str]:
    """Names of the processor's features as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "").split()
    )


def compiler() -> Iterator[Finding]:
    """A C++ compiler, for the compiled executor."""
    if "torch" not in installed():
        return
    asked = os.environ.get("CXX")
    found = next((path for name in ((asked,) if asked else COMPILERS) if (path := shutil.which(name))), None)
    if found is None:
        yield Finding(
            name="C++ compiler", state="warning", found=f"none ({asked or ', '.join(COMPILERS)}): updates run eagerly",
            mend="apt-get install g++",
        )  # fmt: skip
    else:
        yield Finding(name="C++ compiler", state="ok", found=found)


def drawing() -> Iterator[Finding]:
    """Whether pictures can be made, for `slipway play`, reports and videos."""
    if "mujoco" not in installed():
        return
    try:
        from agent.rendering import backend

        made = backend()
    except RenderingError as error:
        said, _, mend = str(error).rpartition(": ")
        yield Finding(name="drawing", state="warning", found=said, mend=mend)
    except Exception as error:  # noqa: BLE001  # a broken simulator must not end the examination
        yield Finding(
            name="drawing", state="problem", found=f"the simulator cannot be imported: {error}"[:160],
            mend="pip install --force-reinstall mujoco gymnasium gymnasium-robotics",
        )  # fmt: skip
    else:
        yield Finding(name="drawing", state="ok", found=f"{made.name}, {made.renderer}")


# --- the disk ---------------------------------------------------------------------------------------------------------


def disk(folder: Path) -> Iterator[Finding]:
    """File system, space and the cost of an fsync under `folder`."""
    if not os.access(folder, os.W_OK):
        yield Finding(
            name="folder",
            state="problem",
            found=f"{folder.resolve()} cannot be written to",
            mend="choose another --folder",
        )
        return
    yield judge_filesystem(filesystem_of(folder.resolve(), Path("/proc/self/mountinfo").read_text()))
    yield judge_space(shutil.disk_usage(folder).free / 1e9)
    yield judge_fsync(fsync_milliseconds(folder))


def filesystem_of(path: Path, mounts: str) -> str:
    """Type of the file system that holds an absolute path, from the text of /proc/self/mountinfo."""
    longest, kind = -1, "unknown"
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        place = Path(left.split()[4].replace("\\040", " "))
        if path.is_relative_to(place) and len(place.parts) >= longest:
            longest, kind = len(place.parts), right.split()[0]
    return kind


def judge_filesystem(kind: str) -> Finding:
    """Stores need mapping, locks and renames as a local file system gives them."""
    if kind.startswith(NETWORK):
        return Finding(
            name="file system", state="problem", found=f"{kind}: over a network, locks and mapped reads are not safe",
            mend="keep stores and runs on a local disk; copy them away when closed, e.g. with `slipway replay compact`",
        )  # fmt: skip
    if kind in VOLATILE:
        return Finding(
            name="file system", state="warning", found=f"{kind}: gone at the next start of the machine",
            mend="keep what matters on a disk",
        )  # fmt: skip
    return Finding(name="file system", state="ok", found=kind)


def judge_space(free_gb: float) -> Finding:
    """A million steps take about 0.1 GB, a full disk pauses a run."""
    found = f"{free_gb:.1f} GB free"
    if free_gb >= LITTLE_SPACE_GB:
        return Finding(name="space", state="ok", found=found)
    state: State = "problem" if free_gb < NO_SPACE_GB else "warning"
    return Finding(
        name="space", state=state, found=found, mend="free some, or bound what runs keep (see docs/store.md)"
    )


def judge_fsync(milliseconds: float) -> Finding:
    """Every durable commit and checkpoint waits for the disk."""
    found = f"{milliseconds:.2f} ms for 4 KiB, median"
    if milliseconds <= SLOW_FSYNC_MS:
        return Finding(name="fsync", state="ok", found=found)
    return Finding(
        name="fsync", state="warning", found=found,
        mend="a slow disk: commits at --online.durability block wait for it each time, `interval` four times a second",
    )  # fmt: skip


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
