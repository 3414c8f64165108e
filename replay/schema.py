"""What a row of a store means: fields, columns, the observation's layout and its fingerprint.

A row is one step, packed as float32:

    observation [O] | action [A] | reward | first terminated truncated interrupted intervention synthetic valid | info

padded with zeros to a multiple of 8 floats. Beside it a meta row, int64 [5], holds what float32 cannot.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from replay.errors import SchemaError

FLAGS = ("first", "terminated", "truncated", "interrupted", "intervention", "synthetic", "valid")
META_COLUMNS = ("policy_version", "t_wall_ns", "t_mono_ns", "source_id", "episode_id")
ROW_ALIGNMENT = 8  # floats


@dataclass(frozen=True, kw_only=True)
class ObservationTerm:
    name: str
    """Name of one entry of the observation; nested names are joined with "/"."""
    offset: int
    """First column of the term in the flattened observation."""
    length: int
    """Number of columns."""
    dtype: str
    """Source dtype before flattening to float32, e.g. "float64"; recorded, not part of the fingerprint."""


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    observation: tuple[ObservationTerm, ...]
    """Terms of the flattened observation, contiguous, in order."""
    action_low: tuple[float, ...]
    """Lower action bounds, environment units, finite, length A."""
    action_high: tuple[float, ...]
    """Upper action bounds, environment units, finite, length A."""
    action_dtype: str = "float32"
    """Source dtype of the actions before they became float32."""
    info: tuple[str, ...] = ()
    """Names of optional float32 per-step columns, e.g. ("success",)."""
    env: dict[str, Any] | None = None
    """Environment spec {"id", "kwargs", "max_episode_steps"}: the default for evaluation and fine-tuning."""
    source: dict[str, Any] | None = None
    """Where the data came from, e.g. {"kind": "minari", "id": ..., "digest": ...}."""

    def __post_init__(self) -> None:
        if not self.observation:
            raise SchemaError("the spec has no observation term: give at least one")
        at = 0
        for term in self.observation:
            if term.length < 1 or term.offset != at:
                raise SchemaError(
                    f"observation term {term.name!r} has offset {term.offset} and length {term.length}, "
                    f"expected offset {at} and a positive length: list the terms in flattened order"
                )
            at += term.length
        names = [term.name for term in self.observation]
        if len(set(names)) != len(names):
            raise SchemaError(f"observation term names are not unique: {names}")
        if len(self.action_low) != len(self.action_high) or not self.action_low:
            raise SchemaError(
                f"action bounds have lengths {len(self.action_low)} and {len(self.action_high)}: "
                "both need one finite number for every action dimension"
            )
        for i, (low, high) in enumerate(zip(self.action_low, self.action_high, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise SchemaError(f"action dimension {i} has bounds [{low}, {high}]: both must be finite, low < high")
        reserved = {"observation", "action", "reward", *FLAGS}
        if len(set(self.info)) != len(self.info) or reserved & set(self.info):
            raise SchemaError(f"info columns {list(self.info)} must be unique and none of {sorted(reserved)}")

    @classmethod
    def from_terms(
        cls,
        terms: Iterable[Mapping[str, Any]],
        low: Iterable[float],
        high: Iterable[float],
        *,
        info: Iterable[str] = (),
        env: dict[str, Any] | None = None,
        source: dict[str, Any] | None = None,
        action_dtype: str = "float32",
    ) -> StoreSpec:
        """Make a spec of plain data: terms are `{"name", "offset", "length", "dtype"}`, bounds float sequences.

        Bounds are rounded to float32, the precision they are compared and used at.

        Raises:
            SchemaError: terms or bounds that make no sense.
        """
        try:
            observation = tuple(
                ObservationTerm(
                    name=str(t["name"]), offset=int(t["offset"]), length=int(t["length"]), dtype=str(t["dtype"])
                )
                for t in terms
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"observation terms need name, offset, length and dtype: {error!r}") from error
        return cls(
            observation=observation,
            action_low=tuple(float(np.float32(x)) for x in low),
            action_high=tuple(float(np.float32(x)) for x in high),
            action_dtype=action_dtype,
            info=tuple(info),
            env=env,
            source=source,
        )

    @cached_property
    def observation_size(self) -> int:
        """O, columns of the flattened observation."""
        return sum(term.length for term in self.observation)

    @cached_property
    def action_size(self) -> int:
        """A, action dimensions."""
        return len(self.action_low)

    @cached_property
    def row_width(self) -> int:
        """W, floats in a row, padding included; a multiple of 8."""
        used = self.observation_size + self.action_size + 1 + len(FLAGS) + len(self.info)
        return -(-used // ROW_ALIGNMENT) * ROW_ALIGNMENT

    @cached_property
    def offsets(self) -> dict[str, int]:
        """First column of each field: observation, action, reward, the flags, the info columns."""
        o, a = self.observation_size, self.action_size
        scalars = ("reward", *FLAGS, *self.info)
        return {"observation": 0, "action": o} | {name: o + a + i for i, name in enumerate(scalars)}

    @cached_property
    def fields(self) -> dict[str, slice]:
        """Columns of each field as slices into a row: `rows[:, spec.fields["action"]]` is a view."""
        lengths = {"observation": self.observation_size, "action": self.action_size}
        return {name: slice(at, at + lengths.get(name, 1)) for name, at in self.offsets.items()}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """A name for every column of a row, padding included."""
        names = [f"{t.name}[{i}]" for t in self.observation for i in range(t.length)]
        names += [f"action[{i}]" for i in range(self.action_size)]
        names += ["reward", *FLAGS, *self.info]
        return tuple(names + ["padding"] * (self.row_width - len(names)))

    @cached_property
    def layout_fingerprint(self) -> str:
        """sha256 over observation terms (name, offset, length) and float32 action bounds.

        Equal fingerprints: a policy or a batch of one fits the other. Environment, provenance and source dtypes
        do not count.
        """
        layout = {
            "observation": [[t.name, t.offset, t.length] for t in self.observation],
            "action_low": [float(np.float32(x)) for x in self.action_low],
            "action_high": [float(np.float32(x)) for x in self.action_high],
        }
        text = json.dumps(layout, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def terms(self) -> list[dict[str, Any]]:
        """The observation terms as plain data."""
        return [asdict(term) for term in self.observation]

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON-able data; `from_json` reads it back equal."""
        return {
            "observation": self.terms(),
            "action_low": list(self.action_low),
            "action_high": list(self.action_high),
            "action_dtype": self.action_dtype,
            "info": list(self.info),
            "env": self.env,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoreSpec:
        """Read what `to_json` wrote.

        Raises:
            SchemaError: a field is missing or makes no sense.
        """
        try:
            return cls.from_terms(
                data["observation"],
                data["action_low"],
                data["action_high"],
                info=data["info"],
                env=data["env"],
                source=data["source"],
                action_dtype=data["action_dtype"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"a store spec lacks or garbles a field: {error!r}") from error
