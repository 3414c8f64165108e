"""What a policy promises: the order of its observation, its normaliser, its action bounds, its rate, its origin.

The contract travels inside the ONNX file as canonical JSON beside its sha256 and again in the bundle's manifest. It is
canonical so that equal contracts are equal bytes: sorted keys, no spaces, floats with the digits that restore them.

Shape legend: O observation entries, A action entries, H entries of a recurrent policy's state.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NoReturn

import numpy as np

from export.candidates import Candidates
from export.errors import ContractError

SCHEMA = "slipway.policy/1"
METADATA_KEY = "slipway.contract"
DIGEST_KEY = "slipway.contract.sha256"
VARIANT_KEY = "slipway.variant"
FLOAT32 = "float32"

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


@dataclass(frozen=True, kw_only=True)
class Contract:
    policy_id: str
    "Unique name of the policy, e.g. `door-s0-v12`."
    observation: tuple[ObservationTerm, ...]
    "Parts of the flat observation, in order and without gaps."
    normalizer: Normalizer
    "Normalisation inside the graph."
    action: ActionSpec
    "Names, units and bounds of the action."
    control: Control = field(default_factory=Control)
    "Rate, deadlines and what to do on a fault."
    layout_fingerprint: str = ""
    "Fingerprint of the replay layout that the policy was trained on (opaque here)."
    algorithm: str = ""
    "Algorithm that trained the policy."
    run: str = ""
    "Run that trained it."
    step: int = 0
    "Gradient step of the weights."
    policy_version: int = 0
    "Publication number within the run."
    dataset: tuple[str, ...] = ()
    "Digests of the data it was trained on."
    env: Mapping[str, Any] | None = None
    "Environment specification {id, kwargs, max_episode_steps}, if trained or meant for one."
    git: Git = field(default_factory=Git)
    "Source of the training code."
    robot: Robot = field(default_factory=Robot)
    "Robot that it is meant for."
    stochastic: Stochastic = field(default_factory=Stochastic)
    "Whether and how exploration noise enters."
    recurrent: Recurrent | None = None
    "Size and initial value of the hidden state; None: the policy is memoryless."
    candidates: Candidates | None = None
    "What the graph proposes and how it chooses by Q; None: it has one action to give."
    onnx: Onnx = field(default_factory=Onnx)
    "File format."
    schema: str = SCHEMA
    "Name and major version of this contract's format."

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            _refuse_schema(self.schema)
        object.__setattr__(self, "observation", tuple(self.observation))
        object.__setattr__(self, "dataset", tuple(self.dataset))
        if not self.policy_id:
            raise ContractError("contract policy_id is empty: name the policy")
        if self.recurrent is not None and not isinstance(self.recurrent, Recurrent):
            raise ContractError("contract recurrent: give Recurrent(size=, initial=), or None for a memoryless policy")
        if self.recurrent is not None and self.candidates is not None:
            raise ContractError("contract: a recurrent policy cannot choose between candidates; leave one of them out")
        if self.candidates is not None and self.stochastic.eps != (self.candidates.seed is None):
            raise ContractError("contract candidates: their noise is the input eps exactly where they have no seed")
        end = 0
        for term in self.observation:
            if term.offset != end or term.length < 1:
                raise ContractError(
                    f"contract observation term {term.name!r} starts at {term.offset}, expected {end}: "
                    "list the terms in order, without gaps, each at least 1 long"
                )
            end += term.length
        if len({term.name for term in self.observation}) != len(self.observation) or not end:
            raise ContractError("contract observation: give at least one term and distinct names")
        if len(self.normalizer.mean) != end:
            raise ContractError(f"contract normalizer has {len(self.normalizer.mean)} entries, the observation {end}")
        if self.action.rate_limit is not None and self.control.hz is None:
            raise ContractError("contract action.rate_limit needs control.hz: give the rate in Hz, e.g. --hz 50")

    @property
    def observation_size(self) -> int:
        """O, entries of the flat observation."""
        return len(self.normalizer.mean)

    @property
    def action_size(self) -> int:
        """A, entries of the action."""
        return len(self.action.low)

    @property
    def noise_size(self) -> int:
        """E, entries of the input `eps` for one observation; 0 where there is none."""
        if not self.stochastic.eps:
            return 0
        return self.action_size if self.candidates is None else self.candidates.noise_size(self.action_size)

    def constants(self) -> dict[str, np.ndarray]:
        """Named float32 constants of the graph that follow from the contract: normaliser [O], scale and bounds [A]."""
        low, high = (np.asarray(bound, np.float64) for bound in (self.action.low, self.action.high))
        std = np.maximum(np.asarray(self.normalizer.std, np.float64), self.normalizer.eps)
        values: dict[str, np.ndarray] = {
            "normalizer.mean": np.asarray(self.normalizer.mean),
            "normalizer.inv_std": 1.0 / std,
            "action.scale": (high - low) / 2,
            "action.shift": (high + low) / 2,
            "action.low": low,
            "action.high": high,
        }
        if self.normalizer.clip is not None:
            values |= {
                "normalizer.clip_low": np.asarray(-self.normalizer.clip),
                "normalizer.clip_high": np.asarray(self.normalizer.clip),
            }
        return {name: value.astype(np.float32) for name, value in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        plain: dict[str, Any] = json.loads(self.to_json())
        return plain

    def to_json(self) -> bytes:
        """Canonical JSON, UTF-8. Raises ContractError when a value has no JSON form (NaN, an array in `env`)."""
        plain = _plain(self)
        if self.candidates is None:
            del plain["candidates"]  # as before there were any, so that old bundles keep their digests
        try:
            return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ContractError(f"contract has a value without a JSON form ({error}): use plain finite data") from error

    def digest(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def from_json(cls, data: bytes | str, *, where: str = "contract") -> Contract:
        """Read what `to_json` wrote. `where` names the file in errors. Raises ContractError."""
        try:
            plain = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
        except (ValueError, UnicodeDecodeError) as error:
            raise ContractError(f"{where}: not a policy contract ({error}); export the policy again") from error
        return cls.from_dict(plain, where=where)

    @classmethod
    def from_dict(cls, plain: Any, *, where: str = "contract") -> Contract:
        """Build from plain data; keys that a newer minor version added are ignored. Raises ContractError."""
        if not isinstance(plain, Mapping) or not isinstance(plain.get("schema"), str):
            raise ContractError(f"{where}: has no schema, so it is not a policy contract; export the policy again")
        if plain["schema"] != SCHEMA:
            _refuse_schema(plain["schema"], where)
        for key in ("observation", "action", "control", "normalizer", "policy_id"):
            if not plain.get(key):
                raise ContractError(f"{where}: contract lacks {key!r}; export the policy again")
        try:
            parts = {
                "observation": tuple(_build(ObservationTerm, term) for term in plain["observation"]),
                "normalizer": _build(Normalizer, plain["normalizer"]),
                "action": _build(ActionSpec, plain["action"]),
                "control": _build(Control, plain["control"]),
                "git": _build(Git, plain.get("git") or {}),
                "robot": _build(Robot, plain.get("robot") or {}),
                "stochastic": _build(Stochastic, plain.get("stochastic") or {}),
                "recurrent": None if plain.get("recurrent") is None else _build(Recurrent, plain["recurrent"]),
                "candidates": None if plain.get("candidates") is None else _build(Candidates, plain["candidates"]),
                "onnx": _build(Onnx, plain.get("onnx") or {}),
            }
            contract: Contract = _build(cls, {**plain, **parts})
        except ContractError as error:
            raise ContractError(f"{where}: {error}") from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ContractError(f"{where}: contract is malformed ({error}); export the policy again") from error
        return contract


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries; what they hold is shared, where `dataclasses.asdict` copies each number (1 ms)."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, (tuple, list)) and value and is_dataclass(value[0]):
        return [_plain(each) for each in value]
    return value


def contract_metadata(contract: Contract, variant: str = FLOAT32) -> dict[str, str]:
    """The `metadata_props` entries that carry the contract in an ONNX file, in file order.

    A reduced variant also carries its name, so that a file taken out of its bundle still says what it is.
    """
    text = contract.to_json()
    entries = {METADATA_KEY: text.decode(), DIGEST_KEY: hashlib.sha256(text).hexdigest()}
    return entries if variant == FLOAT32 else {VARIANT_KEY: variant, **entries}


def contract_from_metadata(metadata: Mapping[str, str], *, where: str) -> Contract:
    """Read the contract from an ONNX file's metadata and check its sha256. Raises ContractError."""
    text, digest = metadata.get(METADATA_KEY), metadata.get(DIGEST_KEY)
    if text is None or digest is None:
        raise ContractError(f"{where}: carries no slipway contract; export the policy with `slipway export`")
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ContractError(f"{where}: the contract does not match its own checksum; export the policy again")
    return Contract.from_json(text, where=where)


def _build(cls: type[Any], plain: Mapping[str, Any]) -> Any:
    known = {item.name for item in fields(cls)}
    return cls(**{key: _tuples(value) for key, value in plain.items() if key in known})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _floats(values: Sequence[float] | np.ndarray, name: str, length: int | None = None) -> tuple[float, ...]:
    out = tuple(float(value) for value in values)
    if length is not None and len(out) != length:
        raise ContractError(f"contract {name} has {len(out)} entries, {length} are needed")
    if not all(math.isfinite(value) for value in out):
        raise ContractError(f"contract {name} holds NaN or infinity: give finite numbers")
    return out


def _refuse_schema(schema: str, where: str = "contract") -> NoReturn:
    raise ContractError(
        f"{where}: contract schema {schema!r} is unknown, this slipway reads {SCHEMA!r}; upgrade slipway"
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key stands twice")
    return out
