"""Run an exported policy in a loop of your own. Needs numpy and onnxruntime for the policy, gymnasium for the maze.

python examples/run_a_policy.py maze.policy
"""

import sys

import numpy as np

from envs import make_env
from export import PolicyRunner


def main(path: str) -> None:
    policy = PolicyRunner(path)  # checksums, contract and golden outputs are checked here
    print(f"{policy.contract.policy_id}: {policy.observation_size} observations, {policy.action_size} actions")
    env = make_env(policy.contract.env["id"], max_episode_steps=100)
    observation, _ = env.reset(seed=0)
    total, steps, over = 0.0, 0, False
    while not over:
        action = policy.act(np.asarray(observation, np.float32))  # [A] in the environment's units, within its bounds
        observation, reward, terminated, truncated, _ = env.step(action)
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    print(f"return {total:.1f} after {steps} steps")
    env.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "maze.policy")
