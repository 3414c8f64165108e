"""A run is set up from its store or refused with one line, and then nothing has been written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import TrainConfig
from agent.errors import RunError
from agent.evaluation import different_terms
from agent.preparation import Preparation
from agent.run_directory import RunDirectory
from agent.setup_run import set_up
from envs.errors import EnvError
from envs.make import describe, make_env
from replay.schema import ObservationTerm, StoreSpec
from replay.store import Store

ENV = "Pendulum-v1"
RETURNS = (1.0, 3.0, 5.0)


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    env = make_env(ENV)
    described = describe(env)
    env.close()
    return described


def make_store(
    path: Path, description: dict[str, Any], *, returns: tuple[float, ...] = RETURNS, **changes: Any
) -> Store:
    d = {**description, **changes}
    store = Store.create(
        path, StoreSpec.from_terms(d["observation"], d["action_low"], d["action_high"], env=d["env"]), chunk_rows=64
    )
    rng = np.random.default_rng(0)
    size, actions = store.spec.observation_size, store.spec.action_size
    with store.writer("data", durability="process") as writer:
        for total in returns:
            writer.append_episode(
                rng.normal(size=(6, size)), np.zeros((5, actions)), np.full(5, total / 5),
                terminated=False, truncated=True, info=None,
            )  # fmt: skip
    return store


def test_a_run_holds_all_that_was_decided(tmp_path: Path, description: dict[str, Any]) -> None:
    store = make_store(tmp_path / "store", description)
    run = RunDirectory(tmp_path / "run")
    config = TrainConfig(replay=store.path, reward_scaling="return_range", reward_shift=-0.25)
    preparation = set_up(run, config)
    assert preparation.reward_scale == pytest.approx(1000 / (5 - 1), rel=1e-5)
    assert preparation.reward_shift == -0.25
    assert run.load_config() == config
    assert json.loads(run.env.read_text())["id"] == ENV
    read = Preparation.from_json(json.loads(run.preparation.read_text()))
    assert read.to_json() == preparation.to_json()
    online = Store.open(run.replay)
    assert (online.num_rows, online.spec.layout_fingerprint) == (0, store.spec.layout_fingerprint)


def refused(run: RunDirectory, config: TrainConfig, message: str, kind: type[Exception] = RunError) -> None:
    with pytest.raises(kind, match=message) as raised:
        set_up(run, config)
    assert "\n" not in str(raised.value)
    assert not run.path.exists()


def test_a_store_without_a_transition_is_refused(tmp_path: Path, description: dict[str, Any]) -> None:
    store = make_store(tmp_path / "store", description, returns=())
    refused(RunDirectory(tmp_path / "run"), TrainConfig(replay=store.path), "holds no transition: ingest or collect")


def test_a_store_without_an_environment_asks_for_one(tmp_path: Path, description: dict[str, Any]) -> None:
    store = make_store(tmp_path / "store", description, env=None)
    run = RunDirectory(tmp_path / "run")
    refused(run, TrainConfig(replay=store.path), "records no environment: name one with --env")
    set_up(run, TrainConfig(replay=store.path, env=ENV))
    assert json.loads(run.env.read_text())["id"] == ENV


LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "size": (
        {"observation": [{"name": "observation", "offset": 0, "length": 7, "dtype": "float32"}]},
        r"has, 7 observation entries \(observation\[7\]\) against 3 \(observation\[3\]\): give the --env",
    ),
    "terms": (
        {"observation": [{"name": f"t{i}", "offset": i, "length": 1, "dtype": "float32"} for i in range(7)]},
        r"7 observation entries \(t0\[1\], t1\[1\], t2\[1\], t3\[1\], and 3 more\) against 3 \(observation\[3\]\)",
    ),
    "actions": (
        {"action_low": [-1.0] * 2, "action_high": [1.0] * 2}, "has, 2 action entries against 1: give the --env"
    ),
    "bounds": (
        {"action_low": [-1.0], "action_high": [1.0]},
        r"has, action\[0\] from -1 to 1 against -2 to 2: .* or ingest its data again with --env Pendulum-v1$",
    ),
    "one bound": ({"action_high": [3.0]}, r"has, action\[0\] from -2 to 3 against -2 to 2: "),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_store_of_another_layout_is_refused_with_what_differs(
    name: str, tmp_path: Path, description: dict[str, Any]
) -> None:
    changes, words = LAYOUTS[name]
    store = make_store(tmp_path / "store", description, **changes)
    refused(RunDirectory(tmp_path / "run"), TrainConfig(replay=store.path), rf"store {store.path} was made .* {words}")


def test_of_two_long_layouts_the_first_difference_is_told() -> None:
    ours, theirs = (
        [ObservationTerm(name=name, offset=i, length=1, dtype="float32") for i, name in enumerate(names)]
        for names in (("a", "b", "c", "d", "e"), ("a", "b", "d", "c", "e"))
    )
    assert [*different_terms(ours, theirs)] == ["observation c[1] against d[1]"]
    assert [*different_terms(ours, ours)] == []


def test_an_unknown_environment_is_refused_with_the_nearest(tmp_path: Path, description: dict[str, Any]) -> None:
    store = make_store(tmp_path / "store", description)
    config = TrainConfig(replay=store.path, env="Pendulun-v1")
    refused(
        RunDirectory(tmp_path / "run"), config, "unknown environment 'Pendulun-v1': did you mean Pendulum-v1", EnvError
    )


def test_equal_returns_cannot_be_scaled_by_their_range(tmp_path: Path, description: dict[str, Any]) -> None:
    store = make_store(tmp_path / "store", description, returns=(2.0, 2.0))
    config = TrainConfig(replay=store.path, reward_scaling="return_range")
    refused(RunDirectory(tmp_path / "run"), config, "all 2 episodes of .* have the return 2, .*--reward-scaling none")


def test_a_set_up_that_was_cut_short_is_done_again(tmp_path: Path, description: dict[str, Any]) -> None:
    store = make_store(tmp_path / "store", description)
    run, config = RunDirectory(tmp_path / "run"), TrainConfig(replay=store.path)
    set_up(run, config)
    whole = run.preparation.read_bytes()
    run.preparation.unlink()
    (run.replay / "zarr.json").unlink()
    set_up(run, config)
    assert run.preparation.read_bytes() == whole
    assert Store.open(run.replay).num_rows == 0
