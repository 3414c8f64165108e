"""What an importer hands over: a description of the source and its episodes, one at a time.

An importer is one file with two functions:

    matches(source: str) -> bool                                    # cheap: looks at the name and a few bytes
    open_source(source: str, options: IngestOptions) -> Source      # reads metadata, refuses what cannot be stored

`write.write_store` checks the episodes and stores them; importers only have to deliver them.

Shapes: T steps of the episode, O observation size, A action size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from replay.errors import ReplayError

MENDED = {
    "actions_clipped": "action clipped into its bounds",
    "empty_episodes": "episode without a step left out",
    "end_flags_inside_episodes": "episode split at an end flag before its last step",
    "episodes_without_end_flag": "episode without an end flag stored as truncated",
    "final_observations_repeated": "last observation of a terminated episode repeated as the final one",
    "image_features_skipped": "image or video feature left out",
    "last_steps_without_next_observation": "last step of an episode left out, since no observation follows it",
    "steps_after_done": "step after a done left out",
    "steps_after_success": "step after an episode's success left out",
    "steps_without_reward": "reward that is not recorded stored as 0",
    "unmarked_ends": "episode cut, as truncated, where the next row's observation is not its next observation",
}
"""What each count of `Source.notes` counts, to be read behind it and a "×"."""


class IngestError(ReplayError):
    """The source cannot be stored as asked; the message names file, field, episode and step, and the mend.

    Mend: `slipway ingest SOURCE --out STORE --dry-run` tells what would be taken and what refused.
    """


class SourceNotFoundError(IngestError):
    """No such dataset id, file or folder.

    Mend: correct the path, or give the id of a Minari dataset.
    """


class SourceFormatError(IngestError):
    """The source is damaged, or lacks a field, or holds what a store cannot hold.

    Mend: give a source of a kind that `slipway ingest --help` lists.
    """


class SourceValueError(IngestError):
    """A value in the data is not finite, or an action lies outside its bounds.

    Mend: mend the value that is named, or leave that episode out; `--clip-actions` clips actions.
    """


class OutputExistsError(IngestError):
    """The output exists and was made from something else.

    Mend: choose another `--out`, or remove what is there.
    """


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """What the caller may choose; part of a store's identity, so a second run with other options is refused."""

    terminate_on: str | None = None
    """Name of the per-step info that ends an episode as terminated at its first non-zero value; None: as recorded."""
    env: dict[str, Any] | None = None
    """Environment spec `{"id", "kwargs", "max_episode_steps"}` that replaces or completes the recorded one."""
    clip_actions: bool = False
    """Clip actions into the bounds instead of refusing those outside."""
    observation_keys: tuple[str, ...] | None = None
    """Parts of the observation to take, in this order (robomimic, LeRobot); None: all that can be stored."""
    filter_key: str | None = None
    """Name of a robomimic mask: only its demonstrations are taken."""
    columns: dict[str, Any] | None = None
    """Column map of a CSV or Parquet log (see `tables.py`)."""


@dataclass(frozen=True, kw_only=True)
class SourceDescription:
    """What is known of a source before its episodes are read."""

    kind: str
    """Importer: a key of `replay.ingest.IMPORTERS`."""
    name: str
    """Dataset id or file name, for provenance and messages."""
    digest: str
    """sha256 that changes when the source's data changes (see `digest.py`)."""
    observation: tuple[dict[str, Any], ...]
    """Terms `{"name", "offset", "length", "dtype"}` in flattened order."""
    action_low: tuple[float, ...]
    """Lower action bounds, environment units, length A."""
    action_high: tuple[float, ...]
    """Upper action bounds, environment units, length A."""
    action_dtype: str
    """The source's own action dtype; stored values are float32."""
    info: tuple[str, ...] = ()
    """Per-step columns that every episode carries."""
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a table, for messages: the names of its columns in "observations", "actions", "rewards" and each info, one for
    each value of a step."""
    env: dict[str, Any] | None = None
    """Environment spec, JSON-able, or None when unknown."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Further JSON-able facts kept with the store (author, recorded dtypes, ...)."""
    total_steps: int | None = None
    """Steps in the source if known: the denominator of the progress."""

    @property
    def observation_size(self) -> int:
        """O, the length of a flattened observation."""
        return sum(int(term["length"]) for term in self.observation)

    @property
    def action_size(self) -> int:
        """A, the length of an action."""
        return len(self.action_low)


@dataclass(frozen=True, kw_only=True)
class SourceEpisode:
    """One recorded episode in source precision, not yet checked."""

    label: str
    """Where it is in the source, for messages: "episode 12"."""
    observations: NDArray[Any]
    """[T + 1, O], flattened; the last row is the final observation."""
    actions: NDArray[Any]
    """[T, A], environment units."""
    rewards: NDArray[Any]
    """[T]."""
    terminated: bool
    """The last step ended the episode for good: nothing is bootstrapped past it."""
    truncated: bool
    """The last step was cut by a time limit. Neither flag: the source marks no end, it is stored as truncated."""
    info: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Per-step columns, each [T]."""
    first_row: int | None = None
    """Of a table, for messages: the row of the first step, counted from 0 without the header."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened source. `episodes()` may be called once or many times and holds one episode or block in memory."""

    description: SourceDescription
    episodes: Callable[[], Iterator[SourceEpisode]]
    notes: Counter[str] = field(default_factory=Counter)
    """Counts of what the importer had to mend, by the names of `MENDED`; filled while `episodes()` runs."""
    copy: Callable[[Any, Callable[[int, int | None], None] | None], None] | None = None
    """Writes (store, progress) itself, where rows can be taken over as they are; `episodes` is then unused. Without a
    store (None) it only reads and checks."""
    close: Callable[[], None] = lambda: None
    """Releases open files."""


def one_line(error: BaseException) -> str:
    """A third-party exception's message as one line, short enough to quote in ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
