"""What a policy promises: the order of its observation, its normaliser, its action bounds, its rate, its origin.

The contract travels inside the ONNX file as canonical JSON beside its sha256 and again in the bundle's manifest. It is
canonical so that equal contracts are equal bytes: sorted keys, no spaces, floats with the digits that restore them.

Shape legend: O observation entries, A action entries, E entries of the noise for one observation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NoReturn

import numpy as np

from export.candidates import Candidates
from export.contract_parts import (
    ActionSpec,
    Control,
    Git,
    Normalizer,
    ObservationTerm,
    Onnx,
    Recurrent,
    Robot,
    Stochastic,
)
from export.errors import ContractError

SCHEMA = "slipway.policy/1"
METADATA_KEY = "slipway.contract"
DIGEST_KEY = "slipway.contract.sha256"
VARIANT_KEY = "slipway.variant"
FLOAT32 = "float32"


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
    "Environment specification, if trained or meant for one: its id, and unless it has none kwargs, max_episode_steps."
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
        if self.env is not None and not isinstance(self.env.get("id"), str):
            raise ContractError('contract env has no id: give {"id": "Hopper-v5"}, or None')
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
