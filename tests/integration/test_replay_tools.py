"""`slipway replay`: the actions on a store, as a person and as a program calls them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from agent.commands.replay import ACTIONS
from replay import Store
from tests.integration.command import one_object, outcome, refusal, run, run_here, succeed
from tests.replay import formula


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability="process") as writer:
        for head in formula.append_forever(writer):
            if head > 600:
                break
    return store


@pytest.mark.parametrize("action", ACTIONS)
def test_help_explains_an_action_by_an_example(action: str, tmp_path: Path) -> None:
    said = succeed("replay", action, "--help", cwd=tmp_path)
    examples = re.findall(rf"^ +slipway replay {action} (\S+)", said, re.MULTILINE)
    assert examples
    assert all(store.endswith(".zarr") for store in examples), "a store is a run's replay.zarr"


def test_evict_says_what_went_and_what_stayed(store: Store, tmp_path: Path) -> None:
    rows = store.num_rows
    said = outcome("replay", "evict", "s.zarr", "--keep-steps", 200, cwd=tmp_path)["streams"]["a"]
    assert said["evicted_rows"] + said["rows"] == rows
    assert store.num_rows == said["rows"] < rows
    with store.writer("a"):
        assert "already has a writer" in refusal("replay", "evict", "s.zarr", "--keep-steps", 1, cwd=tmp_path)
    assert "--keep-steps or --keep-bytes" in refusal("replay", "evict", "s.zarr", cwd=tmp_path)


def test_verify_exits_0_for_a_sound_store_and_2_with_findings(store: Store, tmp_path: Path) -> None:
    assert outcome("replay", "verify", "s.zarr", cwd=tmp_path)["sound"] is True
    file = store.path / "streams" / "a" / "rows" / "c" / "1" / "0"
    data = bytearray(file.read_bytes())
    data[77] ^= 1
    file.write_bytes(data)
    done = run("replay", "verify", "s.zarr", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    finding = one_object(done.stdout)["findings"][0]
    assert (finding["stream"], finding["first_row"], finding["stop_row"]) == ("a", 128, 256)
    done = run("replay", "verify", "s.zarr", cwd=tmp_path)
    assert "rows 128 to 256 of stream 'a'" in " ".join(done.stdout.split())


def test_export_minari_says_what_it_wrote(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("minari")
    said = outcome("replay", "export-minari", "s.zarr", "--dataset-id", "x/y-v0", "--out", "out", cwd=tmp_path)
    assert said["steps"] == store.num_steps
    assert Path(tmp_path / said["path"]).is_dir()


def test_repair_says_what_it_did_and_where_the_evidence_is(store: Store, tmp_path: Path) -> None:
    (store.path / "streams" / "a" / "rows" / "zarr.json").write_text("{")
    said = outcome("replay", "repair", "s.zarr", cwd=tmp_path)
    assert (said["sound"], said["lost_rows"], len(said["actions"])) == (True, 0, 1)
    assert (tmp_path / said["evidence"] / "streams" / "a" / "rows" / "zarr.json").read_text() == "{"
    assert "sound; 0 rows lost" in succeed("replay", "repair", "s.zarr", cwd=tmp_path)


def test_an_archive_is_a_store_to_the_other_verbs(store: Store, tmp_path: Path) -> None:
    said = outcome("replay", "compact", "s.zarr", "--out", "a.zarr", cwd=tmp_path)
    assert (said["rows"], said["streams"]) == (store.num_rows, 1)
    assert min(said["bytes"], said["store_bytes"]) > 0
    info = outcome("replay", "info", "a.zarr", cwd=tmp_path, extra={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert (info["rows"], info["steps"]) == (store.num_rows, store.num_steps)
    assert "exists already" in refusal("replay", "compact", "s.zarr", "--out", "a.zarr", cwd=tmp_path)


def test_one_of_a_thing_is_singular(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "one.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability="process") as writer:
        zeros = np.zeros((2, formula.OBSERVATION)), np.zeros((1, formula.ACTION)), np.zeros(1)
        writer.append_episode(*zeros, terminated=True, truncated=False)
    assert "one.zarr: sound; 2 rows in 1 stream, " in run_here("replay", "verify", "one.zarr", cwd=tmp_path).stdout
    said = run_here("ingest", "one.zarr", "--out", "copy.zarr", "--terminate-on", "none", cwd=tmp_path).stdout
    assert said == "copy.zarr: ingested 1 step, 1 episode\n"
