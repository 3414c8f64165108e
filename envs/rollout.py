"""The plain episode loop: one environment, one policy, steps as they happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Step(NamedTuple):
    """One transition. `next_observation` is the one the action led to, also at an episode's end, never the reset's."""

    observation: FloatArray
    """[O] what the policy saw."""
    action: FloatArray
    """[A] what it did, before clipping."""
    reward: float
    """Raw reward of the environment."""
    terminated: bool
    """The task ended: nothing follows `next_observation`."""
    truncated: bool
    """The episode was cut (time limit): the task would have gone on."""
    next_observation: FloatArray
    """[O] what it led to."""
    first: bool
    """Whether `observation` came from a reset."""
    info: dict[str, Any]
    """The environment's info of this step."""


def rollout(
    env: gymnasium.Env[FloatArray, FloatArray],
    act: Callable[[FloatArray], FloatArray],
    *,
    seed_rng: np.random.Generator,
    on_reset: Callable[[FloatArray], None] | None = None,
) -> Iterator[Step]:
    """Run episodes for ever, yielding each step; the caller stops taking when it has enough.

        for step in itertools.islice(rollout(env, expert.act, seed_rng=rng, on_reset=expert.reset), steps):
            writer.append(*step[:3], terminated=step.terminated, truncated=step.truncated, ...)

    Every episode is seeded from `seed_rng`, so a run is determined by that generator and by `act`. `on_reset` hears
    of each episode's first observation before `act` is asked. The environment is reset only when the next step is
    asked for: a caller that stops at an episode's end leaves it ended.
    """
    while True:
        observation, _ = env.reset(seed=int(seed_rng.integers(2**31)))
        if on_reset is not None:
            on_reset(observation)
        first, ended = True, False
        while not ended:
            action = act(observation)
            following, reward, terminated, truncated, info = env.step(action)
            yield Step(observation, action, float(reward), terminated, truncated, following, first, info)
            observation, first, ended = following, False, terminated or truncated
