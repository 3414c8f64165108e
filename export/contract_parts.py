"""The parts of a policy's contract: terms of its observation, normaliser, action, control, noise, state, origin.

Shape legend: O observation entries, A action entries, H entries of a recurrent policy's state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.errors import ContractError

ON_FAULT = ("hold", "safe")
NOISE = "clamp(tanh(raw) + exp(log_std) * eps, -1, 1)"
SQUASHED_NOISE = "tanh(raw + exp(log_std) * eps)"


@dataclass(frozen=True, kw_only=True)
class ObservationTerm:
    name: str
    "Name of the part, e.g. `qpos` or `achieved_goal/kettle`."
    offset: int
    "First entry of the part in the flat observation."
    length: int
    "Number of entries, at least 1."
    dtype: str = "float32"
    "Type of the part where it was measured; the flat observation is float32."
    unit: str | None = None
    "Unit of the entries, e.g. `rad`."
    valid_min: tuple[float, ...] | None = None
    "Smallest credible value of each entry [length]; None: any finite value."
    valid_max: tuple[float, ...] | None = None
    "Largest credible value of each entry [length]; None: any finite value."

    def __post_init__(self) -> None:
        for key in ("valid_min", "valid_max"):
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, _floats(value, f"observation.{self.name}.{key}", self.length))


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    mean: tuple[float, ...]
    "Mean of each observation entry [O]."
    std: tuple[float, ...]
    "Standard deviation of each observation entry [O], as measured."
    eps: float = 1e-3
    "Floor under `std`: the graph multiplies by 1 / max(std, eps)."
    clip: float | None = 10.0
    "The normalised observation is clipped to ±clip; None: no clip in the graph."
    count: int = 0
    "Number of observations behind mean and std; 0: not measured."

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _floats(self.mean, "normalizer.mean"))
        object.__setattr__(self, "std", _floats(self.std, "normalizer.std", len(self.mean)))
        if min(self.std, default=1.0) < 0 or not (self.eps > 0 and math.isfinite(self.eps)):
            raise ContractError("contract normalizer: std must not be negative and eps must be positive; measure again")
        if self.clip is not None and not (self.clip > 0 and math.isfinite(self.clip)):
            raise ContractError(f"contract normalizer.clip is {self.clip}: give a positive number or None")

    @classmethod
    def identity(cls, size: int) -> Normalizer:
        """A normaliser that leaves an observation of `size` entries as it is."""
        return cls(mean=(0.0,) * size, std=(1.0,) * size, clip=None)


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    low: tuple[float, ...]
    "Smallest value of each action entry [A], in the environment's units."
    high: tuple[float, ...]
    "Largest value of each action entry [A], in the environment's units."
    names: tuple[str, ...] = ()
    "Name of each entry [A], e.g. the joint; () makes `action_0` and so on."
    units: tuple[str | None, ...] = ()
    "Unit of each entry [A]; () means unknown."
    rate_limit: tuple[float, ...] | None = None
    "Largest change of each entry [A] per second, in the environment's units; None: unlimited."

    def __post_init__(self) -> None:
        low = _floats(self.low, "action.low")
        high = _floats(self.high, "action.high", len(low))
        if not low or any(a >= b for a, b in zip(low, high, strict=True)):
            raise ContractError("contract action: every entry needs low < high; correct the action bounds")
        names = tuple(self.names) or tuple(f"action_{i}" for i in range(len(low)))
        units = tuple(self.units) or (None,) * len(low)
        if len(names) != len(low) or len(units) != len(low) or len(set(names)) != len(names):
            raise ContractError(f"contract action: give {len(low)} distinct names and {len(low)} units")
        for key, value in (("low", low), ("high", high), ("names", names), ("units", units)):
            object.__setattr__(self, key, value)
        if self.rate_limit is not None:
            limit = _floats(self.rate_limit, "action.rate_limit", len(low))
            if min(limit) <= 0:
                raise ContractError("contract action.rate_limit: every entry must be positive, or the whole None")
            object.__setattr__(self, "rate_limit", limit)


@dataclass(frozen=True, kw_only=True)
class Control:
    hz: float | None = None
    "Rate at which the policy was trained to act, in Hz; None: unknown."
    max_obs_age_ms: float | None = None
    "An observation older than this, in ms, is a fault; None: unchecked."
    deadline_ms: float | None = None
    "A step that takes longer than this, in ms, is flagged; None: unchecked."
    on_fault: str = "hold"
    "`hold`: repeat the last executed action for up to `hold_steps`, then stop safely; `safe`: stop at once."
    hold_steps: int = 5
    "Consecutive faulty steps that are held before the safe stop."

    def __post_init__(self) -> None:
        for key in ("hz", "max_obs_age_ms", "deadline_ms"):
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, _floats((value,), f"control.{key}")[0])
                if value <= 0:
                    raise ContractError(f"contract control.{key} is {value}: give a positive number, or leave it out")
        if self.on_fault not in ON_FAULT or self.hold_steps < 0:
            raise ContractError(f"contract control: on_fault must be one of {', '.join(ON_FAULT)}, hold_steps >= 0")


@dataclass(frozen=True, kw_only=True)
class Stochastic:
    eps: bool = False
    "Whether the graph has the input `eps` [batch, E], noise drawn by the caller: standard normal, unless `candidates`."
    form: str = NOISE
    "How the noise enters the action before scaling; log_std is a weight, or the network's where noise is squashed."

    @property
    def squashed(self) -> bool:
        """Whether the noise enters before tanh, with a log_std that depends on the observation."""
        return self.eps and self.form == SQUASHED_NOISE


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    size: int
    "H, entries of the hidden state: the graph has the input `h_in` [batch, H] and the output `h_out` [batch, H]."
    initial: tuple[float, ...]
    "State at the start of every episode [H]."

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ContractError(f"contract recurrent.size is {self.size!r}: give the entries of the state, at least 1")
        initial = _floats(self.initial, "recurrent.initial", self.size)
        if max(map(abs, initial)) > float(np.finfo(np.float32).max):
            raise ContractError("contract recurrent.initial is beyond float32: give a state that the network can reach")
        object.__setattr__(self, "initial", initial)


@dataclass(frozen=True, kw_only=True)
class Git:
    commit: str | None = None
    "Commit that trained the policy."
    dirty: bool | None = None
    "Whether the working tree differed from the commit."


@dataclass(frozen=True, kw_only=True)
class Robot:
    model: str | None = None
    "Robot that the policy drives."
    revision: str | None = None
    "Its revision or configuration."


@dataclass(frozen=True, kw_only=True)
class Onnx:
    opset: int = 18
    "ONNX operator set of the graph."
    ir: int = 8
    "ONNX file version."
    min_ort: str = "1.15"
    "Oldest onnxruntime that loads the file."


def _floats(values: Sequence[float] | np.ndarray, name: str, length: int | None = None) -> tuple[float, ...]:
    out = tuple(float(value) for value in values)
    if length is not None and len(out) != length:
        raise ContractError(f"contract {name} has {len(out)} entries, {length} are needed")
    if not all(math.isfinite(value) for value in out):
        raise ContractError(f"contract {name} holds NaN or infinity: give finite numbers")
    return out
