"""Configuration of a run: frozen dataclasses, one literal under each field, from which the command's help is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.algorithms.config import AlgorithmConfig
from agent.algorithms.iql_config import IQLConfig

MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """Concurrent fine-tuning."""

    collectors: int = 1
    """Processes that drive environments, 1 to 64; 0 is lockstep: the learner collects in turns with its updates."""
    envs_per_collector: int = 1
    """Environments of each collector, 1 to 256: a process each, stepped side by side with one batch for the policy."""
    step_deadline_seconds: float = 10.0
    """An environment that takes longer for a step or a reset is killed and replaced, its episode cut before."""
    warmup_steps: int = 5000
    """Environment steps collected by the frozen pretrained policy before the first online update."""
    utd: float = 1.0
    """Gradient updates per online environment step (update-to-data ratio), 0.02 to 20."""
    offline_fraction: float = 0.5
    """Share of each batch that comes from the offline data, in [0, 1]."""
    tolerance_steps: int = 1000
    """How many environment steps either side may run ahead of the update-to-data ratio before it waits."""
    publish_seconds: float = 0.5
    """Seconds between published policy versions."""
    publish_updates: int = 100
    """Updates between published policy versions in lockstep, where no clock may decide."""
    max_staleness_seconds: float = 30.0
    """Collection pauses when no policy has been published for so long: the learner hangs, is restarting or starved."""
    swap: Literal["step", "episode"] = "step"
    """When a collector takes a newer policy: at its next step, or at its next episode, so that one acts in each whole
    episode unless that has been outdated for max_staleness_seconds."""
    rate: float = 0.0
    """Steps a second of each environment, for robots and real-time simulation; 0: as many as there can be."""
    intervention: str = ""
    """module:factory of who may act in the policy's place: see docs/runs.md. Such steps count as offline data too."""
    exploration: Literal["sample", "best_of_n", "expansion"] = "sample"
    """Draw the action from the policy; the best by Q of several; or policy expansion: the pretrained or the present."""
    candidates: int = 10
    """N of best_of_n, 2 to 256."""
    expansion_temperature: float = 0.1
    """Of the softmax over Q by which expansion chooses between its two policies, in units of Q."""
    exploration_noise: float = 1.0
    """Multiplies the policy's own standard deviation while collecting; 0 acts by the mean."""
    durability: Literal["process", "interval", "block"] = "interval"
    """What survives a power loss: see docs/store.md. A killed process loses no committed step under any of them."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Goes back to the pretrained policy when evaluations along the curve fall below it."""

    enabled: bool = True
    """Whether it acts at all."""
    standard_errors: float = 2.0
    """Alarm below J(π0) − this many standard errors of the difference."""
    window: int = 2
    """Evaluations along the curve whose mean is judged."""
    pause_steps: int = 5000
    """Online steps for which the actor is not updated after an alarm; the values go on learning."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Episodes by the mean action in a process of their own, on seeds disjoint from training."""

    episodes: int = 20
    """Episodes of each evaluation along the learning curve."""
    final_episodes: int = 100
    """Episodes of the evaluations after pretraining and at the end."""
    every_steps: int = 10_000
    """Online environment steps between evaluations along the curve; 0 leaves them out."""
    video: bool = False
    """Draw an episode of each evaluation into RUN/videos and TensorBoard; needs EGL or OSMesa."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the learner's whole state is saved."""

    every_updates: int = 10_000
    """Updates between checkpoints."""
    keep: int = 3
    """Newest checkpoints kept, at least 2, so that a corrupt newest one has a stand-in."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of the long-running agent: pretrain from a store, then fine-tune online.

    The same command again resumes the run where it stopped.
    """

    replay: Path = Path()
    """Replay store with the offline data (made by `slipway ingest` or `slipway collect`)."""
    out: Path = Path()
    """Run directory; the same command again resumes it."""
    env: str = ""
    """Gymnasium environment id; empty takes the one recorded with the data."""
    max_episode_steps: int = 0
    """Time limit in steps; 0 takes the one recorded with the data."""
    preset: str = ""
    """locomotion, antmaze, adroit, kitchen, pointmaze or fetch; empty takes the environment's own."""
    recipe: str = ""
    """How to pretrain for and run the online phase: safe, default or fast (docs/runs.md); empty changes nothing."""
    seed: int = 0
    """Seeds networks, sampling, exploration and evaluation."""
    pretrain_steps: int = 100_000
    """Offline updates."""
    online_steps: int = 0
    """Online environment steps, warm-up included; 0 only pretrains."""
    normalize_observations: bool = True
    """Subtract the offline mean and divide by the offline deviation; frozen for online training and export."""
    observation_clip: float = 10.0
    """Normalised observations are clipped to ± this many deviations."""
    reward_scaling: Literal["none", "return_range"] = "none"
    """return_range multiplies rewards by 1000/(max − min return of the data), as published for locomotion."""
    reward_shift: float = 0.0
    """Added to every (scaled) reward; −1 turns a goal reward of 1 into a cost per step, as published for AntMaze."""
    threads: int = 0
    """Threads of an update; 0 takes as many as are measured to shorten it, of the cores that the run leaves idle."""
    executor: Literal["auto", "eager", "compiled"] = "auto"
    """What runs the updates: as written, compiled as one graph, or whichever is measured to end the run sooner."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the matrix products between hidden layers; bf16 is faster, weights and all else stay float32."""
    tracker: Literal["none", "wandb", "trackio", "mlflow"] = "none"
    """Also hand the figures of metrics.jsonl to this experiment tracker; without network or account they stay here."""
    log_every: int = 500
    """Updates between lines in metrics.jsonl."""
    diagnostics_every: int = 10_000
    """Updates between diagnostics (rank and dead units of the networks, Q against returns); 0 leaves them out."""
    algorithm: AlgorithmConfig = field(default_factory=IQLConfig)
    """What learns, by --algorithm.name, and its hyper-parameters (those of another: `--algorithm.name NAME --help`)."""
    online: OnlineConfig = field(default_factory=OnlineConfig)
    """Concurrent fine-tuning."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Guard against a policy that gets worse online."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""

    def guards_in_turns(self) -> bool:
        """Whether fine-tuning stands still for each evaluation along the curve: lockstep with its guard."""
        return self.online.collectors == 0 and self.guard.enabled and self.evaluation.every_steps > 0

    def rules(self) -> list[tuple[str, bool, str]]:
        """(field, holds, what it must be) for every value that has a range."""
        o, e = self.online, self.evaluation
        return [
            ("pretrain_steps", self.pretrain_steps >= 0, "must be 0 or more"),
            ("online_steps", self.online_steps >= 0, "must be 0 or more"),
            ("threads", 0 <= self.threads <= MOST_THREADS, f"must lie in 0 to {MOST_THREADS:,}"),
            ("log_every", self.log_every >= 1, "must be 1 or more"),
            ("diagnostics_every", self.diagnostics_every >= 0, "must be 0 or more"),
            ("max_episode_steps", self.max_episode_steps >= 0, "must be 0 or more"),
            ("seed", self.seed >= 0, "must be 0 or more"),
            ("observation_clip", self.observation_clip > 0, "must be positive"),
            *((f"algorithm.{name}", holds, what) for name, holds, what in self.algorithm.rules()),
            ("online.collectors", 0 <= o.collectors <= 64, "must lie in 0 to 64"),
            ("online.envs_per_collector", 1 <= o.envs_per_collector <= 256, "must lie in 1 to 256"),
            ("online.envs_per_collector", o.collectors > 0 or o.envs_per_collector == 1, "lockstep drives one only"),
            ("online.step_deadline_seconds", o.step_deadline_seconds > 0.0, "must be positive"),
            ("online.warmup_steps", o.warmup_steps >= 1, "must be 1 or more"),
            ("online.utd", 0.02 <= o.utd <= 20.0, "must lie in 0.02 to 20"),
            ("online.offline_fraction", 0.0 <= o.offline_fraction <= 1.0, "must lie in [0, 1]"),
            ("online.tolerance_steps", o.tolerance_steps >= 1, "must be 1 or more"),
            ("online.publish_seconds", o.publish_seconds > 0.0, "must be positive"),
            ("online.publish_updates", o.publish_updates >= 1, "must be 1 or more"),
            ("online.max_staleness_seconds", o.max_staleness_seconds > 0.0, "must be positive"),
            ("online.rate", o.rate >= 0.0, "must be 0 or more"),
            ("online.rate", o.collectors > 0 or o.rate == 0.0, "lockstep knows no time: use 0, or collectors"),
            ("online.candidates", 2 <= o.candidates <= 256, "must lie in 2 to 256"),
            ("online.expansion_temperature", o.expansion_temperature > 0.0, "must be positive"),
            ("online.exploration_noise", o.exploration_noise >= 0.0, "must be 0 or more"),
            (
                "online.exploration_noise",
                o.exploration != "best_of_n" or o.exploration_noise > 0.0,
                "must be positive with online.exploration best_of_n: else all candidates are alike",
            ),
            (
                "online.exploration",
                o.exploration != "expansion" or self.pretrain_steps > 0,
                "needs a pretrained policy to keep: give --pretrain-steps, or --online.exploration sample",
            ),
            ("guard.standard_errors", self.guard.standard_errors >= 0.0, "must be 0 or more"),
            ("guard.window", self.guard.window >= 1, "must be 1 or more"),
            ("guard.pause_steps", self.guard.pause_steps >= 0, "must be 0 or more"),
            ("evaluation.episodes", e.episodes >= 1, "must be 1 or more"),
            ("evaluation.final_episodes", e.final_episodes >= 1, "must be 1 or more"),
            ("evaluation.every_steps", e.every_steps >= 0, "must be 0 or more"),
            ("checkpoint.every_updates", self.checkpoint.every_updates >= 1, "must be 1 or more"),
            ("checkpoint.keep", self.checkpoint.keep >= 2, "must be 2 or more"),
        ]
