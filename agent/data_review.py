"""What is remarkable about a store's data, in words, and how to train on it. Torch-free.

`review` reads an `Inspection` (figures, `replay.inspection`) as a careful person would: each finding says what was seen
and what to do about it; `suggest` names the preset and the reward scaling that fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from agent.config_files import load_preset
from agent.console import plural
from agent.data_checks import LARGE_REWARD
from agent.preparation import STD_FLOOR
from envs.catalog import Task, lookup
from envs.errors import EnvError
from replay.inspection import Column, Inspection
from replay.schema import StoreSpec

MOST_NAMED = 5
FEW_STEPS, FEW_EPISODES = 1000, 10
SATURATED = 0.5
MOSTLY = 0.5
FAR_OUT = 20.0
"""Standard deviations from the mean beyond which a value is an outlier; the learner clips at ten."""
DETERMINISTIC, UNRELATED = 0.15, 0.95


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One remark."""

    level: Literal["problem", "note"]
    """A problem spoils training or scoring; a note is worth knowing."""
    kind: str
    """Stable name, e.g. `outside_bounds`."""
    message: str
    """What was seen, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """How to train on the data."""

    preset: str
    """Hyper-parameter preset; empty: the plain defaults, for an environment that the catalogue does not know."""
    reward_scaling: Literal["none", "return_range"]
    """For --reward-scaling."""
    reward_shift: float
    """For --reward-shift."""
    reason: str
    """Why."""
    flags: tuple[str, ...]
    """What to give `slipway train` beyond its defaults."""


def known_task(spec: StoreSpec) -> Task | None:
    """The catalogue's task of the recorded environment; None where none is recorded or it is not installed here."""
    try:
        return lookup(str(spec.env["id"])) if spec.env else None
    except EnvError:
        return None


def review(spec: StoreSpec, found: Inspection) -> list[Finding]:
    """All findings, problems first."""
    if not found.steps:
        return [problem("empty", "no step can be sampled: ingest or collect data first")]
    made = [*values(found), *amount(found), *ends(spec, found), *rewards(spec, found), *behaviour(found)]
    return sorted(made, key=lambda finding: finding.level != "problem")


def problem(kind: str, message: str) -> Finding:
    """A finding that spoils training or scoring."""
    return Finding(level="problem", kind=kind, message=message)


def note(kind: str, message: str) -> Finding:
    """A finding worth knowing."""
    return Finding(level="note", kind=kind, message=message)


def named(columns: Sequence[Column]) -> str:
    """Names of columns, the first few."""
    rest = f" and {len(columns) - MOST_NAMED} more" if len(columns) > MOST_NAMED else ""
    return ", ".join(column.name for column in columns[:MOST_NAMED]) + rest


def share(part: float) -> str:
    """A share as a percentage."""
    return f"{100 * part:.3g} %"


def values(found: Inspection) -> Iterator[Finding]:
    """Of single dimensions."""
    columns = [*found.observations, *found.actions, found.rewards]
    if found.nonfinite_rows:
        bad = [column for column in columns if column.nonfinite]
        yield problem(
            "not_finite",
            f"NaN or infinity in {named(bad)} ({plural(found.nonfinite_rows, 'step')}): drop them where the log is "
            "made, and ingest again",
        )
    outside = [column for column in found.actions if column.outside]
    if outside:
        worst = max(column.outside for column in outside)
        yield problem(
            "outside_bounds",
            f"actions beyond their bounds in {named(outside)} (up to {plural(worst, 'step')}): learning clips them to "
            "the bounds, so what was done is not what is learned; correct the bounds or the units",
        )
    constant = [column for column in found.observations if column.constant]
    if constant and len(constant) == len(found.observations):
        yield problem("constant_observations", "no observation ever changes: there is nothing for a policy to go by")
    elif constant:
        yield note(
            "constant_dimensions",
            f"never change: {named(constant)}; they tell the policy nothing now, and where they do online it has not "
            "seen it",
        )
    still = [column for column in found.actions if column.constant]
    if still:
        yield note("constant_actions", f"never change: {named(still)}; the data cannot tell what other values do")
    full = [column for column in found.actions if column.at_low + column.at_high > SATURATED and not column.constant]
    if full:
        worst_share = max(column.at_low + column.at_high for column in full)
        yield note(
            "saturated_actions",
            f"at a bound for up to {share(worst_share)} of the steps: {named(full)}; a Gaussian policy fits such "
            "actions badly and acts more gently",
        )
    far = [
        column
        for column in found.observations
        if column.std > STD_FLOOR and max(column.max - column.mean, column.mean - column.min) > FAR_OUT * column.std
    ]
    if far:
        yield note(
            "outliers",
            f"values more than {FAR_OUT:.0f} standard deviations from the mean in {named(far)}: the learner clips them "
            "at 10; look whether they are glitches",
        )


def amount(found: Inspection) -> Iterator[Finding]:
    """Of how much there is."""
    episodes, ended = len(found.returns), int(found.ended.sum())
    if found.steps < FEW_STEPS or ended < FEW_EPISODES:
        held = f"{plural(found.steps, 'step')}, {plural(ended, 'whole episode')}"
        yield note("little_data", f"little to learn from ({held}): add data")
    if found.duplicates:
        yield (problem if found.duplicates > 0.1 * episodes else note)(
            "duplicates",
            f"{found.duplicates:,} of {episodes:,} episodes repeat an earlier one exactly: they count double and hide "
            "how little there is; ingest each only once",
        )
    cut = episodes - ended
    if cut > 0.2 * episodes:
        yield note("interrupted", f"{cut:,} of {episodes:,} episodes were cut by a fault or a shutdown")


def ends(spec: StoreSpec, found: Inspection) -> Iterator[Finding]:
    """Of how episodes end: terminated is not truncated."""
    limit = (spec.env or {}).get("max_episode_steps")
    terminated, truncated = found.lengths[found.terminated], found.lengths[found.truncated]
    late = float((terminated == limit).mean()) if limit and len(terminated) else 0.0
    if late > MOSTLY:
        yield problem(
            "time_limit_as_end",
            f"{share(late)} of the terminated episodes end at the time limit of {limit} steps: a time limit that is "
            "stored as terminated teaches that the world ends there; store it as truncated",
        )
    early = float((truncated < limit).mean()) if limit and len(truncated) else 0.0
    if early > MOSTLY and found.success is not None and bool(found.success[found.truncated].mean() > MOSTLY):
        yield problem(
            "success_as_truncation",
            f"{share(early)} of the truncated episodes end before the time limit of {limit} steps, and most of them "
            "with success: ingest again with --terminate-on success, or values look beyond the goal",
        )
    elif early > MOSTLY:
        yield note(
            "early_truncation",
            f"{share(early)} of the truncated episodes end before the time limit of {limit} steps: where the task "
            "itself ended them, they must be stored as terminated",
        )
    if not len(terminated) and len(truncated):
        yield note("no_termination", "no episode ends in the task's sense: values never learn of an end")


def rewards(spec: StoreSpec, found: Inspection) -> Iterator[Finding]:
    """Of rewards and returns."""
    returns = found.returns[found.ended]
    if not len(returns):
        return
    if found.rewards.constant:
        yield problem(
            "constant_reward",
            f"every reward is {found.rewards.mean:g}: nothing is better than anything else; check where "
            "rewards come from",
        )
    elif np.ptp(returns) == 0:
        yield note(
            "equal_returns",
            f"every episode has the return {returns[0]:g}: judge by success and steps to goal; return-based scaling "
            "and weighting have nothing to go by",
        )
    if max(abs(found.rewards.min), abs(found.rewards.max)) > LARGE_REWARD:
        yield note(
            "large_rewards",
            f"rewards reach {max(abs(found.rewards.min), abs(found.rewards.max)):.3g}: scale them, e.g. with "
            "--reward-scaling return_range",
        )
    if found.success is not None and not found.success.any():
        yield note("no_success", "no episode succeeds: values must find out by themselves what success is worth")


def behaviour(found: Inspection) -> Iterator[Finding]:
    """Of who acted, and how differently."""
    if found.synthetic:
        yield note("synthetic", f"{share(found.synthetic / max(found.steps, 1))} of the steps are synthetic")
    if found.diversity is None:
        return
    spread = found.diversity.action_spread
    if spread < DETERMINISTIC:
        yield note(
            "one_behaviour",
            f"neighbouring states were answered alike (action spread {spread:.2f}): what else could have been done was "
            "not tried, so offline learning will hardly beat the data; plan for the online phase",
        )
    elif spread > UNRELATED:
        yield note(
            "unrelated_actions",
            f"actions hardly depend on the state (spread {spread:.2f}): cloning them is useless, values must sort them",
        )


def suggest(spec: StoreSpec, found: Inspection) -> Suggestion:
    """Preset and reward scaling: the catalogue's for a task that it knows, else by the look of the rewards."""
    task = known_task(spec)
    preset = task.preset if task else ""
    published = load_preset(preset) if preset else {}
    scaling = str(published.get("reward_scaling", "none"))
    shift = float(published.get("reward_shift", 0.0))
    wanted, wanted_shift, reason = scaling, shift, f"the published values of the preset {preset}"
    returns = found.returns[found.ended]
    sparse = found.reward_values is not None and set(found.reward_values) <= {0.0, 1.0}
    if not preset and sparse:
        wanted_shift = -1.0
        reason = "rewards are 0 and 1: less one, every step before the goal costs something (as IQL's AntMaze)"
    elif (not preset or wanted == "return_range") and (not len(returns) or np.ptp(returns) == 0):
        wanted, reason = "none", "returns do not differ, so there is no range to scale by"
    elif not preset:
        wanted, reason = "return_range", "returns spread over 1000 (IQL paper, appendix B)"
    flags = [f"--reward-scaling {wanted}"] if wanted != scaling else []
    flags += [f"--reward-shift {wanted_shift:g}"] if wanted_shift != shift else []
    return Suggestion(
        preset=preset,
        reward_scaling="return_range" if wanted == "return_range" else "none",
        reward_shift=wanted_shift,
        reason=reason,
        flags=tuple(flags),
    )


def record(spec: StoreSpec, found: Inspection) -> dict[str, Any]:
    """Figures, findings and suggestion as JSON-able values."""
    return {
        "inspection": found.to_json(),
        "findings": [
            {"level": each.level, "kind": each.kind, "message": each.message} for each in review(spec, found)
        ],
        "suggested": {
            "preset": (made := suggest(spec, found)).preset, "reward_scaling": made.reward_scaling,
            "reward_shift": made.reward_shift, "reason": made.reason, "flags": list(made.flags),
        },
    }  # fmt: skip
