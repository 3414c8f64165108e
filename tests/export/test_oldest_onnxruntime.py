"""Bundles open in the oldest onnxruntime that pyproject.toml admits, with every variant."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from export.verify import verify
print(json.dumps(verify(sys.argv[1])))
"""


@pytest.mark.full
def test_a_bundle_verifies_in_the_oldest_onnxruntime(pristine_whole: Path, other_bundle: Path, tmp_path: Path) -> None:
    found = re.search(r'"onnxruntime>=(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert found
    floor = found[1]
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:"]
    done = subprocess.run([*install, f"onnxruntime=={floor}.*", "numpy<2"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"onnxruntime {floor} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    for bundle in (pristine_whole, other_bundle):
        verified = subprocess.run(
            [str(python), "-c", SCRIPT, str(bundle)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert verified.returncode == 0, verified.stderr
        report = json.loads(verified.stdout)
        assert report["onnxruntime"].startswith(f"{floor}.")
        assert all(golden["share_of_tolerance"] <= 1.0 for golden in report["variants"].values())
