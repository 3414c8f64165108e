"""A sum tree over slabs of leaves: draws in proportion to the leaves' masses, in nearly constant time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FANOUT = 16
LEVELS = 4
SLAB: int = FANOUT**LEVELS  # 65,536 leaves


class SumTree:
    """Slabs of 65,536 leaves, each a tree of 16 children a node; every node is the sum of its children.

    Nodes are summed anew, never adjusted by differences: they are a function of the leaves alone, and rounding does
    not pile up.
    """

    def __init__(self) -> None:
        self._levels = [np.zeros(0) for _ in range(LEVELS + 1)]

    @property
    def leaves(self) -> NDArray[np.float64]:
        """Masses, [slabs * SLAB]; change them by `assign` and `assign_range` only."""
        return self._levels[0]

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return float(np.cumsum(self._levels[-1])[-1]) if len(self._levels[-1]) else 0.0

    def resize(self, slabs: int) -> None:
        """Have this many slabs; new leaves are 0."""
        for number, level in enumerate(self._levels):
            grown = np.zeros(slabs * FANOUT ** (LEVELS - number))
            grown[: min(len(level), len(grown))] = level[: len(grown)]
            self._levels[number] = grown

    def assign(self, leaves: NDArray[np.int64], masses: NDArray[np.float64]) -> None:
        """Set scattered leaves [n] to masses [n]; of a leaf that occurs twice the last mass stays."""
        self._levels[0][leaves] = masses
        nodes = leaves
        for below, level in zip(self._levels[:-1], self._levels[1:], strict=True):
            nodes = nodes // FANOUT
            level[nodes] = below.reshape(-1, FANOUT)[nodes].sum(axis=1)

    def assign_range(self, start: int, masses: NDArray[np.float64]) -> None:
        """Set the leaves from `start` on to masses [n]."""
        self._levels[0][start : start + len(masses)] = masses
        low, high = start, start + len(masses)
        for below, level in zip(self._levels[:-1], self._levels[1:], strict=True):
            low, high = low // FANOUT, -(-high // FANOUT)
            level[low:high] = below.reshape(-1, FANOUT)[low:high].sum(axis=1)

    def draw(self, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        """Leaves [n] at shares [n] in [0, 1) of the total mass, which is above 0; never one of mass 0."""
        roots = np.cumsum(self._levels[-1])
        mass = np.minimum(shares * roots[-1], np.nextafter(roots[-1], 0.0))
        nodes: NDArray[np.int64] = roots.searchsorted(mass, side="right")
        mass = mass - (roots[nodes] - self._levels[-1][nodes])
        for level in self._levels[-2::-1]:
            sums = np.cumsum(level.reshape(-1, FANOUT)[nodes], axis=1)
            # Rounding must lead neither past the last child that has mass nor before the first.
            mass = np.clip(mass, 0.0, np.nextafter(sums[:, -1], 0.0))
            child = (sums <= mass[:, None]).sum(axis=1)
            mass = mass - np.where(child > 0, sums[np.arange(len(child)), child - 1], 0.0)
            nodes = nodes * FANOUT + child
        return nodes
