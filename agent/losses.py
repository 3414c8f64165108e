"""The algorithms' losses as pure functions; equation numbers are of IQL (Kostrikov et al. 2021) unless stated.

Shapes: B batch, A action, N critics. All tensors float32 unless stated; every loss returns a scalar.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def expectile_loss(difference_B: Tensor, expectile: float) -> Tensor:
    """Mean of |τ − 1(u < 0)|·u² over u = Q̂ − V (equations 4 and 5).

    `difference_B`: [B], `expectile` τ in (0, 1). τ = 0.5 is half the mean squared error; τ → 1 makes V the
    in-sample maximum of Q̂.
    """
    weight_B = torch.where(difference_B < 0, 1.0 - expectile, expectile)
    return (weight_B * difference_B.square()).mean()


def td_target(reward_B: Tensor, discount_B: Tensor, next_value_B: Tensor) -> Tensor:
    """r + γ(1 − terminated)·V(s'), the target of equation 6; `discount_B` already holds γ(1 − terminated).

    A time limit (truncated) leaves the discount at γ: only termination stops the bootstrap.
    """
    return reward_B + discount_B * next_value_B


def td_loss(q_NB: Tensor, target_B: Tensor) -> Tensor:
    """Sum over the N critics of the mean squared error to one shared target (equation 6). `q_NB`: [N, B]."""
    return (q_NB - target_B).square().mean(dim=1).sum()


def standardized(advantage_B: Tensor) -> Tensor:
    """(A − mean) / deviation over the batch (code of Peng et al. 2019, arXiv:1910.00177). Shape [B]."""
    return (advantage_B - advantage_B.mean()) / (advantage_B.std(correction=0) + 1e-5)


def expectile_td_loss(q_NB: Tensor, target_B: Tensor, expectile: float, counts_B: Tensor) -> Tensor:
    """Sum over the N critics of the mean of |τ − 1(u < 0)|·u² over u = target − Q (equation 4).

    An expectile over actions and over luck alike, unlike equation 5. Rows whose `counts_B` [B] is 0 are left out.
    """
    difference_NB = target_B - q_NB
    weight_NB = torch.where(difference_NB < 0, 1.0 - expectile, expectile) * counts_B
    return (weight_NB * difference_NB.square()).mean(dim=1).sum()


def quantile_huber_loss(z_NBK: Tensor, target_B: Tensor, zeta_K: Tensor) -> Tensor:
    """Sum over the N critics of the mean of |ζ − 1(u < 0)|·L(u) over u = target − Z(ζ), L Huber's with κ = 1.

    Dabney et al. 2018 (arXiv:1806.06923), equation 3, with one sample of the target a row.
    """
    difference_NBK = target_B[:, None] - z_NBK
    size_NBK = difference_NBK.abs()
    huber_NBK = torch.where(size_NBK <= 1.0, 0.5 * difference_NBK.square(), size_NBK - 0.5)
    weight_NBK = torch.where(difference_NBK < 0, 1.0 - zeta_K, zeta_K)
    return (weight_NBK * huber_NBK).mean(dim=(1, 2)).sum()


def advantage_weights(advantage_B: Tensor, beta: float, clip: float) -> Tensor:
    """min(exp(β·A), clip), the weights of equation 7; the clip (100) is the authors' code's. Shape [B]."""
    # The exponent is bounded before exp: float32 overflows at 88 and an infinite weight times a zero is NaN.
    return torch.exp(torch.clamp(beta * advantage_B, max=math.log(clip)))


def gaussian_log_prob(mean_BA: Tensor, log_std_A: Tensor, action_BA: Tensor) -> Tensor:
    """log N(a; μ, diag σ²) summed over action dimensions. Shapes [B, A], [A], [B, A] → [B]."""
    z_BA = (action_BA - mean_BA) * torch.exp(-log_std_A)
    return (-0.5 * z_BA.square() - log_std_A - LOG_SQRT_2PI).sum(dim=-1)


def gaussian_kl(mean_BA: Tensor, log_std_A: Tensor, other_mean_BA: Tensor, other_log_std_A: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(μ', σ'²)) summed over action dimensions. Shapes [B, A], [A], [B, A], [A] → [B]."""
    difference_A = log_std_A - other_log_std_A
    z_BA = (mean_BA - other_mean_BA) * torch.exp(-other_log_std_A)
    return (0.5 * (torch.exp(2.0 * difference_A) + z_BA.square() - 1.0) - difference_A).sum(dim=-1)


def squashed_gaussian_log_prob(eps_BA: Tensor, log_std_BA: Tensor, before_BA: Tensor) -> Tensor:
    """log π of a = tanh(x), x = μ + σ·ε, summed over action dimensions (Haarnoja et al. 2018, equation 26).

    log N(x; μ, σ²) − log(1 − tanh²(x)), the latter as 2·(log 2 − x − softplus(−2x)): exact where tanh has saturated
    and 1 − a² is 0 in float32, because it starts from x and never from atanh(a). Shapes [..., B, A] → [..., B].
    """
    normal = -0.5 * eps_BA.square() - log_std_BA - LOG_SQRT_2PI
    change_of_variables = 2.0 * (math.log(2.0) - before_BA - functional.softplus(-2.0 * before_BA))
    return (normal - change_of_variables).sum(dim=-1)


def policy_gradient_loss(q_B: Tensor, scale: Tensor) -> Tensor:
    """−E[Q(s, μ(s))] / scale; scale E|Q| makes it blind to the rewards' size (Fujimoto & Gu 2021, arXiv:2106.06860)."""
    return -q_B.mean() / scale.detach()


def scale_of(q_B: Tensor) -> Tensor:
    """mean|Q| without gradient, and never zero however the values begin."""
    return q_B.detach().abs().mean().clamp(min=1e-6)


def squared_action_error(mean_BA: Tensor, action_BA: Tensor) -> Tensor:
    """½‖a − μ‖² of each row: −log N(a; μ, 1) but for a constant. Shapes [B, A], [B, A] → [B]."""
    return 0.5 * (action_BA - mean_BA).square().sum(dim=-1)


def weighted_regression_loss(weights_B: Tensor, log_prob_B: Tensor) -> Tensor:
    """−E[w·log π(a|s)], advantage-weighted policy extraction (equation 7). The weights carry no gradient."""
    return -(weights_B.detach() * log_prob_B).mean()


def soft_policy_loss(log_prob_B: Tensor, q_B: Tensor, temperature: Tensor) -> Tensor:
    """E[α·log π(ã|s) − Q(s, ã)] (Haarnoja et al. 2018, equation 9). α carries no gradient."""
    return (temperature.detach() * log_prob_B - q_B).mean()


def temperature_loss(temperature: Tensor, log_prob_B: Tensor, target_entropy: float) -> Tensor:
    """α·(E[−log π] − H̄): raises α where the entropy is below H̄ (Haarnoja et al. 2018, equation 18)."""
    return temperature * (-log_prob_B.detach().mean() - target_entropy)


def conservative_gap(q_NMB: Tensor, q_NB: Tensor, log_density_MB: Tensor | None) -> Tensor:
    """E[log Σ_j exp(Q(s, a_j))/μ(a_j) − Q(s, a)] of each critic (Kumar et al. 2020, equation 4 and appendix F), [N].

    `q_NMB` of M sampled actions with log μ [M, B], `q_NB` of the data's. Without densities the data's action joins the
    sum, unweighted, as in the authors' code.
    """
    if log_density_MB is None:
        q_NMB = torch.cat([q_NMB, q_NB[:, None]], dim=1)
    else:
        q_NMB = q_NMB - log_density_MB
    return (torch.logsumexp(q_NMB, dim=1) - q_NB).mean(dim=1)
