"""`slipway doctor` finds a fault that is really there: the tests cause each and read what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.doctor import packages
from agent.machine import cpu_quota, filesystem_of, judge_filesystem, judge_fsync, judge_space
from agent.shadowing import hidden, lurking
from tests.integration.command import ROOT, environment


def doctor(folder: Path, *arguments: str, **variables: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the checks that are not ok by name, of the real command run in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "doctor", "--json", *arguments], cwd=ROOT, text=True, capture_output=True,
        env=environment({"PYTHONPATH": str(folder), **variables}), timeout=240, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    record = json.loads(done.stdout)
    assert record["healthy"] == (done.returncode == 0)
    odd = {check["name"]: check for check in record["checks"] if check["state"] != "ok"}
    assert all(check["mend"] for check in odd.values())
    return done.returncode, odd


def distribution(folder: Path, name: str, version: str) -> None:
    """As if `name` were installed in this version, before any other."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("")


def module(folder: Path, name: str, text: str) -> None:
    """An importable package."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)


def test_a_foreign_package_beside_an_editable_installation_is_found(tmp_path: Path) -> None:
    module(tmp_path, "replay", "")
    script = "from agent.shadowing import hidden; print(hidden())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True, check=True,
        env=environment({"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}),
    )  # fmt: skip
    assert done.stdout.strip() == str([("replay", str(tmp_path / "replay" / "__init__.py"))])


def test_old_and_broken_packages_no_compiler_and_no_opengl_are_found(tmp_path: Path) -> None:
    """All at once, for each examination takes seconds; none of them hides another."""
    distribution(tmp_path, "onnxruntime", "1.10.0")
    distribution(tmp_path, "zarr", "2.18.0")
    module(tmp_path, "torch", "raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    module(tmp_path, "OpenGL", "raise ImportError('Unable to load EGL library')")
    code, odd = doctor(tmp_path, CXX="no-such-compiler")
    assert code == 2
    assert odd["onnxruntime"]["state"] == "problem"
    assert "1.10.0" in odd["onnxruntime"]["found"]
    assert "pip install 'onnxruntime>=1.17'" in odd["onnxruntime"]["mend"]
    assert "2.18.0" in odd["zarr"]["found"]
    assert "libtorch_cpu.so" in odd["torch"]["found"]
    assert odd["torch"]["state"] == "problem"
    assert odd["C++ compiler"]["state"] == "warning"
    assert "apt-get install g++" in odd["C++ compiler"]["mend"]
    assert odd["drawing"]["state"] == "warning"
    assert "EGL" in odd["drawing"]["found"]
    assert "apt-get install libegl1" in odd["drawing"]["mend"]


def test_a_second_owner_of_our_names_is_found(tmp_path: Path) -> None:
    distribution(tmp_path, "other-replay", "1.0")
    (tmp_path / "other-replay-1.0.dist-info" / "top_level.txt").write_text("replay\n")
    code, odd = doctor(tmp_path)
    assert code == 2
    assert "other-replay also installs `replay`" in odd["import names"]["found"]
    assert "virtual environment" in odd["import names"]["mend"]


@pytest.mark.parametrize("verb", ["doctor", "verify"])
def test_a_package_that_hides_ours_is_named_in_one_line(verb: str, tmp_path: Path) -> None:
    """Not even the command itself can start then; it must not end in a traceback."""
    module(tmp_path, "replay", "")
    # As where the wheel is installed: an editable installation still finds `replay.errors` beside a foreign `replay`.
    script = (
        "import sys; sys.meta_path = [each for each in sys.meta_path if '__editable__' not in repr(each)]\n"
        "from agent.cli import entry; entry()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, verb, "x"], cwd=tmp_path, text=True,
        env=environment({"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"another 'replay' ({tmp_path / 'replay' / '__init__.py'}) hides Slipway's own" in done.stderr


def test_our_names_are_our_own_here_and_strangers_in_a_folder_are_seen(tmp_path: Path) -> None:
    assert hidden() == []
    assert lurking(ROOT) == lurking(tmp_path) == []
    (tmp_path / "replay.py").write_text("")
    module(tmp_path, "envs", "")
    assert lurking(tmp_path) == [tmp_path / "envs" / "__init__.py", tmp_path / "replay.py"]


def test_versions_are_compared_as_pip_does() -> None:
    required = ["numpy>=1.26", "zarr<4,>=3.1", 'torch<2.14,>=2.8; extra == "train"', 'ray>=2.30; extra == "ray"']
    said = {each.name: each for each in packages({"numpy": "2.0.0rc1", "zarr": "3.1.6", "torch": "2.14.0"}, required)}
    assert said["torch"].state == "problem"
    assert "ray" not in said, "an extra that is not installed is no fault"
    assert said["packages"].found == "numpy 2.0.0rc1, zarr 3.1.6"
    (missing,) = packages({}, ["numpy>=1.26"])
    assert (missing.state, missing.found) == ("problem", "not installed")


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /mnt/share rw - nfs4 server:/export rw
24 23 0:22 / /mnt/share/local rw - xfs /dev/vdb rw
25 22 0:23 / /dev/shm rw - tmpfs tmpfs rw
26 22 0:24 / /mnt/my\\040share rw - cifs //server/x rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "state"),
    [
        ("/home/me", "ext4", "ok"),
        ("/mnt/share/runs", "nfs4", "problem"),
        ("/mnt/share/local/runs", "xfs", "ok"),
        ("/mnt/shared", "ext4", "ok"),
        ("/mnt/my share/x", "cifs", "problem"),
        ("/dev/shm/x", "tmpfs", "warning"),
    ],
)
def test_the_file_system_is_that_of_the_deepest_mount(path: str, kind: str, state: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == kind
    assert judge_filesystem(kind).state == state


def test_a_real_tmpfs_is_told_from_a_disk(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    assert filesystem_of(Path("/dev/shm"), mounts) == "tmpfs"
    assert filesystem_of(Path("/proc/self"), mounts) == "proc"


def test_slow_disks_and_full_ones_are_told() -> None:
    assert [judge_fsync(ms).state for ms in (0.4, 19.0, 35.0)] == ["ok", "ok", "warning"]
    assert [judge_space(gb).state for gb in (50.0, 2.0, 0.1)] == ["ok", "warning", "problem"]


def test_a_container_s_share_of_the_cores_is_read(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path) is None


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    from agent.commands.doctor import Args, run
    from agent.errors import ConfigError

    with pytest.raises(ConfigError, match="is no folder"):
        run(Args(folder=tmp_path / "absent"))
