"""Checkpoints are whole or not there: killed at any line, truncated or with any bit flipped, an older one stands in."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from agent import checkpoint
from agent.errors import CheckpointError


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "weights": torch.randn(3, 4, generator=generator),
        "step": torch.tensor(float(step)),
        "generator": generator.get_state(),
    }


def save(folder: Path, step: int, *, keep: int = 3) -> Path:
    return checkpoint.save(folder, step, tensors_of(step), {"step": step, "name": "π", "none": None}, keep=keep)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints: 100, 200, 300."""
    for step in (100, 200, 300):
        save(tmp_path / "checkpoints", step)
    return tmp_path / "checkpoints"


def load_latest(folder: Path) -> tuple[Any, list[str]]:
    said: list[str] = []
    found = checkpoint.load_latest(folder, on_fallback=said.append)
    return found.state["step"] if found else None, said


def test_what_was_saved_comes_back_exactly(tmp_path: Path) -> None:
    found = checkpoint.load(save(tmp_path, 1234))
    assert found.name == "000001234"
    assert found.state == {"step": 1234, "name": "π", "none": None}
    expected = tensors_of(1234)
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path) == (None, [])
    assert load_latest(tmp_path / "not there") == (None, [])


def test_the_newest_few_are_kept_and_latest_names_the_newest(folder: Path) -> None:
    save(folder, 400, keep=2)
    assert [path.name for path in checkpoint.complete(folder)] == ["000000300", "000000400"]
    assert (folder / "LATEST").read_text() == "000000400"
    assert load_latest(folder) == (400, [])


def test_a_writer_killed_at_any_line_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.agent.kill_while_saving", str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    deaths = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(deaths) > 60
    assert {death["at"].split(":")[0] for death in deaths} == {"checkpoint.py", "files.py", "shutil.py"}
    assert {death["found"] for death in deaths} == {200, 300}
    # Before the rename the old one, after it the new one, never back.
    assert [death["found"] for death in deaths] == sorted(death["found"] for death in deaths)
    for death in deaths:
        assert death["fallbacks"] == [], death
        assert int(death["latest"]) in (200, death["found"]), death
        # The next save mends whatever the dead one left: same content, LATEST moved, two kept, no scraps of folders.
        assert death["again"] == 300, death
        assert death["latest_again"] == "000000300", death
        assert death["folders"] == ["000000200", "000000300"], death


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "flipped"])
def test_a_damaged_newest_falls_back_by_one_and_says_which_file(folder: Path, name: str, damage: str) -> None:
    path = folder / "000000300" / name
    data = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    else:
        data[len(data) // 2] ^= 16
        path.write_bytes({"truncated": data[:-1], "emptied": b"", "flipped": data}[damage])
    found, said = load_latest(folder)
    assert found == 200
    assert len(said) == 1
    assert str(path.parent) in said[0]
    assert name in said[0]
    assert "\n" not in said[0]


def test_no_flipped_bit_passes(folder: Path) -> None:
    newest = folder / "000000300"
    for path in sorted(newest.iterdir()):
        sound = path.read_bytes()
        for bit in range(0, 8 * len(sound), 5 if path.name == "manifest.json" else 331):
            flipped = bytearray(sound)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError):
                checkpoint.load(newest)
        path.write_bytes(sound)
    assert checkpoint.load(newest).state["step"] == 300


def test_when_all_are_corrupt_there_is_one_clear_error(folder: Path) -> None:
    for path in folder.glob("*/state.json"):
        path.write_bytes(b"{}")
    said: list[str] = []
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be loaded .*000000300.*restore") as raised:
        checkpoint.load_latest(folder, on_fallback=said.append)
    assert "\n" not in str(raised.value)
    assert len(said) == 3


def test_a_corrupt_checkpoint_of_the_same_step_is_replaced(folder: Path) -> None:
    (folder / "000000300" / "state.json").write_bytes(b"{}")
    save(folder, 300)
    assert load_latest(folder) == (300, [])


def test_a_sound_checkpoint_of_the_same_step_is_left_as_it_is(folder: Path) -> None:
    before = (folder / "000000300" / "manifest.json").stat().st_ino
    save(folder, 300)
    assert (folder / "000000300" / "manifest.json").stat().st_ino == before


def test_what_was_just_saved_is_never_pruned_in_favour_of_corrupt_newer_ones(folder: Path) -> None:
    for step in (200, 300):
        (folder / f"{step:09d}" / "state.json").write_bytes(b"{}")
    save(folder, 150, keep=2)
    assert load_latest(folder)[0] == 150
    assert (folder / "LATEST").read_text() == "000000150"


def test_a_full_disk_leaves_the_checkpoints_before_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(folder, 400)
    monkeypatch.undo()
    assert load_latest(folder) == (300, [])
    save(folder, 400)
    assert load_latest(folder) == (400, [])
    assert not list(folder.glob(".tmp-*"))


def test_another_format_is_refused_by_name(folder: Path) -> None:
    path = folder / "000000300" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "slipway.checkpoint/9"}))
    with pytest.raises(CheckpointError, match=r"slipway\.checkpoint/1"):
        checkpoint.load(folder / "000000300")


# --- nothing in a checkpoint is executed ------------------------------------------------------------------------------


def test_saving_and_loading_use_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("pickle was used")

    for module, names in (
        (pickle, ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")),
        (torch, ("save", "load")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    assert checkpoint.load(save(tmp_path, 1)).state["step"] == 1


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_in_place_of_the_tensors_is_refused_not_executed(folder: Path, tmp_path: Path) -> None:
    import hashlib

    newest, trace = folder / "000000300", tmp_path / "exploded"
    payload = pickle.dumps(Bomb(trace))
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["tensors.safetensors"] = hashlib.sha256(payload).hexdigest()
    (newest / "tensors.safetensors").write_bytes(payload)
    (newest / "manifest.json").write_text(json.dumps(manifest))
    found, said = load_latest(folder)
    assert found == 200
    assert len(said) == 1
    assert not trace.exists()
    pickle.loads(payload)
    assert trace.exists()  # the bomb is a real one


def test_folders_of_others_are_neither_loaded_nor_removed(folder: Path) -> None:
    (folder / "notes").mkdir()
    shutil.copytree(folder / "000000300", folder / ".tmp-000000999-1")
    save(folder, 400, keep=2)
    assert (folder / "notes").is_dir()
    assert load_latest(folder) == (400, [])
