"""Each loss against numbers worked out by hand, and its gradient against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from agent import losses

HALF_LOG_2PI = 0.9189385332046727


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_expectile_loss_weighs_the_two_sides_by_tau() -> None:
    # u = 2: 0.7·4 = 2.8;  u = −1: 0.3·1 = 0.3;  u = 0: 0;  mean = 3.1 / 3
    assert losses.expectile_loss(column(2.0, -1.0, 0.0), 0.7).item() == pytest.approx(3.1 / 3)


def test_expectile_loss_at_one_half_is_half_the_mean_squared_error() -> None:
    # (4 + 1 + 9) / 3 / 2
    assert losses.expectile_loss(column(2.0, -1.0, 3.0), 0.5).item() == pytest.approx(7.0 / 3)


def test_the_minimiser_of_the_expectile_loss_is_the_expectile() -> None:
    # Of {0, 1} at τ = 0.9: 0.9·(1 − v) = 0.1·v gives v = 0.9, so the derivative of the loss vanishes there.
    v = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    losses.expectile_loss(column(0.0, 1.0) - v, 0.9).backward()
    assert v.grad is not None
    # τ itself is a float32 in the loss, whatever the precision of its argument.
    assert v.grad.item() == pytest.approx(0.0, abs=1e-8)


def test_td_target_bootstraps_by_the_discount_of_each_row() -> None:
    # 1 + 0.99·10 = 10.9;  −1 + 0·10 = −1 (terminated);  0.5 + 0.99·(−2) = −1.48
    target = losses.td_target(column(1.0, -1.0, 0.5), column(0.99, 0.0, 0.99), column(10.0, 10.0, -2.0))
    assert target.tolist() == pytest.approx([10.9, -1.0, -1.48])


def test_td_loss_is_the_sum_over_critics_of_the_mean_squared_error() -> None:
    # first critic: ((1 − 0)² + (2 − 4)²) / 2 = 2.5;  second: ((3 − 0)² + (4 − 4)²) / 2 = 4.5;  sum 7
    q = torch.stack([column(1.0, 2.0), column(3.0, 4.0)])
    assert losses.td_loss(q, column(0.0, 4.0)).item() == pytest.approx(7.0)


def test_advantage_weights_are_the_clipped_exponential() -> None:
    # e^(3·0) = 1;  e^(3·0.5) = 4.48169;  e^(3·2) = 403.4 → 100;  e^(3·(−1)) = 0.0497871
    weights = losses.advantage_weights(column(0.0, 0.5, 2.0, -1.0), 3.0, 100.0)
    assert weights.tolist() == pytest.approx([1.0, 4.4816891, 100.0, 0.0497871])


def test_advantage_weights_of_absurd_advantages_are_finite_in_float32() -> None:
    weights = losses.advantage_weights(torch.tensor([1e9, 88.0, -1e9, 3e38]), 10.0, 100.0)
    assert weights.tolist() == pytest.approx([100.0, 100.0, 0.0, 100.0])


def test_without_temperature_every_weight_is_one() -> None:
    assert losses.advantage_weights(column(-5.0, 0.0, 7.0), 0.0, 100.0).tolist() == [1.0, 1.0, 1.0]


def test_gaussian_log_prob_sums_over_dimensions() -> None:
    # Dimension 0: σ = 1, z = 1: −0.5 − 0 − 0.9189385;  dimension 1: log σ = log 2, z = (2 − 0)/2 = 1: −0.5 − 0.6931472
    # − 0.9189385;  sum = −3.5310242
    log_prob = losses.gaussian_log_prob(column(0.0, 0.0)[None], column(0.0, math.log(2.0)), column(1.0, 2.0)[None])
    assert log_prob.tolist() == pytest.approx([-1.0 - math.log(2.0) - 2 * HALF_LOG_2PI])


def test_gaussian_log_prob_equals_torchs_own_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, action = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    log_std = torch.randn(3, generator=generator, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(-1)
    torch.testing.assert_close(losses.gaussian_log_prob(mean, log_std, action), expected)


def test_weighted_regression_loss_is_minus_the_mean_of_the_products() -> None:
    # −(2·(−1) + 0.5·(−4)) / 2 = 2
    assert losses.weighted_regression_loss(column(2.0, 0.5), column(-1.0, -4.0)).item() == pytest.approx(2.0)


def test_expectile_td_loss_weighs_shortfalls_by_tau_and_leaves_rows_out() -> None:
    # u = 3 − 1 = 2: 0.9·4 = 3.6;  u = 0 − 2 = −2: 0.1·4 = 0.4;  the third row does not count; mean over three rows
    q, target = column(1.0, 2.0, 5.0)[None], column(3.0, 0.0, 9.0)
    loss = losses.expectile_td_loss(q, target, 0.9, column(1.0, 1.0, 0.0))
    assert loss.item() == pytest.approx(4.0 / 3)
    twice = losses.expectile_td_loss(q.expand(2, 3), target, 0.9, column(1.0, 1.0, 0.0))
    assert twice.item() == pytest.approx(8.0 / 3)


def test_quantile_huber_loss_is_quadratic_near_and_linear_far() -> None:
    # ζ 0.1: u = 0.5 − 0 → 0.1·0.125 = 0.0125;  ζ 0.9: u = 0.5 − 3.5 = −3 → 0.1·(3 − 0.5) = 0.25;  mean 0.13125
    z = torch.tensor([[[0.0, 3.5]]], dtype=torch.float64)
    assert losses.quantile_huber_loss(z, column(0.5), column(0.1, 0.9)).item() == pytest.approx(0.13125)
    assert losses.quantile_huber_loss(z.expand(3, 1, 2), column(0.5), column(0.1, 0.9)).item() == pytest.approx(0.39375)


def test_policy_gradient_loss_is_minus_the_mean_over_the_scale() -> None:
    # −(3 + (−1)) / 2 / 2 = −0.5, and each q has the gradient −1 / 2 / 2
    q, scale = column(3.0, -1.0).requires_grad_(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    loss = losses.policy_gradient_loss(q, scale)
    assert loss.item() == pytest.approx(-0.5)
    loss.backward()
    assert q.grad is not None
    assert q.grad.tolist() == [-0.25, -0.25]
    assert scale.grad is None


def test_squared_action_error_is_half_the_squared_distance() -> None:
    # ½((0.5 − 0.1)² + (−1 − 0)²) = ½(0.16 + 1)
    error = losses.squared_action_error(column(0.1, 0.0)[None], column(0.5, -1.0)[None])
    assert error.tolist() == pytest.approx([0.58])


def test_the_weights_of_the_regression_carry_no_gradient() -> None:
    weights, log_prob = column(2.0, 0.5).requires_grad_(), column(-1.0, -4.0).requires_grad_()
    losses.weighted_regression_loss(weights, log_prob).backward()
    assert weights.grad is None
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [-1.0, -0.25]


def test_squashed_log_prob_is_the_normals_less_the_change_of_variables() -> None:
    # μ = 0, σ = 1, ε = 1: x = 1, a = tanh 1 = 0.76159416, log N = −0.5 − 0.9189385; log(1 − a²) = −0.8675617
    log_prob = losses.squashed_gaussian_log_prob(column(1.0)[None], column(0.0)[None], column(1.0)[None])
    assert log_prob.item() == pytest.approx(-0.5 - HALF_LOG_2PI + 0.8675617, abs=1e-7)


def test_squashed_log_prob_equals_torchs_own_distribution() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, log_std, eps = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    before = mean + log_std.exp() * eps
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), [torch.distributions.TanhTransform(cache_size=1)]
    )
    torch.testing.assert_close(
        losses.squashed_gaussian_log_prob(eps, log_std, before), squashed.log_prob(torch.tanh(before)).sum(-1)
    )


def test_squashed_log_prob_is_finite_and_exact_where_tanh_is_one_in_float32() -> None:
    # At x = 20 tanh is 1 in float32 and log(1 − a²) would be −inf; it is 2·(log 2 − 20) up to e^(−40).
    x = torch.tensor([[20.0], [-20.0], [90.0]], requires_grad=True)
    log_prob = losses.squashed_gaussian_log_prob(torch.zeros(3, 1), torch.zeros(3, 1), x)
    expected = [-HALF_LOG_2PI - 2.0 * (math.log(2.0) - abs(v)) for v in (20.0, -20.0, 90.0)]
    assert log_prob.tolist() == pytest.approx(expected, rel=1e-6)
    log_prob.sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == pytest.approx([2.0, -2.0, 2.0])


def test_soft_policy_loss_weighs_log_probability_by_the_temperature() -> None:
    # (0.5·(−1) − 3 + 0.5·2 − (−1)) / 2 = (−3.5 + 2) / 2
    loss = losses.soft_policy_loss(column(-1.0, 2.0), column(3.0, -1.0), torch.tensor(0.5, requires_grad=True))
    assert loss.item() == pytest.approx(-0.75)
    assert not loss.requires_grad


def test_temperature_falls_where_there_is_more_entropy_than_wanted() -> None:
    # Entropy −(−3 + 1)/2 = 1, wanted −2: the loss is α·3, so α falls; with −log π = −4 and wanted −2 it is α·(−2).
    alpha = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    losses.temperature_loss(alpha, column(-3.0, 1.0), -2.0).backward()
    assert alpha.grad is not None and alpha.grad.item() == pytest.approx(3.0)
    assert losses.temperature_loss(alpha, column(4.0), -2.0).item() == pytest.approx(-1.0)


def test_conservative_gap_is_the_importance_weighted_log_sum_less_the_data() -> None:
    # One critic, one state, Q = 1 and 2 at actions of density ½ and ¼, 3 in the data: log(2e + 4e²) − 3 = 0.5547978
    sampled, data = column(1.0, 2.0)[None, :, None], column(3.0)[None]
    gap = losses.conservative_gap(sampled, data, column(math.log(0.5), math.log(0.25))[:, None])
    assert gap.tolist() == pytest.approx([math.log(2.0 * math.e + 4.0 * math.e**2) - 3.0])
    # Without densities the data's action is one of them: log(e + e² + e³) − 3
    bare = losses.conservative_gap(sampled, data, None)
    assert bare.tolist() == pytest.approx([math.log(math.e + math.e**2 + math.e**3) - 3.0])


def test_what_is_given_per_row_comes_back_per_row() -> None:
    # A [B, 1] against a [B] would silently give [B, B].
    assert losses.td_target(torch.zeros(4), torch.zeros(4), torch.zeros(4)).shape == (4,)
    assert losses.advantage_weights(torch.zeros(4), 3.0, 100.0).shape == (4,)
    assert losses.gaussian_log_prob(torch.zeros(4, 2), torch.zeros(2), torch.zeros(4, 2)).shape == (4,)
    assert losses.td_loss(torch.zeros(3, 4), torch.zeros(4)).shape == ()


# Points away from the kinks at u = 0 and at the clip, where no derivative exists.
def points(*shape: int, seed: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x + 0.1 * torch.sign(x)


GRADIENTS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "expectile_loss": (lambda u: losses.expectile_loss(u, 0.8), (points(6, seed=0),)),
    "td_target": (losses.td_target, (points(6, seed=1), points(6, seed=2), points(6, seed=3))),
    "td_loss": (losses.td_loss, (points(3, 6, seed=4), points(6, seed=5))),
    "advantage_weights": (lambda a: losses.advantage_weights(a, 2.0, 5.0), (points(6, seed=6),)),
    "gaussian_log_prob": (
        losses.gaussian_log_prob,
        (points(6, 2, seed=7), points(2, seed=8), points(6, 2, seed=9)),
    ),
    "squashed_gaussian_log_prob": (
        losses.squashed_gaussian_log_prob,
        (points(6, 2, seed=14), points(6, 2, seed=15), points(6, 2, seed=16)),
    ),
    "standardized": (losses.standardized, (points(6, seed=24),)),
    "gaussian_kl": (
        losses.gaussian_kl,
        (points(6, 2, seed=25), points(2, seed=26), points(6, 2, seed=27), points(2, seed=28)),
    ),
    "soft_policy_loss": (
        lambda log_prob, q: losses.soft_policy_loss(log_prob, q, torch.tensor(0.3)),
        (points(6, seed=17), points(6, seed=18)),
    ),
    "temperature_loss": (
        lambda temperature: losses.temperature_loss(temperature, points(6, seed=19), -2.0),
        (points(1, seed=20).abs(),),
    ),
    "conservative_gap": (
        lambda sampled, data: losses.conservative_gap(sampled, data, points(4, 3, seed=21)),
        (points(2, 4, 3, seed=22), points(2, 3, seed=23)),
    ),
    "expectile_td_loss": (
        lambda q, t: losses.expectile_td_loss(q, t, 0.8, column(1.0, 0.0, 1.0, 1.0, 1.0, 1.0)),
        (points(3, 6, seed=17), points(6, seed=18)),
    ),
    "quantile_huber_loss": (
        lambda z, t: losses.quantile_huber_loss(z, t, column(0.2, 0.5, 0.9)),
        (points(2, 6, 3, seed=19), points(6, seed=20)),
    ),
    "policy_gradient_loss": (
        lambda q: losses.policy_gradient_loss(q, torch.tensor(1.7)),
        (points(6, seed=11),),
    ),
    "squared_action_error": (losses.squared_action_error, (points(6, 2, seed=12), points(6, 2, seed=13))),
    "weighted_regression_loss": (
        lambda log_prob: losses.weighted_regression_loss(column(0.5, 1.0, 2.0), log_prob),
        (points(3, seed=10),),
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_central_differences(name: str) -> None:
    function, inputs = GRADIENTS[name]
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_every_public_loss_has_its_gradient_checked() -> None:
    public = {
        name
        for name, value in vars(losses).items()
        if callable(value) and getattr(value, "__module__", "") == "agent.losses"
    }
    assert public - {"scale_of"} == set(GRADIENTS)  # a scale without gradient


def test_the_expectile_gradient_equals_differences_written_out_here() -> None:
    u, h = column(1.3, -0.4, 2.2, -1.7), 1e-6
    at = u.clone().requires_grad_()
    losses.expectile_loss(at, 0.9).backward()
    assert at.grad is not None
    for i in range(len(u)):
        step = torch.zeros_like(u)
        step[i] = h
        slope = (losses.expectile_loss(u + step, 0.9) - losses.expectile_loss(u - step, 0.9)) / (2 * h)
        assert at.grad[i].item() == pytest.approx(slope.item(), rel=1e-7)
        # By hand: 2·|τ − 1(u < 0)|·u / 4
        assert at.grad[i].item() == pytest.approx(2 * (0.9 if u[i] > 0 else 0.1) * u[i].item() / 4)
