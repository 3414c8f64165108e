"""An episode that is scored or collected with a recurrent policy begins at the policy's initial state."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest

from agent.commands import collect
from agent.evaluation import finished_episodes
from envs.rollout import rollout
from envs.wrappers import FlatEnv
from export.onnx_writer import export_policy
from export.policy import write_policy
from export.runner import PolicyRunner
from tests.export.policies import ACT, OBS
from tests.export.recurrent import make_recurrent_contract, make_recurrent_network

STEPS = 3


class Constant(gymnasium.Env[np.ndarray, np.ndarray]):
    """The same observation always; pays the action's first entry, times the step's number."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (OBS,), np.float32)
    action_space = gymnasium.spaces.Box(-5.0, 5.0, (ACT,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:  # type: ignore[type-arg]
        self.steps = 0
        return np.ones(OBS, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:  # type: ignore[type-arg]
        self.steps += 1
        return np.ones(OBS, np.float32), float(action[0]) * self.steps, self.steps == STEPS, False, {}


@pytest.fixture(scope="module")
def model() -> bytes:
    return export_policy(make_recurrent_network(), log_std=None, contract=make_recurrent_contract())


def test_every_scored_episode_starts_at_the_initial_state(model: bytes) -> None:
    episodes = finished_episodes(PolicyRunner(model), cast(FlatEnv, Constant()), np.random.default_rng(0))
    first, second = next(episodes), next(episodes)
    assert first == second
    runner = PolicyRunner(model)
    actions = [runner.act(np.ones(OBS, np.float32))[0] for _ in range(STEPS)]
    assert first[0] == pytest.approx(sum(float(a) * (i + 1) for i, a in enumerate(actions)))
    assert len(set(actions)) == STEPS  # the state moves within an episode


def test_every_collected_episode_starts_at_the_initial_state(
    model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_policy(tmp_path / "p.onnx", model)
    monkeypatch.setattr(collect, "check_layout", lambda *args, **kwargs: None)  # the toy has no store layout
    env, rng = cast(FlatEnv, Constant()), np.random.default_rng(0)
    args = collect.Args(env="Constant", steps=1, policy=str(tmp_path / "p.onnx"), out=tmp_path / "store")
    act, on_reset = collect.make_policy(args, env, rng)
    steps = rollout(env, act, seed_rng=rng, on_reset=on_reset)
    taken = np.stack([next(steps).action for _ in range(2 * STEPS)])
    np.testing.assert_array_equal(taken[:STEPS], taken[STEPS:])
