"""d3rlpy's IQL in its own environment: `python d3rlpy_iql.py FOLDER SETTINGS`, FOLDER/data.npz → FOLDER/policy.pt."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import d3rlpy
import numpy as np
import torch
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.optimizers import AdamFactory, CosineAnnealingLRFactory


def main(folder: Path, settings: dict[str, float]) -> None:
    """Train as many updates as asked, eagerly: its `compile_graph` is for GPUs only."""
    torch.set_num_threads(1)
    d3rlpy.seed(int(settings["seed"]))
    data = np.load(folder / "data.npz")
    dataset = d3rlpy.dataset.MDPDataset(**{name: data[name] for name in data.files})
    hidden, steps = list(settings["hidden"]), int(settings["steps"])  # type: ignore[call-overload]
    rate = settings["learning_rate"]
    learner = d3rlpy.algos.IQLConfig(
        batch_size=int(settings["batch_size"]), gamma=settings["discount"], tau=settings["target_rate"],
        actor_learning_rate=rate, critic_learning_rate=rate, n_critics=int(settings["critics"]),
        expectile=settings["expectile"], weight_temp=settings["beta"], max_weight=settings["weight_clip"],
        actor_encoder_factory=VectorEncoderFactory(hidden, dropout_rate=settings["dropout"] or None),
        critic_encoder_factory=VectorEncoderFactory(hidden),
        value_encoder_factory=VectorEncoderFactory(hidden),
        actor_optim_factory=AdamFactory(lr_scheduler_factory=CosineAnnealingLRFactory(T_max=steps)),
    ).create(device="cpu:0")  # fmt: skip
    learner.build_with_dataset(dataset)
    for update in range(1, steps + 1):
        learner.update(dataset.sample_transition_batch(learner.batch_size))
        if update % 1000 == 0:
            print(f"{update} of {steps}", flush=True)
    learner.save_policy(str(folder / "policy.pt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
