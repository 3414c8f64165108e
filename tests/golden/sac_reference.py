"""SAC's, CQL's and Cal-QL's updates in plain NumPy float64, from their papers' equations: slow, no code of ours.

SAC: Haarnoja et al. 2018 (arXiv:1812.05905), equations 5 to 9, 18 and 26. CQL(H): Kumar et al. 2020 (arXiv:2006.04779),
equation 4, its importance-sampled log-sum-exp of appendix F, its Lagrange form of equation 30. Cal-QL: Nakamoto et al.
2023 (arXiv:2303.05479), equation 5.1. Gradients are derived by hand. `mistake` makes one deliberate error.

Shapes: B batch, A action, N critics, K actions of one kind, M = 3K sampled actions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tests.golden.iql_reference import Adam, Array, Network


@dataclass
class Sample:
    """Actions of the policy with all that a gradient needs; [..., B, A], `log_prob` [..., B]."""

    action: Array
    log_prob: Array
    noise: Array
    inside: Array
    tape: list[tuple[Array, ...]]


class ReferenceSAC:
    """All of a learner's state. Networks are taken over, not copied. `settings` are the configuration's fields."""

    def __init__(self, *, actor: Network, critics: list[Network], settings: Mapping[str, float], kind: str) -> None:
        self.actor, self.critics, self.kind = actor, critics, kind
        self.targets = [critic.copy() for critic in critics]
        self.settings, self.updates, self.mistake = dict(settings), 0, str(settings.get("mistake", ""))
        self.log_temperature = np.array(math.log(settings["initial_temperature"]))
        self.log_factor = np.array(1.0)
        self.actor_adam = Adam(actor.parameters())
        self.critic_adams = [Adam(critic.parameters()) for critic in critics]
        self.temperature_adam, self.factor_adam = Adam([self.log_temperature]), Adam([self.log_factor])

    def sample(self, s: Array, eps: Array) -> Sample:
        out, tape = self.actor.forward(s)
        mean, raw = np.split(out, 2, axis=1)
        log_std = np.clip(raw, -20.0, 2.0)
        x = mean + np.exp(log_std) * eps
        action = np.tanh(x)
        log_normal = -0.5 * eps**2 - log_std - 0.5 * math.log(2.0 * math.pi)
        # log(1 - tanh(x)^2) = -2 log cosh x
        log_cosh = np.abs(x) + np.log1p(np.exp(-2.0 * np.abs(x))) - math.log(2.0)
        correction = 0.0 if self.mistake == "density before tanh" else -2.0 * log_cosh
        log_prob = (log_normal - correction).sum(axis=-1)
        return Sample(action, log_prob, np.exp(log_std) * eps, (raw > -20.0) & (raw < 2.0), tape)

    def update(
        self, s: Array, a: Array, r: Array, s2: Array, terminated: Array, to_go: Array, noise: Mapping[str, Array],
        subset: Array,
    ) -> dict[str, float]:  # fmt: skip
        """s, s2 [B, O], a [B, A], r, terminated, to_go (NaN: unknown) [B]; noise by name, `subset` of the targets."""
        c, B = self.settings, len(s)
        self.updates += 1
        temperature = math.exp(self.log_temperature)

        # Equation 5, with one action at s' or the best of several; i over the subset.
        next_ = self.sample(s2, noise["next"])
        actions = next_.action if next_.action.ndim == 3 else next_.action[None]
        log_probs = next_.log_prob.reshape(len(actions), B)
        judges = range(len(self.targets)) if self.mistake == "all targets" else subset
        q2 = np.stack([
            np.min([self.targets[i].forward(np.concatenate([s2, each], axis=1))[0][:, 0] for i in judges], axis=0)
            for each in actions
        ])  # fmt: skip
        best = q2.argmax(axis=0)
        value = q2[best, np.arange(B)]
        if c["backup_entropy"] and self.mistake != "no entropy":
            value = value - temperature * log_probs[best, np.arange(B)]
        y = r + c["discount"] * (1.0 - terminated) * value

        sa = np.concatenate([s, a], axis=1)
        says = {"critic_loss": 0.0}
        gaps, tapes = [], []
        for critic in self.critics:
            q, tape = critic.forward(sa)
            says["critic_loss"] += float(np.mean((q[:, 0] - y) ** 2))
            d_q = 2.0 * (q[:, 0] - y) / B
            extra = None
            if self.kind != "sac":
                gap, d_data, sampled = self.gap(critic, q[:, 0], s, s2, to_go, noise)
                gaps.append(gap)
                extra = (d_data, sampled)
            tapes.append((tape, d_q, extra))
        factor = c.get("conservative_weight", 0.0)
        if c.get("lagrange"):
            factor_now = min(math.exp(self.log_factor), 1e6)
            excess = factor * (np.mean(gaps) - c["target_action_gap"])
            self.factor_adam.step([np.array(-factor_now * excess)], c["learning_rate"])
            factor *= factor_now
        for critic, adam, (tape, d_q, extra) in zip(self.critics, self.critic_adams, tapes, strict=True):
            if extra is None:
                adam.step(critic.backward(tape, d_q[:, None]), c["learning_rate"])
                continue
            d_data, sampled = extra
            gradients = critic.backward(tape, (d_q + factor * d_data)[:, None])
            for sampled_tape, d_sampled in sampled:
                more = critic.backward(sampled_tape, factor * d_sampled[:, None])
                gradients = [g + m for g, m in zip(gradients, more, strict=True)]
            adam.step(gradients, c["learning_rate"])
        if gaps:
            says["conservative_gap"] = float(np.mean(gaps))
        for target, critic in zip(self.targets, self.critics, strict=True):
            for p, q in zip(target.parameters(), critic.parameters(), strict=True):
                p += c["target_rate"] * (q - p)

        if self.updates % c["policy_delay"] == 0:
            says |= self.learn_policy(s, noise["now"], temperature)
        return says

    def learn_policy(self, s: Array, eps: Array, temperature: float) -> dict[str, float]:
        """Equations 9 and 18. With x = mu + sigma eps: d log pi/dx = 2a, d log pi/d log sigma = -1 + 2a sigma eps."""
        c, B = self.settings, len(s)
        now = self.sample(s, eps)
        judged = [critic.forward(np.concatenate([s, now.action], axis=1)) for critic in self.critics]
        q = np.stack([value[:, 0] for value, _ in judged])
        share = np.full(q.shape, 1.0 / len(q))
        if c["policy_q"] == "min":
            share = (np.arange(len(q))[:, None] == q.argmin(axis=0)).astype(float)
        d_action = np.zeros_like(now.action)
        for critic, (_, tape), part in zip(self.critics, judged, share, strict=True):
            d_action += critic.backward_to_input(tape, part[:, None])[1][:, s.shape[1] :]
        loss = np.mean(temperature * now.log_prob - (share * q).sum(axis=0))
        d_before = (temperature * 2.0 * now.action - d_action * (1.0 - now.action**2)) / B
        d_log_std = (d_before * now.noise - temperature / B) * now.inside
        gradients = self.actor.backward(now.tape, np.concatenate([d_before, d_log_std], axis=1))
        self.actor_adam.step(gradients, c["actor_learning_rate"])
        excess = -now.log_prob.mean() - c["target_entropy"] * now.action.shape[1]
        self.temperature_adam.step([np.array(temperature * excess)], c["actor_learning_rate"])
        return {"actor_loss": float(loss), "entropy": float(-now.log_prob.mean())}

    def gap(
        self, critic: Network, q_data: Array, s: Array, s2: Array, to_go: Array, noise: Mapping[str, Array]
    ) -> tuple[float, Array, list[tuple[list[tuple[Array, ...]], Array]]]:
        """Of one critic: mean of log sum exp - Q(s, a), its derivative by that Q, and by each sampled one."""
        B, A = noise["anywhere"].shape[1:]
        now, next_ = self.sample(s, noise["conservative_now"]), self.sample(s2, noise["conservative_next"])
        if self.mistake == "next actions at s'":
            states = [*[s] * 2 * len(now.action), *[s2] * len(next_.action)]
        else:
            states = [s] * 3 * len(now.action)
        density = np.concatenate([np.full_like(now.log_prob, -A * math.log(2.0)), now.log_prob, next_.log_prob])
        if self.mistake == "no density":
            density = 0.0 * density
        values, tapes, open_ = [], [], []
        for m, action in enumerate(np.concatenate([noise["anywhere"], now.action, next_.action])):
            q, tape = critic.forward(np.concatenate([states[m], action], axis=1))
            value, free = q[:, 0], np.ones(B)
            if self.kind == "cal_ql" and m >= len(noise["anywhere"]):
                floor = np.where(np.isnan(to_go), -np.inf, to_go)
                value, free = np.maximum(value, floor), (value > floor).astype(float)
            values.append(value)
            tapes.append(tape)
            open_.append(free)
        terms = np.stack(values)
        if self.settings["importance_sampling"]:
            terms = terms - density
        else:
            terms = np.concatenate([terms, q_data[None]])
        top = terms.max(axis=0)
        total = top + np.log(np.exp(terms - top).sum(axis=0))
        weight = np.exp(terms - total)
        d_data = -np.ones(B) / B
        if not self.settings["importance_sampling"]:
            d_data = d_data + weight[-1] / B
        sampled = [(tape, weight[m] * open_[m] / B) for m, tape in enumerate(tapes)]
        return float(np.mean(total - q_data)), d_data, sampled
