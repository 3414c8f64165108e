"""The benchmarks' common parts: turns, medians, the peers' line protocol and environments, the rows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.measure import Process, Results, interleave, machine

PEER = """
import time
from benchmarks.serving import serve
print("a library that prints")
def call():
    print("in a call")
    time.sleep(0.002)
serve(call, rows=7)
"""


def test_contenders_take_turns() -> None:
    order: list[str] = []
    interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, budget_s=1e-9, most=1)
    assert order[-10:] == ["a", "b"] * 5


def test_the_median_is_the_time_of_one_call() -> None:
    seconds = interleave({"slow": lambda: time.sleep(0.004), "fast": lambda: None}, budget_s=0.02)
    assert 0.004 <= seconds["slow"] < 0.03 and seconds["fast"] < 0.0005


def test_fewer_than_five_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        interleave({"a": lambda: None}, rounds=4)


def test_a_process_times_its_own_calls_though_it_prints() -> None:
    with Process([sys.executable, "-c", PEER]) as peer:
        assert peer.about["rows"] == 7
        assert 0.01 <= peer.time_calls(5) < 1.0


def test_a_process_that_dies_is_named() -> None:
    with pytest.raises(RuntimeError, match="ended with status 3"):
        Process([sys.executable, "-c", "raise SystemExit(3)"])


def test_results_hold_ratio_peer_and_machine(tmp_path: Path) -> None:
    results = Results(machine(["numpy"], {"peer": "1.0"}))
    assert results.compare("a_vs_b", 3.0, 2.0, "rows/s", "b") == 1.5
    results.write(tmp_path / "r.json")
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["rows"] == [
        {"name": "a_vs_b", "value": 3.0, "unit": "rows/s", "against": "b", "peer": 2.0, "ratio": 1.5}
    ]
    assert record["machine"]["peer"] == "1.0" and record["machine"]["cores"] >= 1


@pytest.mark.full
def test_an_environment_is_made_once_and_a_failed_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "CACHE", tmp_path / "peers")
    # A package that pip makes from a folder: needs no network and no build tools beyond pip's own.
    wheel = tmp_path / "tiny_peer-1.0-py3-none-any.whl"
    make = (
        "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1], 'w')\n"
        "z.writestr('tiny_peer.py', 'x = 1')\n"
        "z.writestr('tiny_peer-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: tiny-peer\\nVersion: 1.0\\n')\n"
        "z.writestr('tiny_peer-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nTag: py3-none-any\\n')\n"
        "z.writestr('tiny_peer-1.0.dist-info/RECORD', '')\n"
    )
    subprocess.run([sys.executable, "-c", make, wheel], check=True)
    python = peers.peer_python("tiny", [str(wheel)])
    assert (
        subprocess.run([python, "-c", "import tiny_peer; raise SystemExit(tiny_peer.x)"], check=False).returncode == 1
    )
    assert peers.peer_versions(python, ["tiny-peer"]) == {"tiny-peer": "1.0"}
    assert "installing tiny" in capsys.readouterr().err
    assert peers.peer_python("tiny", [str(wheel)]) == python and capsys.readouterr().err == ""
    with pytest.raises(RuntimeError, match="cannot install the peer broken"):
        peers.peer_python("broken", [str(tmp_path / "absent.whl")])
    assert not list((tmp_path / "peers").glob("broken-*"))
