"""Bad input: one line that names the culprit and the mend, exit code 2, and nothing half-written.

The likeliest forty are in `mistakes.py`; here is what is rarer.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.schema import StoreSpec
from replay.store import Store
from tests.integration.command import outcome, refusal, run
from tests.integration.conftest import ENV, SMALL, Made

MAZE = ("--env", ENV, "--terminate-on", "none")
TRAIN = ("train", "--replay", "data.zarr", "--out", "never")


@pytest.fixture(scope="module")
def here(place: Path, trained: Made, bundle: Made) -> Path:
    """The working directory, with good artefacts to give the bad ones a setting."""
    (place / "notes").mkdir(exist_ok=True)
    (place / "notes" / "shopping.txt").write_text("bread")
    (place / "half").mkdir(exist_ok=True)
    (place / "half" / "demo.json").write_text('{"seed": 0, "data')
    (place / "not_bc.toml").write_text('[algorithm]\nname = "bc"\nexpectile = 0.7\n')
    (place / "no_table.toml").write_text('name = "bc"\n')
    (place / "wrong_type.toml").write_text('pretrain_steps = "many"\n')
    (place / "my_arm.py").write_text("make = 1 / 0\n")
    (place / "broken.toml").write_text("pretrain_steps = = 10\n")
    for name, missing in (("unprepared", "preparation.json"), ("homeless", "env.json"), ("damaged", "")):
        shutil.copytree(place / "run", place / name, ignore=shutil.ignore_patterns("replay.zarr", "v0*", missing))
    (place / "damaged" / "preparation.json").write_text('{"mean": [0]}')
    (place / "other.policy").mkdir()
    (place / "other.policy" / "manifest.json").write_text('{"contract": {"policy_id": "other-1"}}')
    empty = Store.create(place / "empty.zarr", Store.open(place / "data.zarr").spec)
    assert empty.num_steps == 0
    return place


def change(index: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    """A copy with one entry changed."""

    def changed(array: np.ndarray) -> np.ndarray:
        copy = array.copy()
        copy[index] = value
        return copy

    return changed


def write_npz(
    path: Path, *, steps: int = 40, **changes: Callable[[np.ndarray], np.ndarray] | np.ndarray | None
) -> Path:
    """Flat arrays of two episodes that fit the maze, `changes` apart; None leaves an array out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "observations": rng.standard_normal((steps, 8)).astype(np.float32),
        "actions": rng.uniform(-1.0, 1.0, (steps, 2)).astype(np.float32),
        "rewards": np.zeros(steps, np.float32),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.arange(steps) % 20 == 19,
    }
    for name, changed in changes.items():
        if changed is None:
            del arrays[name]
        else:
            arrays[name] = changed(arrays[name]) if callable(changed) else changed
    np.savez(path, **arrays)
    return path


# --- what the command is given --------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "not a number": (("collect", "--env", ENV, "--steps", "many", "--out", "never"), ("--steps", "many")),
    "unknown choice": ((*TRAIN, "--online.durability", "eternal"), ("--online.durability", "eternal", "interval")),
    "unknown preset": ((*TRAIN, "--preset", "pointmase"), ("pointmase", "pointmaze")),
    "wrong type": (("train", "wrong_type.toml", *TRAIN[1:]), ("pretrain_steps", "wrong_type.toml", "'many'", "int")),
    "broken TOML": (("train", "broken.toml", *TRAIN[1:]), ("broken.toml", "line 1")),
    "missing TOML": (("train", "nowhere.toml", *TRAIN[1:]), ("nowhere.toml",)),
    "expectile above 1": ((*TRAIN, "--algorithm.expectile", 1.5), ("algorithm.expectile", "1.5", "(0, 1)")),
    "no learning rate": ((*TRAIN, "--algorithm.learning-rate", "nan"), ("algorithm.learning_rate", "nan")),
    "no steps": (("collect", "--env", ENV, "--steps", 0, "--out", "never"), ("--steps", "0")),
    "no run named": (("train", "--replay", "data.zarr"), ("--out",)),
    "flag without its value": (("train", "--out", "never", "--replay"), ("--replay", "missing value")),
    "preset without its value": ((*TRAIN, "--preset"), ("--preset", "missing value")),
    "algorithm without its name": ((*TRAIN, "--algorithm.name"), ("--algorithm.name", "missing value")),
    "file after the flags": ((*TRAIN, "wrong_type.toml"), ("wrong_type.toml", "first: slipway train CONFIG.toml")),
    "another algorithm's flag": (
        (*TRAIN, "--algorithm.name", "bc", "--algorithm.expectile", 0.7), ("--algorithm.expectile", "bc", "iql"),
    ),
    "another algorithm's key": (("train", "not_bc.toml", *TRAIN[1:]), ("not_bc.toml", "expectile", "bc", "iql")),
    "key outside its table": (("train", "no_table.toml", *TRAIN[1:]), ("no_table.toml", "'name'", "[algorithm]")),
    "width beyond any machine": ((*TRAIN, "--algorithm.hidden", 99999999999), ("algorithm.hidden", "65,536")),
    "batch beyond any machine": ((*TRAIN, "--algorithm.batch-size", 9999999999), ("batch_size", "16,777,216")),
    "threads beyond any machine": ((*TRAIN, "--threads", 9999999), ("threads", "0 to 1,024")),
    "critics beyond any machine": ((*TRAIN, "--algorithm.critics", 99999), ("algorithm.critics", "1 to 1,024")),
    "pretrain of no step": (("pretrain", *TRAIN[1:], "--pretrain-steps", 0), ("--pretrain-steps", "1 or more")),
    "pretrain of what cannot": (
        ("pretrain", *TRAIN[1:], "--algorithm.name", "sac"), ("sac", "slipway train", "--online-steps"),
    ),
    "pretrain with online steps": (("pretrain", *TRAIN[1:], "--online-steps", 900), ("--online-steps", "finetune")),
    "unknown environment": (
        ("collect", "--env", "PointMaze_UMazee-v3", "--steps", 5, "--out", "never"),
        ("PointMaze_UMazee-v3", "did you mean", ENV),
    ),
    "unknown environment to train in": ((*TRAIN, "--env", "PointMaz-v3"), ("PointMaz-v3", "did you mean")),
    "environment of no name": (("collect", "--env", "", "--steps", 5, "--out", "never"), ("is empty", "Hopper-v5")),
    "environment whose module fails": ((*TRAIN, "--env", "my_arm:Arm-v0"), ("'my_arm'", "ZeroDivisionError")),
    "negative seed to collect": (
        ("collect", "--env", ENV, "--steps", 5, "--seed", -1, "--out", "never"), ("seed is -1 but must be 0 or more",),
    ),
    "negative seed to train": ((*TRAIN, "--seed", -1), ("seed is -1 but must be 0 or more",)),
    "negative seed to eval": (("eval", "maze.policy", "--seed", -1), ("seed is -1 but must be 0 or more",)),
    "negative seed to deploy": (("deploy", "maze.policy", "--seed", -1), ("seed is -1 but must be 0 or more",)),
    "negative seed to play": (("play", "maze.policy", "--seed", -1), ("seed is -1 but must be 0 or more",)),
    "negative seed to demo": (("demo", "--out", "never", "--seed", -1), ("seed is -1 but must be 0 or more",)),
    "negative steps": (("deploy", "maze.policy", "--steps", -1), ("--steps is -1 but must be 0 or more",)),
    "negative episodes": (("deploy", "maze.policy", "--episodes", -1), ("--episodes is -1 but must be 0 or more",)),
    "timeout of no watchdog": (
        ("deploy", "maze.policy", "--watchdog-timeout", 0.1), ("--watchdog-timeout needs --watchdog",),
    ),
    "stop of no watchdog": (
        ("deploy", "maze.policy", "--robot", "a:b", "--rate", 50, "--watchdog-stop", "a:c"),
        ("--watchdog-stop needs --watchdog",),
    ),
    "environment of no module": (
        ("collect", "--env", "no_such_module:Env-v0", "--steps", 5, "--out", "never"), ("no_such_module",),
    ),
    "policy for another task": (
        ("collect", "--env", "AdroitHandDoor-v1", "--policy", "maze.policy", "--steps", 5, "--out", "never"),
        ("AdroitHandDoor-v1", "another layout", "--env"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_bad_argument_is_named_with_its_mend(name: str, here: Path) -> None:
    arguments, words = ARGUMENTS[name]
    line = refusal(*arguments, cwd=here)
    assert not [word for word in words if word not in line], line


# --- what is already there ------------------------------------------------------------------------------------------

PLACES: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "missing store": (("train", "--replay", "nowhere.zarr", "--out", "never"), ("nowhere.zarr", "slipway ingest")),
    "folder for a store": (("train", "--replay", "notes", "--out", "never"), ("notes", "slipway ingest")),
    "empty store": (("train", "--replay", "empty.zarr", "--out", "never"), ("empty.zarr", "no transition", "collect")),
    "store of another task": (
        (*TRAIN, "--env", "AdroitHandDoor-v1"), ("data.zarr", "AdroitHandDoor-v1", "39", "28", "--env"),
    ),
    "file for a run": (("train", "--replay", "data.zarr", "--out", "broken.toml"), ("broken.toml", "another --out")),
    "ingest over another store": (("ingest", "data.zarr", "--out", "log.zarr"), ("log.zarr", "another output")),
    "ingest over a folder": (("ingest", "log.zarr", "--out", "notes"), ("notes", "another output")),
    "ingest of a folder": (("ingest", "notes", "--out", "never"), ("notes", "shopping.txt", "Minari")),
    "ingest of a folder of stores": (("ingest", ".", "--out", "never"), ("holds", "stores; give one")),
    "ingest of nothing": (("ingest", "", "--out", "never"), ("the source is empty",)),
    "ingest into nothing": (("ingest", "log.zarr", "--out", ""), ("the output is empty",)),
    "time limit below one step": (
        ("ingest", "log.zarr", "--out", "never", "--max-episode-steps", -5), ("is -5 steps", "--max-episode-steps"),
    ),
    "no time limit": (("ingest", "log.zarr", "--out", "never", "--max-episode-steps", 0), ("is 0 steps",)),
    "ingest for another task": (
        ("ingest", "log.zarr", "--out", "never", "--env", "Pendulum-v1"),
        ("log.zarr", "observations has 8 columns but environment Pendulum-v1 has 3"),
    ),
    "ingest of a text": (("ingest", "broken.toml", "--out", "never"), ("broken.toml", "no known kind")),
    "unknown dataset": (
        ("ingest", "D4RL/dor/human-v2", "--out", "never"), ("D4RL/dor/human-v2", "MINARI_DATASETS_PATH"),
    ),
    "finetune of no run": (("finetune", "notes", "--online-steps", 900), ("notes", "slipway train")),
    "finetune of nothing": (("finetune", "nowhere", "--online-steps", 900), ("nowhere", "slipway train")),
    "finetune into warm-up": (("finetune", "run", "--online-steps", 100), ("100", "give more than ")),
    "status of no run": (("status", "notes"), ("notes", "slipway train")),
    "report of no run": (("report", "notes"), ("notes", "slipway train")),
    "report into a folder": (("report", "run", "--out", "."), ("--out . is a folder", "name a file")),
    "report on several into a folder": (("report", "run", "run", "--out", "."), ("--out . is a folder", "name a file")),
    "page of a store into a folder": (("replay", "info", "data.zarr", "--html", "."), ("--html . is a folder",)),
    "page of a store into no folder": (
        ("replay", "info", "data.zarr", "--html", "never/page.html"), ("there is no folder never", "another --html"),
    ),
    "demo into a file": (("demo", "--out", "broken.toml"), ("broken.toml exists and holds no demo", "another --out")),
    "demo below a file": (("demo", "--out", "broken.toml/demo"), ("cannot be made (Not a directory)", "another --out")),
    "demo of a damaged record": (("demo", "--out", "half"), ("half/demo.json cannot be read", "another --out")),
    "comparison below a file": (
        ("compare", "--replay", "data.zarr", "--out", "broken.toml/here"),
        ("--out broken.toml/here cannot be made (Not a directory)", "another --out"),
    ),
    "replay info of nothing": (("replay", "info", "nowhere"), ("nowhere does not exist",)),
    "replay verify of nothing": (("replay", "verify", "nowhere"), ("nowhere does not exist",)),
    "replay repair like nothing": (("replay", "repair", "log.zarr", "--like", "nowhere"), ("nowhere does not exist",)),
    "compare on nothing": (("compare", "--replay", "nowhere", "--out", "never"), ("nowhere does not exist",)),
    "replay info of no store": (("replay", "info", "notes"), ("notes", "slipway ingest")),
    "export over a folder": (("export", "run", "--out", "notes"), ("notes", "exists", "another --out")),
    "export over another policy": (("export", "run", "--out", "other.policy"), ("other.policy", "exists", "--out")),
    "export signed with nothing": (("export", "run", "--out", "never", "--sign", "nokey.pem"), ("nokey.pem", "PEM")),
    "export at no rate": (("export", "run", "--out", "never", "--hz", -1), ("control.hz is -1",)),
    "export of a limit without a rate": (
        ("export", "run", "--out", "never", "--rate-limit", 2), ("rate_limit needs control.hz", "--hz"),
    ),
    "export without preparation": (
        ("export", "unprepared", "--out", "never"), ("unprepared has no preparation.json", "slipway train"),
    ),
    "export without environment": (("export", "homeless", "--out", "never"), ("homeless has no env.json",)),
    "export of a damaged preparation": (("export", "damaged", "--out", "never"), ("preparation.json", "damaged")),
    "export of no run": (("export", "notes", "--out", "never"), ("notes", "slipway train")),
    "eval of nothing": (("eval", "nowhere"), ("nowhere", "bundle")),
    "eval of no episode": (("eval", "maze.policy", "--episodes", 0), ("--episodes", "0")),
    "verify of a folder": (("verify", "notes"), ("manifest.json",)),
    "play of nothing": (("play", "nowhere"), ("nowhere does not exist",)),
    "deploy of a bundle's part": (
        ("deploy", "maze.policy/policy.onnx"), ("maze.policy/policy.onnx", "the bundle maze.policy", "give that"),
    ),
    "deploy of nothing": (("deploy", "nowhere"), ("nowhere",)),
    "deploy in another task": (("deploy", "maze.policy", "--env", "AdroitHandDoor-v1"), ("AdroitHandDoor-v1", "--env")),
    "deploy on both": (
        ("deploy", "maze.policy", "--env", ENV, "--robot", "a:b", "--rate", 10), ("--env", "--robot", "exclude"),
    ),
    "record into a folder": (("deploy", "maze.policy", "--episodes", 1, "--record", "notes"), ("notes",)),
    "record into a file": (
        ("deploy", "maze.policy", "--episodes", 1, "--record", "broken.toml"),
        ("--record broken.toml is a file, not a replay store", "choose another"),
    ),
    "robot that is unplugged": (
        ("deploy", "maze.policy", "--robot", "tests.export.hardware:make_unplugged", "--rate", 10),
        ("--robot", "its factory raised RuntimeError: port /dev/ttyUSB0 is missing"),
    ),
    "robot whose factory wants a name": (
        ("deploy", "maze.policy", "--robot", "tests.export.hardware:make_named", "--rate", 10),
        ("its factory raised TypeError", "'name'"),
    ),
    "robot of no module": (
        ("deploy", "maze.policy", "--robot", "arm:make", "--rate", 10), ("arm:make", "no module named arm"),
    ),
    "robot of no factory": (("deploy", "maze.policy", "--robot", "json:make", "--rate", 10), ("json", "no make")),
    "robot whose module fails": (
        ("deploy", "maze.policy", "--robot", "my_arm:make", "--rate", 10), ("my_arm:make", "ZeroDivisionError"),
    ),
    "robot that is a number": (("deploy", "maze.policy", "--robot", "math:pi", "--rate", 10), ("math:pi", "float")),
    "robot that is none": (("deploy", "maze.policy", "--robot", "builtins:dict", "--rate", 10), ("dict", "read()")),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_what_does_not_fit_is_named_with_its_mend(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, words = PLACES[name]
    # What loads torch: none of these waits for it.
    monkeypatch.setitem(sys.modules, "agent.exporting", None)
    line = refusal(*arguments, cwd=here)
    assert not [word for word in words if word not in line], line


@pytest.mark.parametrize(
    "command", [("finetune", "moved", "--online-steps", 9000), ("export", "moved", "--out", "never")]
)
def test_a_run_whose_store_has_been_moved_says_where_to_write_its_new_place(
    here: Path, command: tuple[str | int, ...]
) -> None:
    if not (here / "moved").exists():
        shutil.copytree(here / "run", here / "moved")
        config = here / "moved" / "config.toml"
        config.write_text(config.read_text().replace("data.zarr", "gone.zarr"))
    line = refusal(*command, cwd=here)
    assert not [word for word in ("gone.zarr", "moved/config.toml", "`replay`") if word not in line], line


# --- data -----------------------------------------------------------------------------------------------------------

DATA: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "NaN in an observation": ({"observations": change((7, 3), np.nan)}, ("observations", "step 7", "column 3", "nan")),
    "infinity in a reward": ({"rewards": change(25, np.inf)}, ("rewards", "episode 1", "step 5", "inf")),
    "NaN in an action": ({"actions": change((9, 1), np.nan)}, ("actions", "step 9", "nan")),
    "action out of bounds": (
        {"actions": change((9, 1), 3.0)}, ("actions", "step 9", "dimension 1", "3", "[-1, 1]", "clip"),
    ),
    "no step": ({"steps": 0}, ("rewards", "empty")),
    "another observation size": ({"observations": np.zeros((40, 9), np.float32)}, ("observations", "9", "8", ENV)),
    "another action size": ({"actions": np.zeros((40, 3), np.float32)}, ("actions", "3", "2", ENV)),
    "arrays of different lengths": ({"rewards": np.zeros(39, np.float32)}, ("rewards", "39", "40")),
    "no actions": ({"actions": None}, ("actions",)),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_bad_data_is_named_by_column_and_step(name: str, tmp_path: Path) -> None:
    changes, words = DATA[name]
    write_npz(tmp_path / "bad.npz", **changes)
    line = refusal("ingest", "bad.npz", "--out", "never.zarr", *MAZE, cwd=tmp_path)
    assert not [word for word in ("bad.npz", *words) if word not in line], line


def test_data_without_any_episode_end_is_refused_by_ingest(tmp_path: Path) -> None:
    write_npz(tmp_path / "endless.npz", timeouts=np.zeros(40, bool))
    line = refusal("ingest", "endless.npz", "--out", "never.zarr", cwd=tmp_path)
    assert "no episode end of any kind" in line
    assert "--max-episode-steps" in line


def test_a_store_without_any_episode_end_is_refused_by_train(here: Path) -> None:
    good = Store.open(here / "data.zarr").spec
    rng = np.random.default_rng(0)
    with Store.create(here / "endless.zarr", good).writer("device") as writer:
        for step in range(50):
            writer.append(
                rng.standard_normal(8), rng.uniform(-1, 1, 2), 0.0, terminated=False, truncated=False,
                next_observation=np.zeros(8), first=step == 0, info={"success": 0.0},
            )  # fmt: skip
        writer.cut(np.zeros(8))
    line = refusal("train", "--replay", "endless.zarr", "--out", "never", *SMALL, cwd=here)
    assert "endless.zarr" in line
    assert "no episode that came to an end" in line


def test_a_store_of_another_action_range_is_refused_by_train(here: Path) -> None:
    spec = Store.open(here / "data.zarr").spec
    wider = StoreSpec.from_terms(spec.terms(), [-2.0, -2.0], [2.0, 2.0], info=spec.info, env=spec.env)
    with Store.create(here / "wider.zarr", wider).writer("x") as writer:
        writer.append_episode(
            np.zeros((6, 8), np.float32), np.zeros((5, 2), np.float32), np.zeros(5), terminated=False, truncated=True,
            info={"success": np.zeros(5)},
        )  # fmt: skip
    line = refusal("train", "--replay", "wider.zarr", "--out", "never", *SMALL, cwd=here)
    assert "wider.zarr" in line
    assert "another layout" in line


# --- damaged and missing artefacts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "manifest.json", "manifest.sha256"])
def test_a_truncated_file_of_a_bundle_is_named(name: str, here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "maze.policy", tmp_path / "cut.policy")
    damaged = tmp_path / "cut.policy" / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    for command in (("verify", "cut.policy"), ("deploy", "cut.policy", "--record", "never.zarr")):
        line = refusal(*command, cwd=tmp_path)
        assert name in line or (name == "manifest.sha256" and "manifest.json" in line)
        assert "export it again" in line


def test_a_truncated_published_policy_is_named(here: Path, tmp_path: Path) -> None:
    (published,) = sorted((here / "run" / "policies").glob("v*.onnx"))[-1:]
    for path in (published, published.with_name(published.name + ".sha256")):
        shutil.copy(path, tmp_path)
    (tmp_path / published.name).write_bytes(published.read_bytes()[:3000])
    for verb in ("verify", "deploy", "eval"):
        assert published.name in refusal(verb, published.name, cwd=tmp_path)


def test_a_run_without_a_checkpoint_cannot_be_exported(here: Path) -> None:
    started = here / "started"
    shutil.copytree(here / "run", started, ignore=shutil.ignore_patterns("0*", "LATEST", "v0*", "replay.zarr"))
    line = refusal("export", "started", "--out", "never.policy", cwd=here)
    assert "started" in line
    assert "no checkpoint" in line
    assert "slipway train" in line
    for verb in ("verify", "eval", "deploy"):
        assert "no policy yet" in refusal(verb, "started", cwd=here)


def test_nothing_named_never_was_made(here: Path) -> None:
    """Runs last: no refused command of this file left its --out, or a part of one, behind."""
    assert not [path.name for path in here.iterdir() if "never" in path.name]


def test_verify_refuses_and_then_accepts_a_repaired_bundle(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "maze.policy", tmp_path / "b")
    model = (tmp_path / "b" / "policy.onnx").read_bytes()
    flipped = bytearray(model)
    flipped[len(model) // 2] ^= 1
    (tmp_path / "b" / "policy.onnx").write_bytes(flipped)
    assert "policy.onnx" in refusal("verify", "b", cwd=tmp_path)
    (tmp_path / "b" / "policy.onnx").write_bytes(model)
    assert outcome("verify", "b", cwd=tmp_path)["checksums"] == "ok"


def test_without_a_verb_the_overview_says_how_to_start(here: Path) -> None:
    done = run(cwd=here)
    assert done.returncode == 2
    assert "slipway demo" in done.stdout
