"""What a peer trains on is what our learner sees: prepared, with the final observation of episodes cut by time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.preparation import make_preparation
from benchmarks.offline_peer import arrays, normalized
from replay.schema import StoreSpec
from replay.statistics import observation_moments
from replay.store import Store


def test_terminated_episodes_end_at_their_last_action_and_others_at_their_final_observation(tmp_path: Path) -> None:
    terms = [{"name": "x", "offset": 0, "length": 1, "dtype": "float32"}]
    store = Store.create(tmp_path / "ends.zarr", StoreSpec.from_terms(terms, low=[0.0], high=[4.0]))
    with store.writer("log") as writer:
        for step, ends in enumerate([(False, False), (True, False), (False, False), (False, True)]):
            x = np.array([float(step)], np.float32)
            writer.append(x, np.array([1.0]), 1.0 + step, terminated=ends[0], truncated=ends[1],
                          next_observation=x + 0.5, first=step in (0, 2))  # fmt: skip
    p = make_preparation(
        moments=observation_moments(store.reader()), action_low=np.zeros(1, np.float32),
        action_high=np.full(1, 4.0, np.float32), normalize=True, clip=10.0, reward_scale=2.0, reward_shift=-1.0,
        discount=0.99,
    )  # fmt: skip
    made = arrays(Store.open(tmp_path / "ends.zarr"), p)
    observed = np.array([[0.0], [1.0], [2.0], [3.0], [3.5]], np.float32)
    np.testing.assert_allclose(made["observations"], normalized(observed, p))
    np.testing.assert_allclose(made["actions"][:, 0], [-0.5, -0.5, -0.5, -0.5, 0.0])
    np.testing.assert_allclose(made["rewards"], [1.0, 3.0, 5.0, 7.0, 0.0])
    np.testing.assert_array_equal(made["terminals"], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(made["timeouts"], [0, 0, 0, 0, 1])
