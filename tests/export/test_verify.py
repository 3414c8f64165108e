"""A device verifies and runs a policy with neither torch nor onnx."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.errors import ExportError
from export.policy import write_policy
from export.verify import verify

DEVICE = """
import json, sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript", "gymnasium", "zarr"):
            raise ImportError(f"{name} must not be imported on the device")

sys.meta_path.insert(0, Forbid())
import numpy as np
import export
import export.bundle, export.matching
from export.verify import verify
from export.control_loop import ControlLoop, Reading
from export.template import Template
import time

class Still:
    def read(self):
        return Reading(observation=np.zeros(17, np.float32), t_mono=time.monotonic())
    def write(self, action):
        assert action.shape == (6,)
    def safe_stop(self):
        pass
    def close(self):
        pass

report = verify(sys.argv[1])
runner = export.PolicyRunner(sys.argv[1])
Template.from_bytes(runner.policy.model)
loop = ControlLoop(Still(), runner, hz=None, max_steps=10)
assert loop.run()["steps"] == 10
assert not {"torch", "onnx", "gymnasium", "zarr"} & sys.modules.keys(), sys.modules.keys()
print(json.dumps(report))
"""


def on_device(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", DEVICE, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_a_bundle_verifies_and_runs_where_torch_cannot_be_imported(pristine_bundle: Path) -> None:
    done = on_device(pristine_bundle)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["checksums"] == report["contract"] == "ok"
    assert report["golden"]["rows"] > 64 and report["golden"]["share_of_tolerance"] < 1.0


def test_a_stochastic_bundle_verifies_with_its_recorded_noise(other_bundle: Path) -> None:
    report = verify(other_bundle)
    assert report["stochastic"] is True and report["golden"]["share_of_tolerance"] < 0.5
    json.dumps(report)


def test_a_bare_policy_verifies_without_golden_outputs(tmp_path: Path, model: bytes) -> None:
    write_policy(tmp_path / "v3.onnx", model)
    report = verify(tmp_path / "v3.onnx")
    assert report["golden"] is None and report["policy_version"] == 7


def test_a_broken_bundle_fails_on_the_device_with_the_reason(pristine_bundle: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(pristine_bundle, tmp_path / "bundle"))
    content = bytearray((broken / "policy.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (broken / "policy.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"policy\.onnx: bytes differ from the checksum"):
        verify(broken)
    done = on_device(broken)
    assert done.returncode != 0 and "policy.onnx: bytes differ from the checksum" in done.stderr
