"""The online benchmark's peer: `python online_peers.py ENV UTD` in an environment that has Stable-Baselines3.

Serves blocks of environment steps of its SAC, with as many updates as UTD asks for.
"""

from __future__ import annotations

import sys

import gymnasium
import gymnasium_robotics
import torch
from serving import serve
from stable_baselines3 import SAC

BLOCK_STEPS = 40


def main(env_id: str, utd: float) -> None:
    """Set up as published (2×256, batch 256), pass the steps before learning, serve."""
    torch.set_num_threads(1)
    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make(env_id)
    if isinstance(env.observation_space, gymnasium.spaces.Dict):
        env = gymnasium.wrappers.FlattenObservation(env)
    every = max(1, round(1 / utd))
    model = SAC(
        "MlpPolicy", env, train_freq=every, gradient_steps=max(1, round(utd * every)), learning_starts=256,
        buffer_size=100_000, device="cpu", seed=0,
    )  # fmt: skip
    model.learn(256 + BLOCK_STEPS)
    serve(lambda: model.learn(BLOCK_STEPS, reset_num_timesteps=False), block_steps=BLOCK_STEPS)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
