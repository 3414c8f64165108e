"""The guard: whether fine-tuning has made the policy worse than the pretrained one, by evaluations alone.

It alarms when the mean of the last `window` evaluations along the curve lies below J(π0) − k·SE, where J(π0) is the
pretrained policy's mean return and SE the standard error of the difference of the two means,

    SE² = s0²/n0 + Σ_w s_w²/n_w / window²          (s² sample variances, over n − 1; n episodes).

Both are estimates: without the second term a window of few episodes would alarm by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from agent.config import GuardConfig


class Guard:
    """Pure arithmetic on evaluation records, in the order of metrics.jsonl; state goes into checkpoints.

    guard.add(record) -> an alarm's words, or None        # then: roll back, hold(online_steps)
    guard.holds(online_steps) -> whether actor updates are paused
    """

    def __init__(self, config: GuardConfig, *, order: Literal["policy_version", "updates"] = "policy_version") -> None:
        """`order`: the entry of the records that only grows: a crash takes updates back, and lockstep repeats those."""
        self._config, self._order = config, order
        self._pretrained: Mapping[str, Any] | None = None
        self._window: list[Mapping[str, Any]] = []
        self._since = 0
        self._held_until = -1

    def add(self, record: Mapping[str, Any]) -> str | None:
        """Take one evaluation into account; the alarm that it raises, if any."""
        if record["label"] == "pretrained":
            self._pretrained = record
        # An alarm has dealt with the policies before it.
        elif record["label"] == "curve" and record[self._order] >= self._since:
            self._window = [*self._window, record][-self._config.window :]
        if not self._config.enabled or self._pretrained is None or len(self._window) < self._config.window:
            return None
        mean = sum(r["mean"] for r in self._window) / len(self._window)
        variance = squared_error(self._pretrained) + sum(map(squared_error, self._window)) / len(self._window) ** 2
        floor = self._pretrained["mean"] - self._config.standard_errors * math.sqrt(variance)
        if not mean < floor:  # NaN, where an infinite error counts nothing
            return None
        return (
            f"the last {len(self._window)} evaluations have the mean return {mean:.4g}, below {floor:.4g} = J(π0) − "
            f"{self._config.standard_errors:g}·SE of the pretrained policy's {self._pretrained['mean']:.4g}"
        )

    def hold(self, *, online_steps: int, since: int) -> None:
        """Pause actor updates from here on; evaluations of policies before `since`, in their order, count no more."""
        self._window, self._since = [], since
        self._held_until = online_steps + self._config.pause_steps

    def holds(self, online_steps: int) -> bool:
        """Whether actor updates are paused at this many online steps."""
        return online_steps < self._held_until

    def state_dict(self) -> dict[str, int]:
        """JSON-able; evaluations are read again from metrics.jsonl."""
        return {"since": self._since, "held_until": self._held_until}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what `state_dict` gave."""
        self._since, self._held_until = int(state["since"]), int(state["held_until"])


def squared_error(record: Mapping[str, Any]) -> float:
    """Squared standard error of an evaluation's mean return; a single episode tells nothing of it."""
    if record["episodes"] < 2:
        return math.inf
    # `std` is the population's: n·std²/(n − 1) is the sample variance.
    return float(record["std"]) ** 2 / float(record["episodes"] - 1)
