"""What is shipped: every file in the wheel, a device installation that is small and works, files to deploy it with."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

from agent.cli import VERBS, parse
from tests.integration.command import ROOT, SLIPWAY
from tests.integration.conftest import Made

PACKAGES = ("agent", "envs", "replay", "export")
DEVICE_MEGABYTES = 250


def tracked(*folders: str) -> list[str]:
    """Files of the checkout that belong to it, git's and new ones; the test needs a checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the source is not known")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).exists()]


def test_every_file_of_the_packages_is_declared_for_the_wheel() -> None:
    """A preset, a template or a sub-package that is forgotten here is missing only at the user's."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = set(find_packages(str(ROOT), include=settings["packages"]["find"]["include"]))
    patterns = settings["package-data"]["*"]
    for name in tracked(*PACKAGES):
        folder, _, file = name.rpartition("/")
        assert folder.replace("/", ".") in packages, f"{name} is in no package: {folder}/__init__.py is missing"
        assert file.endswith(".py") or any(fnmatch.fnmatch(file, pattern) for pattern in patterns), name
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(tracked(*PACKAGES))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, built from a copy of the checkout; needs a package registry."""
    folder = tmp_path_factory.mktemp("package")
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "dist"


@pytest.mark.full
def test_wheel_and_sdist_hold_every_file(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    wanted = set(tracked(*PACKAGES))
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted, f"missing: {sorted(wanted - held)}, too many: {sorted(held - wanted)}"
    with tarfile.open(sdist) as tar:
        shipped = {name.partition("/")[2] for name in tar.getnames()}
    assert not (missing := {*wanted, *tracked("docs", "tests", "deploy", "examples")} - shipped), sorted(missing)


@pytest.mark.full
def test_a_device_installed_from_the_wheel_is_small_and_flies(built: Path, bundle: Made, tmp_path: Path) -> None:
    """In a clean environment: no torch, no simulator; the policy is verified, drives a robot and is recorded."""
    # Nothing of this checkout or environment on the import path.
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, env=variables)
    (wheel,) = built.glob("*.whl")
    pip = [str(tmp_path / "venv" / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, env=variables)
    size = sum(file.lstat().st_blocks * 512 for file in (tmp_path / "venv").rglob("*")) / 1e6
    assert size < DEVICE_MEGABYTES, f"{size:.0f} MB, pip included"
    shutil.copytree(ROOT / "examples", tmp_path / "examples")

    def slipway(*arguments: object) -> dict[str, object]:
        command = [str(tmp_path / "venv" / "bin" / "slipway"), *map(str, arguments), "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        record: dict[str, object] = json.loads(done.stdout)
        return record

    slipway("verify", bundle.path)
    report = slipway(
        "deploy", bundle.path, "--robot", "examples.my_robot:make_robot", "--rate", 50, "--steps", 60,
        "--record", "flights.zarr",
    )  # fmt: skip
    assert (report["state"], report["steps"]) == ("OK", 60)
    assert slipway("replay", "info", "flights.zarr")["steps"] == report["recorded"]
    assert slipway("doctor")["healthy"] is True
    listing = [pip[0], "list", "--format", "json"]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True, env=variables).stdout
    names = {package["name"] for package in json.loads(listed)}
    assert not names & {"torch", "mujoco", "gymnasium", "onnx", "h5py"}
    print(f"device installation: {size:.0f} MB")


# --- files to deploy with ---------------------------------------------------------------------------------------------


def commands(text: str) -> list[list[str]]:
    """Arguments of the `slipway` commands in a systemd unit."""
    lines = [line.partition("=")[2] for line in text.splitlines() if line.startswith("Exec")]
    return [shlex.split(line)[1:] for line in lines]


def test_the_service_s_commands_are_ones_that_slipway_takes() -> None:
    import importlib

    found = commands((ROOT / "deploy" / "slipway-device.service").read_text())
    assert [arguments[0] for arguments in found] == ["verify", "deploy"]
    for verb, *rest in found:
        parse(importlib.import_module(VERBS[verb][0]), verb, rest)


def test_the_service_lets_the_watchdog_outlive_the_loop() -> None:
    lines = (ROOT / "deploy" / "slipway-device.service").read_text().splitlines()
    assert "KillMode=process" in lines  # "mixed" and "control-group" kill every process once the main one has died
    priority = next(int(line.partition("=")[2]) for line in lines if line.startswith("CPUSchedulingPriority="))
    assert f"LimitRTPRIO={priority + 1}" in lines


def test_systemd_accepts_the_service(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (ROOT / "deploy" / "slipway-device.service").read_text()
    # It wants the executables to exist.
    unit = tmp_path / "slipway-device.service"
    unit.write_text(text.replace("/opt/slipway/.venv/bin/slipway", str(SLIPWAY)))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["device", "trainer"])
def test_a_dockerfile_s_extras_and_copies_exist(name: str) -> None:
    """Not a build: the machines that test this have no Docker daemon."""
    text = (ROOT / "deploy" / f"{name}.Dockerfile").read_text()
    instructions = [line.split()[0] for line in re.sub(r"\\\n", " ", text).splitlines() if line and line[0] not in "# "]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ARG", "USER", "ENV", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert set(instructions) <= known
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"\.whl\)\[(\w+)\]", text)) <= settings["optional-dependencies"].keys()
    torch = next(each for each in settings["optional-dependencies"]["train"] if each.startswith("torch"))
    assert (torch in text) == (name == "trainer"), "the Dockerfile pins another torch than the extra"
    verbs = re.findall(r"^#\s+(verify|deploy|train|doctor) ", text, re.MULTILINE)
    assert verbs
    assert set(verbs) <= set(VERBS)
