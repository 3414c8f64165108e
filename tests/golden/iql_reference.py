"""One IQL update in plain NumPy float64, written from the paper's equations alone: slow, and shares no code with ours.

Kostrikov, Nair, Levine 2021 (arXiv:2110.06169), equations 5 to 7; the order of the updates and the clip of the weights
are those of the authors' code: V first, then critics and policy with the new V, then the target critics. Every gradient
is derived by hand below. `mistake` makes one deliberate error, for tests that must be able to notice it.

Shapes: B batch, O observation, A action, N critics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray
LAYER_NORM_EPSILON = 1e-5


@dataclass
class Network:
    """Affine layers with ReLU between them; where `scales` is not empty, LayerNorm comes before each ReLU."""

    weights: list[Array]
    """[in, out] of each layer."""
    biases: list[Array]
    scales: list[Array] = field(default_factory=list)
    shifts: list[Array] = field(default_factory=list)

    def parameters(self) -> list[Array]:
        return [*self.weights, *self.biases, *self.scales, *self.shifts]

    def copy(self) -> Network:
        return Network(*([p.copy() for p in part] for part in (self.weights, self.biases, self.scales, self.shifts)))

    def forward(self, x: Array) -> tuple[Array, list[tuple[Array, ...]]]:
        """[B, in] -> ([B, out], what `backward` needs)."""
        tape: list[tuple[Array, ...]] = []
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = x @ weight + bias
            if i == last:
                tape.append((x,))
                return y, tape
            if self.scales:
                inverse = 1.0 / np.sqrt(y.var(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
                unit = (y - y.mean(axis=1, keepdims=True)) * inverse
                y = unit * self.scales[i] + self.shifts[i]
                tape.append((x, y > 0, unit, inverse))
            else:
                tape.append((x, y > 0))
            x = np.where(y > 0, y, 0.0)
        raise AssertionError("a network has at least one layer")

    def backward(self, tape: list[tuple[Array, ...]], gradient: Array) -> list[Array]:
        """Gradients in the order of `parameters`, given that of the output [B, out]."""
        return self.backward_to_input(tape, gradient)[0]

    def backward_to_input(self, tape: list[tuple[Array, ...]], gradient: Array) -> tuple[list[Array], Array]:
        """The same, and the gradient of the input [B, in]."""
        d_weights: list[Array] = []
        d_biases: list[Array] = []
        d_scales: list[Array] = []
        d_shifts: list[Array] = []
        for i in reversed(range(len(self.weights))):
            if i < len(self.weights) - 1:
                gradient = gradient * tape[i][1]
                if self.scales:
                    unit, inverse = tape[i][2:]
                    d_scales.insert(0, (gradient * unit).sum(axis=0))
                    d_shifts.insert(0, gradient.sum(axis=0))
                    g = gradient * self.scales[i]
                    mean, along = g.mean(axis=1, keepdims=True), (g * unit).mean(axis=1, keepdims=True)
                    gradient = inverse * (g - mean - unit * along)
            d_weights.insert(0, tape[i][0].T @ gradient)
            d_biases.insert(0, gradient.sum(axis=0))
            gradient = gradient @ self.weights[i].T
        return [*d_weights, *d_biases, *d_scales, *d_shifts], gradient


class Adam:
    """Kingma & Ba 2014, with torch's defaults; changes the parameters in place."""

    def __init__(self, parameters: list[Array]) -> None:
        self.parameters = parameters
        self.first = [np.zeros_like(p) for p in parameters]
        self.second = [np.zeros_like(p) for p in parameters]
        self.steps = 0

    def step(self, gradients: list[Array], learning_rate: float) -> None:
        self.steps += 1
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m *= 0.9
            m += 0.1 * g
            v *= 0.999
            v += 0.001 * g**2
            m_hat, v_hat = m / (1.0 - 0.9**self.steps), v / (1.0 - 0.999**self.steps)
            p -= learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)


class ReferenceIQL:
    """All of a learner's state. Networks are taken over, not copied."""

    def __init__(
        self,
        *,
        actor: Network,
        log_std: Array,
        critics: list[Network],
        value: Network,
        expectile: float,
        beta: float,
        weight_clip: float,
        discount: float,
        target_rate: float,
        learning_rate: float,
        offline_steps: int,
        policy: str = "awr",
        bc_weight: float = 1.0,
        blend_updates: int = 1,
        mistake: str = "",
    ) -> None:
        self.actor, self.log_std, self.critics, self.value = actor, log_std, critics, value
        self.targets = [critic.copy() for critic in critics]
        self.tau, self.beta, self.weight_clip = expectile, beta, weight_clip
        self.discount, self.alpha, self.learning_rate = discount, target_rate, learning_rate
        self.offline_steps, self.mistake, self.updates = offline_steps, mistake, 0
        self.policy, self.bc_weight, self.blend_updates = policy, bc_weight, blend_updates
        self.actor_adam = Adam([*actor.parameters(), log_std])
        self.critic_adams = [Adam(critic.parameters()) for critic in critics]
        self.value_adam = Adam(value.parameters())

    def update(self, s: Array, a: Array, r: Array, s2: Array, terminated: Array, truncated: Array) -> dict[str, Array]:
        """s, s2 [B, O], a [B, A] in [-1, 1], r, terminated, truncated [B]."""
        B = len(s)
        sa = np.concatenate([s, a], axis=1)
        judges = self.critics if self.mistake == "online critics judge" else self.targets
        if self.mistake == "targets first":
            self._move_targets()
        judged = np.stack([critic.forward(sa)[0][:, 0] for critic in judges])
        q_hat = judged.mean(axis=0) if self.mistake == "mean of critics" else judged.min(axis=0)
        old_v, old_v2 = (self.value.forward(x)[0][:, 0] for x in (s, s2))

        # Equation 5: L = mean |tau - 1(u < 0)| u^2 with u = Q - V, so dL/dV = -2 |...| u / B.
        v, tape = self.value.forward(s)
        u = q_hat - v[:, 0]
        weight = np.where(u < 0, 1.0 - self.tau, self.tau)
        value_loss = np.mean(weight * u**2)
        self.value_adam.step(self.value.backward(tape, (-2.0 * weight * u / B)[:, None]), self.learning_rate)

        # Equation 6, with the new V: L_i = mean (Q_i - y)^2, so dL_i/dQ_i = 2 (Q_i - y) / B.
        v2 = old_v2 if self.mistake == "old V in the target" else self.value.forward(s2)[0][:, 0]
        ended = np.maximum(terminated, truncated) if self.mistake == "truncated is terminal" else terminated
        y = r + self.discount * (1.0 - ended) * v2
        critic_loss = 0.0
        for critic, adam in zip(self.critics, self.critic_adams, strict=True):
            q, tape = critic.forward(sa)
            error = q[:, 0] - y
            critic_loss += np.mean(error**2)
            adam.step(critic.backward(tape, (2.0 * error / B)[:, None]), self.learning_rate)

        # Equation 7, with the new V: L = -mean w log N(a; m, sigma), m = tanh(raw). With z = (a - m) / sigma:
        # dL/dm = -w z / sigma / B, dm/draw = 1 - m^2, dL/dlog sigma = -sum_B w (z^2 - 1) / B. Other policies below.
        new_v = old_v if self.mistake == "old V in the policy" else self.value.forward(s)[0][:, 0]
        advantage = q_hat - new_v
        w = np.minimum(np.exp(self.beta * advantage), self.weight_clip)
        raw, tape = self.actor.forward(s)
        m = np.tanh(raw)
        log_sigma = np.clip(self.log_std, -5.0, 2.0)
        actor_loss, d_m, d_log_std = self._policy_loss(s, a, m, log_sigma, w)
        d_log_std *= (self.log_std >= -5.0) & (self.log_std <= 2.0)
        d_raw = d_m * (1.0 - m**2)
        self.actor_adam.step([*self.actor.backward(tape, d_raw), d_log_std], self._actor_learning_rate())

        if self.mistake != "targets first":
            self._move_targets()
        self.updates += 1
        return {
            "value_loss": np.asarray(value_loss),
            "critic_loss": np.asarray(critic_loss),
            "actor_loss": np.asarray(actor_loss),
            "v": new_v,
            "advantage": advantage,
            "weight": w,
        }

    def _policy_loss(self, s: Array, a: Array, m: Array, log_sigma: Array, w: Array) -> tuple[float, Array, Array]:
        """Loss of the policy and its gradients by the mean [B, A] and by log sigma [A]."""
        online = self.updates - self.offline_steps
        omega = {"ddpg_bc": 1.0, "blended": min(1.0, max(0.0, online / self.blend_updates))}.get(self.policy, 0.0)
        loss, d_m, d_log_std = 0.0, np.zeros_like(m), np.zeros_like(log_sigma)
        parts = [(1.0 - omega, self._weighted_regression(a, m, log_sigma, w))] if omega < 1.0 else []
        parts += [(omega, self._follow_q(s, a, m, log_sigma))] if omega > 0.0 else []
        for share, (part, by_m, by_log_sigma) in parts:
            loss, d_m, d_log_std = loss + share * part, d_m + share * by_m, d_log_std + share * by_log_sigma
        return loss, d_m, d_log_std

    def _weighted_regression(self, a: Array, m: Array, log_sigma: Array, w: Array) -> tuple[float, Array, Array]:
        B = len(a)
        if self.policy == "deterministic":
            # L = mean w |a - m|^2 / 2, and sigma by the likelihood around m.
            nll, _, d_log_std = self._likelihood(a, m, log_sigma, np.ones(B))
            return float(np.mean(w * 0.5 * ((a - m) ** 2).sum(axis=1))) + nll, -w[:, None] * (a - m) / B, d_log_std
        return self._likelihood(a, m, log_sigma, w)

    def _likelihood(self, a: Array, m: Array, log_sigma: Array, w: Array) -> tuple[float, Array, Array]:
        z = (a - m) / np.exp(log_sigma)
        log_prob = (-0.5 * z**2 - log_sigma - 0.5 * math.log(2.0 * math.pi)).sum(axis=1)
        d_m = -w[:, None] * z / np.exp(log_sigma) / len(a)
        return float(-np.mean(w * log_prob)), d_m, -(w[:, None] * (z**2 - 1.0)).sum(axis=0) / len(a)

    def _follow_q(self, s: Array, a: Array, m: Array, log_sigma: Array) -> tuple[float, Array, Array]:
        """L = -mean Q(s, m) / mean |Q| + alpha mean |a - m|^2 / 2; the scale has no gradient, sigma as above."""
        B = len(s)
        sm = np.concatenate([s, m], axis=1)
        passes = [critic.forward(sm) for critic in self.critics]
        q = np.stack([out[:, 0] for out, _ in passes])
        least = q.argmin(axis=0)
        scale = np.abs(q.min(axis=0)).mean()
        d_m = -self.bc_weight * (a - m) / B
        for i, (critic, (_, tape)) in enumerate(zip(self.critics, passes, strict=True)):
            by_q = np.where(least == i, -1.0 / scale / B, 0.0)[:, None]
            d_m = d_m + critic.backward_to_input(tape, by_q)[1][:, s.shape[1] :]
        nll, _, d_log_std = self._likelihood(a, m, log_sigma, np.ones(B))
        held_back = self.bc_weight * np.mean(0.5 * ((a - m) ** 2).sum(axis=1))
        return float(-q.min(axis=0).mean() / scale + held_back) + nll, d_m, d_log_std

    def _actor_learning_rate(self) -> float:
        if self.updates >= self.offline_steps or self.mistake == "no schedule":
            return self.learning_rate
        return self.learning_rate * (1.0 + math.cos(math.pi * self.updates / self.offline_steps)) / 2.0

    def _move_targets(self) -> None:
        for target, critic in zip(self.targets, self.critics, strict=True):
            for t, p in zip(target.parameters(), critic.parameters(), strict=True):
                t += self.alpha * (p - t)
