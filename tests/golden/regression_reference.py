"""AWAC's, AWR's and one-step RL's updates in plain NumPy float64, from their papers; shares no code with ours.

AWAC: Nair et al. 2020 (arXiv:2006.09359). AWR: Peng et al. 2019 (arXiv:1910.00177). One-step RL: Brandfonbrener et al.
2021 (arXiv:2106.08909). All extract the policy by weighted regression, but for the reverse KL. Gradients are derived by
hand. `mistake` makes one deliberate error.

Shapes: B batch, O observation, A action, N critics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tests.golden.iql_reference import Adam, Array, Network


@dataclass
class Policy:
    """N(tanh(network(s)), exp(log_std)²), its mean bounded and its samples clipped to ±1."""

    network: Network
    log_std: Array

    def parameters(self) -> list[Array]:
        return [*self.network.parameters(), self.log_std]

    def copy(self) -> Policy:
        return Policy(self.network.copy(), self.log_std.copy())

    def mean(self, s: Array) -> Array:
        return np.tanh(self.network.forward(s)[0])

    def sample(self, s: Array, eps: Array) -> Array:
        return np.clip(self.mean(s) + np.exp(self.log_std) * eps, -1.0, 1.0)


@dataclass
class Reference:
    """All of a learner's state. Networks are taken over, not copied; a kind without critics or value has none."""

    kind: Literal["awac", "awr", "exponential", "reverse_kl"]
    policy: Policy
    critics: list[Network]
    value: Network | None
    beta: float
    weight_clip: float
    kl_weight: float
    target_rate: float
    learning_rate: float
    offline_steps: int
    mistake: str = ""
    updates: int = 0
    behaviour: Policy | None = None
    targets: list[Network] = field(init=False)

    def __post_init__(self) -> None:
        self.targets = [critic.copy() for critic in self.critics]
        self.policy_adam = Adam(self.policy.parameters())
        self.critic_adams = [Adam(critic.parameters()) for critic in self.critics]
        self.value_adam = Adam(self.value.parameters()) if self.value else None

    def update(
        self, s: Array, a: Array, r: Array, discount: Array, s2: Array, a2: Array, known: Array, eps: Array, eps2: Array
    ) -> dict[str, Array]:
        """s, s2 [B, O]; a, a2, eps, eps2 [B, A]; r, discount = γ(1 − terminated), known [B]."""
        B = len(s)
        first = self.offline_steps // 2 if self.kind in ("exponential", "reverse_kl") else 0
        improving = self.updates >= first
        if self.updates == first and self.kind == "reverse_kl":
            self.behaviour = self.policy.copy()
        report: dict[str, Array] = {}
        weight = np.ones(B)
        if self.kind == "awac":
            y = r + discount * self._q(self.targets, s2, self.policy.sample(s2, eps2))
            report["critic_loss"] = self._learn_critics(s, a, y, np.ones(B))
            judges = self.targets if self.mistake == "old critics judge" else self.critics
            v = self._q(judges, s, a if self.mistake == "no own action" else self.policy.sample(s, eps))
            weight = self._weights(self._q(judges, s, a) - v)
            self._move_targets()
        elif self.kind == "awr":
            assert self.value
            target = r + discount * self.value.forward(s2)[0][:, 0]
            report["value_loss"] = self._learn_value(s, target, 2.0)
            advantage = target - self.value.forward(s)[0][:, 0]
            normal = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
            weight = self._weights(advantage if self.mistake == "advantages as they are" else normal)
        elif not improving:
            report["value_loss"] = self._learn_value(s, self._q(self.targets, s, a), 1.0) / 2.0
            counts = np.ones(B) if self.mistake == "all rows count" else np.maximum(known, discount == 0.0)
            report["critic_loss"] = self._learn_critics(s, a, r + discount * self._q(self.targets, s2, a2), counts)
            self._move_targets()
        elif self.kind == "exponential":
            assert self.value
            weight = self._weights(self._q(self.targets, s, a) - self.value.forward(s)[0][:, 0])
        if self.kind == "reverse_kl" and improving:
            report["actor_loss"] = self._reverse_kl(s, eps)
        else:
            report["actor_loss"] = self._regress(s, a, weight)
        self.updates += 1
        return report

    def _q(self, critics: list[Network], s: Array, a: Array) -> Array:
        values = np.stack([critic.forward(np.concatenate([s, a], axis=1))[0][:, 0] for critic in critics])
        return values.mean(axis=0) if self.mistake == "mean of critics" else values.min(axis=0)

    def _weights(self, advantage: Array) -> Array:
        clip = np.inf if self.mistake == "weights not clipped" else self.weight_clip
        return np.minimum(np.exp(self.beta * advantage), clip)

    def _learn_critics(self, s: Array, a: Array, y: Array, counts: Array) -> Array:
        loss = 0.0
        for critic, adam in zip(self.critics, self.critic_adams, strict=True):
            q, tape = critic.forward(np.concatenate([s, a], axis=1))
            error = (q[:, 0] - y) * counts
            loss += np.mean(error**2)
            adam.step(critic.backward(tape, (2.0 * error / len(s))[:, None]), self.learning_rate)
        return np.asarray(loss)

    def _learn_value(self, s: Array, target: Array, slope: float) -> Array:
        assert self.value and self.value_adam
        v, tape = self.value.forward(s)
        error = v[:, 0] - target
        self.value_adam.step(self.value.backward(tape, (slope * error / len(s))[:, None]), self.learning_rate)
        return np.asarray(np.mean(error**2))

    def _regress(self, s: Array, a: Array, weight: Array) -> Array:
        raw, tape = self.policy.network.forward(s)
        m, sigma = np.tanh(raw), np.exp(self.policy.log_std)
        z = (a - m) / sigma
        log_prob = (-0.5 * z**2 - np.log(sigma) - 0.5 * math.log(2.0 * math.pi)).sum(axis=1)
        d_raw = -weight[:, None] * z / sigma / len(s) * (1.0 - m**2)
        d_log_std = -(weight[:, None] * (z**2 - 1.0)).sum(axis=0) / len(s)
        self.policy_adam.step([*self.policy.network.backward(tape, d_raw), d_log_std], self._policy_rate())
        return np.asarray(-np.mean(weight * log_prob))

    def _reverse_kl(self, s: Array, eps: Array) -> Array:
        """KL = Σ log(σ'/σ) + (σ² + (m − m')²) / (2σ'²) − 1/2, and ã = m + σε within ±1."""
        assert self.behaviour
        B = len(s)
        raw, tape = self.policy.network.forward(s)
        m, sigma = np.tanh(raw), np.exp(self.policy.log_std)
        m2, sigma2 = self.behaviour.mean(s), np.exp(self.behaviour.log_std)
        kl = (np.log(sigma2 / sigma) + (sigma**2 + (m - m2) ** 2) / (2.0 * sigma2**2) - 0.5).sum(axis=1)
        free = m + sigma * eps
        passes = [critic.forward(np.concatenate([s, np.clip(free, -1, 1)], axis=1)) for critic in self.critics]
        values = np.stack([q[:, 0] for q, _ in passes])
        d_a = np.zeros_like(m)
        for number, (critic, (_, critic_tape)) in enumerate(zip(self.critics, passes, strict=True)):
            chosen = np.where(values.argmin(axis=0) == number, -1.0 / B, 0.0)[:, None]
            d_a += critic.backward_to_input(critic_tape, chosen)[1][:, s.shape[1] :]
        d_a *= np.abs(free) <= 1.0
        d_m = d_a + self.kl_weight * (m - m2) / sigma2**2 / B
        d_log_std = (d_a * sigma * eps).sum(axis=0) + self.kl_weight * (sigma**2 / sigma2**2 - 1.0)
        gradients = [*self.policy.network.backward(tape, d_m * (1.0 - m**2)), d_log_std]
        self.policy_adam.step(gradients, self._policy_rate())
        return np.asarray(np.mean(self.kl_weight * kl - values.min(axis=0)))

    def _policy_rate(self) -> float:
        if self.kind == "awac" or self.mistake == "no schedule":
            return self.learning_rate
        first = 0 if self.kind == "awr" else self.offline_steps // 2
        progress = max(0, self.updates - first) / (self.offline_steps - first)
        return self.learning_rate * (1.0 + math.cos(math.pi * progress)) / 2.0

    def _move_targets(self) -> None:
        for target, critic in zip(self.targets, self.critics, strict=True):
            for t, p in zip(target.parameters(), critic.parameters(), strict=True):
                t += self.target_rate * (p - t)
