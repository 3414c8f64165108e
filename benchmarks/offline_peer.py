"""d3rlpy's IQL and TD3+BC on the data, hyper-parameters and evaluation episodes of finished runs of ours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.comparison.plan import Run
from agent.comparison.results import score_of, unit_of
from agent.evaluation import evaluate, evaluation_rng
from agent.files import write_atomic
from agent.policies import scoring_spec
from agent.preparation import Preparation
from agent.run_directory import RunDirectory
from benchmarks.measure import HERE, ONE_THREAD
from benchmarks.peers import peer_python
from envs.make import make_env
from replay.store import Store

REQUIREMENTS = ["torch", "d3rlpy==2.8.1"]

SHARED = ("name", "batch_size", "discount", "learning_rate", "target_rate", "critics", "hidden")
HYPER_PARAMETERS = {
    "iql": (*SHARED, "expectile", "beta", "weight_clip", "dropout"),
    "td3_bc": (*SHARED, "bc_alpha", "policy_delay", "target_noise", "target_noise_clip"),
}
"""What d3rlpy takes over of ours, by the names of our configurations; the rest of them stands at its defaults."""


class PeerPolicy:
    """Its TorchScript policy behind our normaliser and action scale, so that it acts in environment units."""

    def __init__(self, script: Path, preparation: Preparation) -> None:
        self._network = torch.jit.load(str(script))  # type: ignore[no-untyped-call]
        self._p = preparation

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[O] → [A] float32, by the distribution's mean."""
        p = self._p
        with torch.no_grad():
            unit = self._network(torch.from_numpy(normalized(observation[None], p)))[0].numpy()
        middle, half = (p.action_high + p.action_low) / 2, (p.action_high - p.action_low) / 2
        scaled: np.ndarray = np.clip(unit, -1.0, 1.0) * half + middle
        return scaled


def d3rlpy_scores(runs: Sequence[Run]) -> list[float | None]:
    """Its final score for each of our `runs` of one method and task, None for one of ours that has not finished."""
    return [peer_score(run) if np.isfinite(score_of(run, unit_of(run))) else None for run in runs]


def peer_score(run: Run) -> float:
    """Trained and scored once, and kept below the runs' folder with what it was made by: what differs is made again."""
    folder = run.config.out.parent.parent / f"d3rlpy_{run.config.algorithm.name}" / f"seed-{run.seed}"
    kept = folder / "score.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    trained_by, scored_by = training_settings(run), scoring_settings(run)
    if found.get("trained_by") != trained_by:
        folder.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        train_peer(run, folder, trained_by)
        found = {"trained_by": trained_by}
    if found.get("scored_by") != scored_by:
        found |= {"score": score_peer(run, folder, scored_by), "scored_by": scored_by}
        write_atomic(kept, json.dumps(found).encode())
    return float(found["score"])


def training_settings(run: Run) -> dict[str, Any]:
    """What d3rlpy_offline.py takes, as JSON gives it back."""
    ours = run.config.algorithm
    settings = {"steps": run.config.pretrain_steps, "seed": run.seed}
    settings |= {name: getattr(ours, name) for name in HYPER_PARAMETERS[ours.name]}
    taken: dict[str, Any] = json.loads(json.dumps(settings))
    return taken


def scoring_settings(run: Run) -> dict[str, Any]:
    """The environment and the number of episodes that `run` was scored by, as JSON gives them back."""
    env = json.loads(RunDirectory(run.config.out).env.read_text())
    return {"env": scoring_spec(env), "episodes": run.config.evaluation.final_episodes}


def preparation_of(run: Run) -> Preparation:
    """How `run` sees its data."""
    return Preparation.from_json(json.loads(RunDirectory(run.config.out).preparation.read_text()))


def train_peer(run: Run, folder: Path, settings: dict[str, Any]) -> None:
    """Train on `run`'s prepared data in the peer's environment."""
    np.savez(folder / "data.npz", **arrays(Store.open(run.config.replay), preparation_of(run)))  # type: ignore[arg-type]
    command = [peer_python("d3rlpy", REQUIREMENTS), HERE / "d3rlpy_offline.py", folder, json.dumps(settings)]
    with (folder / "log.txt").open("w") as log:
        subprocess.run(list(map(str, command)), stdout=log, stderr=log, env={**ONE_THREAD}, check=True)
    (folder / "data.npz").unlink()


def score_peer(run: Run, folder: Path, settings: dict[str, Any]) -> float:
    """Play the episodes that `run` was scored by."""
    spec = settings["env"]
    env = make_env(spec["id"], kwargs=spec["kwargs"], max_episode_steps=spec["max_episode_steps"])
    policy, rng = PeerPolicy(folder / "policy.pt", preparation_of(run)), evaluation_rng(run.config.seed)
    score = evaluate(policy, env, episodes=settings["episodes"], rng=rng)
    env.close()
    return float(score.mean if unit_of(run) == "return" or score.normalized is None else score.normalized)


def arrays(store: Store, p: Preparation) -> dict[str, np.ndarray]:
    """The store as d3rlpy takes it: [N] steps, prepared as our learner sees them.

    d3rlpy has no final observations: an episode that did not terminate gets one more step that bears it, which d3rlpy
    leaves out of sampling as the last of a timed-out episode.
    """
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("observations", "actions", "rewards", "terminals", "timeouts")
    }
    middle, half = (p.action_high + p.action_low) / 2, (p.action_high - p.action_low) / 2
    for episode in store.episodes():
        steps = len(episode.rewards)
        rows = steps if episode.terminated else steps + 1
        action, reward = np.zeros((rows, len(half)), np.float32), np.zeros(rows, np.float32)
        action[:steps] = np.clip((episode.actions - middle) / half, -1.0, 1.0)
        reward[:steps] = episode.rewards * p.reward_scale + p.reward_shift
        last = np.zeros(rows, np.float32)
        last[-1] = 1.0
        columns["observations"].append(normalized(episode.observations[:rows], p))
        columns["actions"].append(action)
        columns["rewards"].append(reward)
        columns["terminals"].append(last if episode.terminated else np.zeros_like(last))
        columns["timeouts"].append(np.zeros_like(last) if episode.terminated else last)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def normalized(observations: np.ndarray, p: Preparation) -> np.ndarray:
    """[N, O] as the networks see them."""
    scaled = (observations - p.mean) / p.std
    clipped: np.ndarray = scaled if p.clip is None else np.clip(scaled, -p.clip, p.clip)
    return clipped.astype(np.float32)
