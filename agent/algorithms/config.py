"""What the configurations of all algorithms share. Free of torch, so that any process can read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

Rule = tuple[str, bool, str]
"""(field, whether its value can work, what it must be)."""

MOST_WIDTH = 65_536
MOST_LAYERS = 64
MOST_BATCH = 16_777_216
MOST_MEMBERS = 1024


def count(name: str, value: int, most: int) -> Rule:
    """Of something that memory is taken for: a slip of the keyboard is not to be found out by running out of it."""
    return name, 1 <= value <= most, f"must lie in 1 to {most:,}"


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """Hyper-parameters that every algorithm has; subclasses add theirs and say where the values come from."""

    name: str = ""
    """Which algorithm."""
    discount: float = 0.99
    """γ, per environment step, in [0, 1)."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    batch_size: int = 256
    """Transitions an update."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of all networks."""

    fine_tunes: ClassVar[bool] = True
    """Whether the algorithm can go on learning from its own experience."""

    pretrains: ClassVar[bool] = True
    """Whether the algorithm can learn from logged data alone."""
    needs_next_action: ClassVar[bool] = False
    """Whether batches must hold what the data did next."""
    needs_return_to_go: ClassVar[bool] = False
    """Whether batches must hold what followed in the data."""
    has_critic: ClassVar[bool] = True
    """Whether it learns Q, by which candidate actions can be judged."""
    run_wide: ClassVar[Mapping[str, Any]] = {}
    """Its own defaults for the run around it, nested as in a configuration file; weaker than a preset's."""

    def why_no_choice(self) -> str:
        """Why candidate actions cannot be judged by its Q; empty where they can."""
        return "" if self.has_critic else f"{self.name} learns no Q"

    def sampling(self) -> dict[str, Any]:
        """How the offline data are drawn: options of `replay.sampler.make_sampler`; none draw uniformly."""
        return {}

    def rules(self) -> list[Rule]:
        """The ranges of all fields, for one clear error."""
        return [
            ("discount", 0.0 <= self.discount < 1.0, "must lie in [0, 1)"),
            ("learning_rate", self.learning_rate > 0.0, "must be positive"),
            count("batch_size", self.batch_size, MOST_BATCH),
            (
                "hidden",
                1 <= len(self.hidden) <= MOST_LAYERS and min(self.hidden) >= 1 and max(self.hidden) <= MOST_WIDTH,
                f"needs 1 to {MOST_LAYERS} widths, each 1 to {MOST_WIDTH:,}",
            ),
        ]
