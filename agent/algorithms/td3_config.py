"""Hyper-parameters that the methods built on TD3 share."""

from __future__ import annotations

from dataclasses import dataclass

from agent.algorithms.config import MOST_MEMBERS, AlgorithmConfig, Rule, count


@dataclass(frozen=True, kw_only=True)
class TD3Config(AlgorithmConfig):
    """TD3's own part, with its authors' values (Fujimoto, van Hoof, Meger 2018, arXiv:1802.09477)."""

    target_rate: float = 0.005
    """α of the moving average of target critics and target policy, in (0, 1]."""
    critics: int = 2
    """Members of the critic ensemble; the minimum over their targets is used."""
    critic_layer_norm: bool = False
    """LayerNorm in the critics' hidden layers."""
    policy_delay: int = 2
    """Policy and targets move in every so-many-th update only, 1 or more."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's action, which smooths the critics, ≥ 0."""
    target_noise_clip: float = 0.5
    """That noise is clipped to ± this, ≥ 0."""
    exploration_std: float = 0.1
    """Standard deviation of the noise added to actions while collecting; what is deployed has none."""

    def rules(self) -> list[Rule]:
        return [
            *super().rules(),
            ("target_rate", 0.0 < self.target_rate <= 1.0, "must lie in (0, 1]"),
            count("critics", self.critics, MOST_MEMBERS),
            ("policy_delay", self.policy_delay >= 1, "must be 1 or more"),
            ("target_noise", self.target_noise >= 0.0, "must be 0 or more"),
            ("target_noise_clip", self.target_noise_clip >= 0.0, "must be 0 or more"),
            (
                "exploration_std",
                self.exploration_std > 0.0,
                "must be positive: --online.exploration-noise 0 turns it off",
            ),
        ]
