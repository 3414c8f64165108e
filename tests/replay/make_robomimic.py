"""robomimic files as robomimic's own tools write them: data/demo_N, env_args, mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def write(path: Path, lengths: tuple[int, ...] = (4, 3, 5), *, next_obs: bool = True, **changed: Any) -> Path:
    """Demonstrations whose object is [10 demo + t, ...]; each ends in success (reward 1, done) unless changed.

    `changed`: rewards, dones (functions of the length), images (bool), env_args, drop (a path within demo_1).
    """
    import h5py

    rng = np.random.default_rng(2)
    last = {"rewards": lambda n: np.eye(n)[-1], "dones": lambda n: np.eye(n, dtype=np.int64)[-1]}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(lengths)
        args = {"env_name": "Lift", "type": 1, "env_version": "1.4.1", "env_kwargs": {"robots": "Panda"}}
        data.attrs["env_args"] = json.dumps(changed.get("env_args", args))
        # Alphabetical order would put demo_10 before demo_9.
        for demo, length in enumerate(lengths, start=9):
            group = data.create_group(f"demo_{demo}")
            group.attrs["num_samples"] = length
            time = 10.0 * demo + np.arange(length + 1)
            observed = {
                "object": np.stack([time, -time], axis=1),
                "robot0_gripper_qpos": rng.normal(size=(length + 1, 2)),
                **({"agentview_image": np.zeros((length + 1, 8, 8, 3), np.uint8)} if changed.get("images") else {}),
            }
            for key, value in observed.items():
                group[f"obs/{key}"] = value[:-1]
                if next_obs:
                    group[f"next_obs/{key}"] = value[1:]
            group["actions"] = rng.uniform(-1, 1, (length, 3))
            for field, value in last.items():
                group[field] = changed.get(field, value)(length)
            group["states"] = np.zeros((length, 30))
        file["mask/train"] = np.array([b"demo_9", b"demo_11"])
        if "drop" in changed:
            del data[f"demo_10/{changed['drop']}"]
    return path
