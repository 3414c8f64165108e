"""One of d3rlpy's methods in its own environment: `python d3rlpy_offline.py FOLDER SETTINGS`, data.npz → policy.pt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.optimizers import AdamFactory, CosineAnnealingLRFactory


def iql(settings: dict[str, Any], shared: dict[str, Any]) -> Any:
    """With the cosine schedule of the paper, which is not d3rlpy's default."""
    hidden, schedule = settings["hidden"], CosineAnnealingLRFactory(T_max=settings["steps"])
    return d3rlpy.algos.IQLConfig(
        **shared, expectile=settings["expectile"], weight_temp=settings["beta"], max_weight=settings["weight_clip"],
        actor_encoder_factory=VectorEncoderFactory(hidden, dropout_rate=settings["dropout"] or None),
        value_encoder_factory=VectorEncoderFactory(hidden),
        actor_optim_factory=AdamFactory(lr_scheduler_factory=schedule),
    )  # fmt: skip


def td3_bc(settings: dict[str, Any], shared: dict[str, Any]) -> Any:
    """As published."""
    return d3rlpy.algos.TD3PlusBCConfig(
        **shared, alpha=settings["bc_alpha"], update_actor_interval=settings["policy_delay"],
        target_smoothing_sigma=settings["target_noise"], target_smoothing_clip=settings["target_noise_clip"],
        actor_encoder_factory=VectorEncoderFactory(settings["hidden"]),
    )  # fmt: skip


def main(folder: Path, settings: dict[str, Any]) -> None:
    """Train as many updates as asked, eagerly: its `compile_graph` is for GPUs only."""
    torch.set_num_threads(1)
    d3rlpy.seed(settings["seed"])
    data = np.load(folder / "data.npz")
    dataset = d3rlpy.dataset.MDPDataset(**{name: data[name] for name in data.files})
    rate, steps = settings["learning_rate"], settings["steps"]
    shared = {
        "batch_size": settings["batch_size"], "gamma": settings["discount"], "tau": settings["target_rate"],
        "actor_learning_rate": rate, "critic_learning_rate": rate, "n_critics": settings["critics"],
        "critic_encoder_factory": VectorEncoderFactory(settings["hidden"]),
    }  # fmt: skip
    learner = {"iql": iql, "td3_bc": td3_bc}[settings["name"]](settings, shared).create(device="cpu:0")
    learner.build_with_dataset(dataset)
    for update in range(1, steps + 1):
        learner.update(dataset.sample_transition_batch(learner.batch_size))
        if update % 1000 == 0:
            print(f"{update} of {steps}", flush=True)
    learner.save_policy(str(folder / "policy.pt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
