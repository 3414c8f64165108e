"""How old the policy was that took each stored step: counts on the board, quantiles for status and figures. Torch-free.

In versions: how many newer ones had been published when the step was stored. In seconds: the time since the acting
version was published, counted while fine-tuning (the warm-up's policy is meant to stay).
"""

from __future__ import annotations

import math

import numpy as np

VERSIONS = 32
FASTEST, GROWTH = 1e-3, 1.25
SECONDS = 64
BUCKETS = VERSIONS + SECONDS


def note(counts: np.ndarray, *, versions: int, seconds: float) -> None:
    """Count a stored step in `counts`, int64 [BUCKETS], a collector's own on the board."""
    counts[min(max(versions, 0), VERSIONS - 1)] += 1
    bucket = 0 if seconds <= FASTEST else math.ceil(math.log(seconds / FASTEST, GROWTH))
    counts[VERSIONS + min(bucket, SECONDS - 1)] += 1


def quantiles(counts: np.ndarray) -> dict[str, float]:
    """p50 and p99 over all of `counts` [..., BUCKETS]; empty without a step. Seconds err by 25 % upwards at most."""
    total = counts.reshape(-1, BUCKETS).sum(axis=0)
    versions, seconds = total[:VERSIONS], total[VERSIONS:]
    if not versions.sum():
        return {}
    return {
        **{f"staleness_versions_p{q}": float(_bucket(versions, q)) for q in (50, 99)},
        **{f"staleness_seconds_p{q}": float(f"{FASTEST * GROWTH ** _bucket(seconds, q):.4g}") for q in (50, 99)},
    }


def _bucket(counts: np.ndarray, percent: int) -> int:
    return int(np.searchsorted(counts.cumsum(), counts.sum() * percent / 100.0))
