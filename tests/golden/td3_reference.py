"""TD3+BC's and ReBRAC's updates in plain NumPy float64, from their papers' equations: slow, shares no code with ours.

TD3: Fujimoto, van Hoof, Meger 2018 (arXiv:1802.09477), algorithm 1. TD3+BC: Fujimoto & Gu 2021 (arXiv:2106.06860).
ReBRAC: Tarasov et al. 2023 (arXiv:2305.09836). Gradients are derived by hand.
`mistake` makes one deliberate error, for tests that must be able to notice it.

Shapes: B batch, O observation, A action, N critics.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from tests.golden.iql_reference import Adam, Array, Network


class ReferenceTD3:
    """All of a learner's state. Networks are taken over, not copied.

    `kind` "td3_bc": `policy_weight` is its α. "rebrac": `policy_weight` is β1 and `critic_weight` β2.
    """

    def __init__(
        self,
        *,
        kind: Literal["td3_bc", "rebrac"],
        actor: Network,
        critics: list[Network],
        policy_weight: float,
        critic_weight: float,
        discount: float,
        target_rate: float,
        learning_rate: float,
        noise: float,
        noise_clip: float,
        delay: int,
        mistake: str = "",
    ) -> None:
        self.kind, self.actor, self.critics = kind, actor, critics
        self.target_actor, self.target_critics = actor.copy(), [critic.copy() for critic in critics]
        self.policy_weight, self.critic_weight = policy_weight, critic_weight
        self.discount, self.alpha, self.learning_rate = discount, target_rate, learning_rate
        self.noise, self.noise_clip, self.delay, self.mistake = noise, noise_clip, delay, mistake
        self.updates = 0
        self.actor_adam = Adam(actor.parameters())
        self.critic_adams = [Adam(critic.parameters()) for critic in critics]

    def update(
        self, s: Array, a: Array, r: Array, s2: Array, terminated: Array, a2: Array, known: Array, eps: Array
    ) -> dict[str, Array]:
        """s, s2 [B, O], a, a2 [B, A], r, terminated, known [B], eps [B, A] standard normal."""
        B, A = a.shape
        self.updates += 1
        judge = self.actor if self.mistake == "online policy in the target" else self.target_actor
        smoothing = np.clip(self.noise * eps, -self.noise_clip, self.noise_clip)
        if self.mistake == "no smoothing":
            smoothing = smoothing * 0.0
        next_a = np.clip(np.tanh(judge.forward(s2)[0]) + smoothing, -1.0, 1.0)
        next_q = np.stack([c.forward(np.concatenate([s2, next_a], 1))[0][:, 0] for c in self.target_critics])
        next_value = next_q.mean(axis=0) if self.mistake == "mean of critics" else next_q.min(axis=0)
        if self.kind == "rebrac":
            known = np.ones(B) if self.mistake == "unknown next actions count" else known
            next_value = next_value - self.critic_weight * known * ((next_a - a2) ** 2).sum(axis=1)
        y = r + self.discount * (1.0 - terminated) * next_value
        sa = np.concatenate([s, a], axis=1)
        critic_loss = 0.0
        for critic, adam in zip(self.critics, self.critic_adams, strict=True):
            q, tape = critic.forward(sa)
            error = q[:, 0] - y
            critic_loss += np.mean(error**2)
            adam.step(critic.backward(tape, (2.0 * error / B)[:, None]), self.learning_rate)
        report = {"critic_loss": np.asarray(critic_loss)}
        if self.updates % self.delay and self.mistake != "no delay":
            return report

        # L = weight * imitation - scale * mean Q, with scale constant; the action gets dL/dQ dQ/da + dL/d(imitation).
        raw, tape = self.actor.forward(s)
        pi = np.tanh(raw)
        passes = [critic.forward(np.concatenate([s, pi], axis=1)) for critic in self.critics]
        values = np.stack([q[:, 0] for q, _ in passes])
        chosen = values.argmin(axis=0) if self.kind == "rebrac" else np.zeros(B, int)
        q = values[chosen, np.arange(B)]
        scale = 1.0 / np.abs(q).mean()
        if self.mistake == "value not normalised":
            scale = 1.0
        if self.kind == "td3_bc":
            scale, imitation, d_pi = scale * self.policy_weight, np.mean((pi - a) ** 2), 2.0 * (pi - a) / (B * A)
        else:
            imitation = self.policy_weight * np.mean(((pi - a) ** 2).sum(axis=1))
            d_pi = self.policy_weight * 2.0 * (pi - a) / B
        for number, (critic, (_, critic_tape)) in enumerate(zip(self.critics, passes, strict=True)):
            d_q = np.where(chosen == number, -scale / B, 0.0)[:, None]
            d_pi = d_pi + critic.backward_to_input(critic_tape, d_q)[1][:, s.shape[1] :]
        self.actor_adam.step(self.actor.backward(tape, d_pi * (1.0 - pi**2)), self.learning_rate)
        for target, network in [
            (self.target_actor, self.actor),
            *zip(self.target_critics, self.critics, strict=True),
        ]:
            for t, p in zip(target.parameters(), network.parameters(), strict=True):
                t += self.alpha * (p - t)
        return {**report, "actor_loss": np.asarray(imitation - scale * q.mean())}
