"""Open a replay store and draw from it: transitions, n-step returns, sequences. numpy alone.

python examples/look_into_a_store.py maze.zarr
"""

import sys

import numpy as np

from replay import Store


def main(path: str) -> None:
    store = Store.open(path)
    print(f"{store.num_steps} steps; observations of {[term.name for term in store.spec.observation]}")

    rng = np.random.default_rng(0)
    batch = store.sampler(256, rng=rng).next()
    print(f"transitions: {batch.observations.shape}, {batch.actions.shape}, rewards sum to {batch.rewards.sum():.1f}")
    # Terminated is not truncated: only the first of the two may cut a bootstrapped value.
    print(f"{int(batch.terminated.sum())} of them terminated")

    far = store.sampler(256, rng=rng, n_step=5, gamma=0.99).next()
    print(f"5-step returns up to {far.rewards.max():.2f}")
    stretch = store.sampler(16, rng=rng, length=10).next()
    print(f"sequences: {stretch.observations.shape} (batch, time, entries)")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "maze.zarr")
