"""The replay benchmark's peers: `python replay_peers.py KIND ROWS FOLDER BATCH...` in an environment that has the peer.

Each is filled with transitions of 17 + 6 (observation, action, reward, next observation, terminated: float32) through
its own bulk call and then serves one uniform batch of independent transitions a call, as fast as its documentation
says how, on one thread.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from serving import serve  # this file runs as a script, in environments without Slipway

OBS, ACT, STEPS = 17, 6, 1_000
COLUMNS = {"obs": OBS, "act": ACT, "rew": 1, "next_obs": OBS, "done": 1}
Calls = dict[str, Callable[[], object]]


def part(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.random((count, width), dtype=np.float32) for name, width in COLUMNS.items()}


def parts(rows: int, count: int = 100_000) -> Any:
    data = part(min(rows, count))
    for at in range(0, rows, count):
        yield at, {name: array[: min(count, rows - at)] for name, array in data.items()}


def cpprb(rows: int, folder: Path, batches: list[int]) -> Calls:
    from cpprb import ReplayBuffer

    buffer = ReplayBuffer(rows, {name: {"shape": width} for name, width in COLUMNS.items()})
    for _, data in parts(rows):
        buffer.add(**data)
    return {str(batch): lambda batch=batch: buffer.sample(batch) for batch in batches}


def torchrl(rows: int, folder: Path, batches: list[int]) -> Calls:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, ReplayBuffer

    torch.set_num_threads(1)
    buffer = ReplayBuffer(storage=LazyMemmapStorage(rows, scratch_dir=folder))
    for _, data in parts(rows):
        tensors = {name: torch.from_numpy(array) for name, array in data.items()}
        buffer.extend(TensorDict(tensors, batch_size=[len(data["obs"])]))
    return {str(batch): lambda batch=batch: buffer.sample(batch) for batch in batches}


def zarr(rows: int, folder: Path, batches: list[int]) -> Calls:
    import zarr

    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    group = zarr.open_group(folder / "peer.zarr", mode="w")
    arrays = {name: group.create_array(name, shape=(rows, width), dtype="float32") for name, width in COLUMNS.items()}
    for at, data in parts(rows, 1_000_000):
        for name, array in data.items():
            arrays[name][at : at + len(array)] = array
    rng = np.random.default_rng(0)

    def sample(batch: int) -> object:
        places = rng.integers(0, rows, batch)
        return [array.oindex[places] for array in arrays.values()]

    return {str(batch): lambda batch=batch: sample(batch) for batch in batches}


def minari(rows: int, folder: Path, batches: list[int]) -> Calls:
    import os

    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    import warnings

    warnings.simplefilter("ignore")  # it would like to know an environment
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    data = part(STEPS + 1)
    ends = np.zeros(STEPS, bool)
    ends[-1] = True
    episodes = [
        EpisodeBuffer(
            observations=data["obs"], actions=data["act"][:STEPS], rewards=data["rew"][:STEPS, 0],
            terminations=np.zeros(STEPS, bool), truncations=ends,
        )
        for _ in range(rows // STEPS)
    ]  # fmt: skip
    dataset = minari.create_dataset_from_buffers(
        "peer/replay-v0", buffer=episodes,
        observation_space=Box(-np.inf, np.inf, (OBS,), np.float32), action_space=Box(-1, 1, (ACT,), np.float32),
        algorithm_name="none", author="none", author_email="none", code_permalink="none", description="benchmark",
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def one(episode: Any) -> tuple[Any, ...]:
        t = rng.integers(0, len(episode.rewards))
        before, after = episode.observations[t], episode.observations[t + 1]
        return before, episode.actions[t], episode.rewards[t], after, episode.terminations[t]

    def sample(batch: int) -> object:
        # Independent transitions: an episode each, of which one step is used.
        transitions: list[tuple[Any, ...]] = []
        while len(transitions) < batch:
            # It draws without replacement, so no more at once than it has.
            episodes = dataset.sample_episodes(min(batch - len(transitions), dataset.total_episodes))
            transitions += [one(episode) for episode in episodes]
        return [np.stack(column) for column in zip(*transitions, strict=True)]

    return {str(batch): lambda batch=batch: sample(batch) for batch in batches}


if __name__ == "__main__":
    kind, rows, folder, *batches = sys.argv[1:]
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    serve({"cpprb": cpprb, "torchrl": torchrl, "zarr": zarr, "minari": minari}[kind](
        int(rows), Path(folder), [int(batch) for batch in batches]
    ))  # fmt: skip
