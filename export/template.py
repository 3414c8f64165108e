"""Fast publication: write new weights into a graph that was exported once.

The learner exports its actor through torch once (seconds) and then publishes by patching the weights' bytes in that
file (a fraction of a millisecond). The result is the same bytes that a new full export would give, because the
exporter writes every weight as a named, raw, float32 initializer and the contract as the last field of the file.
Needs neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export import wire
from export.contract import FLOAT32, VARIANT_KEY, Contract, contract_from_metadata, contract_metadata
from export.errors import ContractError, ExportError, IntegrityError

WEIGHT_PREFIXES = ("network.", "log_std")


@dataclass(frozen=True, kw_only=True)
class Slot:
    start: int
    "Offset of the first byte of the values in the file."
    stop: int
    "Offset past the last byte."
    shape: tuple[int, ...]
    "Shape of the float32 array."


class Template:
    """An exported policy whose weights and contract can be replaced.

    >>> template = Template.from_bytes(export_policy(network, log_std=None, contract=contract))
    >>> newer = template.patch({"network.0.weight": weight, ...}, newer_contract)
    """

    def __init__(self, body: bytes, slots: Mapping[str, Slot], contract: Contract, variant: str = FLOAT32) -> None:
        self.contract = contract
        self.variant = variant
        self._body = body
        self._slots = dict(slots)
        self._constants = contract.constants().keys()

    @classmethod
    def from_bytes(cls, model: bytes, *, where: str = "policy") -> Template:
        """Find the weights of an exported policy. `where` names the file in errors. Raises ExportError."""
        slots: dict[str, Slot] = {}
        metadata: dict[str, str] = {}
        end_of_body = len(model)
        for number, start, stop, begin in wire.fields(model, 0, len(model)):
            if number == wire.MODEL_METADATA:
                end_of_body = min(end_of_body, begin)
                key, value = _entry(model, start, stop)
                if key in metadata:
                    raise IntegrityError(f"{where}: metadata key {key!r} stands twice; export the policy again")
                metadata[key] = value
            elif end_of_body != len(model):
                raise IntegrityError(f"{where}: metadata is not the end of the file; export the policy with slipway")
            elif number == wire.MODEL_GRAPH:
                for inner, first, last, _ in wire.fields(model, start, stop):
                    if inner == wire.GRAPH_INITIALIZER:
                        slots |= _slot(model, first, last, where)
        contract = contract_from_metadata(metadata, where=where)
        template = cls(model[:end_of_body], slots, contract, metadata.get(VARIANT_KEY, FLOAT32))
        template._check_constants(where)
        return template

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Names that `patch` needs: the network's state_dict keys prefixed `network.`, and `log_std` if stochastic."""
        return tuple(name for name in self._slots if name.startswith(WEIGHT_PREFIXES))

    def weight(self, name: str) -> np.ndarray:
        """A copy of the float32 values under `name`, a weight or a constant of the contract."""
        slot = self._slots[name]
        return np.frombuffer(self._body, "<f4", (slot.stop - slot.start) // 4, slot.start).reshape(slot.shape).copy()

    def patch(self, weights: Mapping[str, np.ndarray], contract: Contract) -> bytes:
        """The bytes that a full export of these weights with this contract would give.

        `weights` are float arrays under `weight_names`; entries that the graph does not use are ignored. Raises
        ExportError when one is missing, has another shape, or holds NaN or infinity, and ContractError when the
        contract is for another graph (sizes, clip on or off, noise input, candidates, state).
        """
        if self.variant != FLOAT32:
            raise ExportError(
                f"a {self.variant} variant cannot be patched: patch the float32 policy and reduce it again"
            )
        constants = contract.constants()
        sizes = [None if each.recurrent is None else each.recurrent.size for each in (contract, self.contract)]
        if (
            constants.keys() != self._constants
            or contract.stochastic != self.contract.stochastic
            or contract.candidates != self.contract.candidates
            or sizes[0] != sizes[1]
        ):
            raise ContractError("contract is for another graph than the template: export the policy in full again")
        missing = [name for name in self.weight_names if name not in weights]
        if missing:
            raise ExportError(f"weights lack {', '.join(missing)}: pass the whole state_dict with its keys prefixed")
        out = bytearray(self._body)
        for name, slot in self._slots.items():
            value = constants.get(name)
            if value is None:
                value = weights.get(name) if name.startswith(WEIGHT_PREFIXES) else None
            if value is None:
                continue  # a constant of the network's own code, such as a fixed positional table
            array = np.ascontiguousarray(value, dtype="<f4").reshape(np.shape(value))
            if array.shape != slot.shape:
                raise ExportError(f"weight {name} has shape {array.shape}, the graph has {slot.shape}: export in full")
            if not np.isfinite(array).all():
                raise ExportError(f"weight {name} holds NaN or infinity: the policy diverged; publish an earlier one")
            out[slot.start : slot.stop] = array.tobytes()
        return bytes(out) + wire.encode_entries(contract_metadata(contract))

    def _check_constants(self, where: str) -> None:
        """The graph must hold the very normaliser and bounds that its contract states."""
        for name, value in self.contract.constants().items():
            if name not in self._slots or not np.array_equal(self.weight(name), value):
                raise ContractError(f"{where}: {name} in the graph is not what the contract says; export it again")


def _entry(model: bytes, start: int, stop: int) -> tuple[str, str]:
    found = {number: model[first:last] for number, first, last, _ in wire.fields(model, start, stop)}
    try:
        return found.get(wire.ENTRY_KEY, b"").decode(), found.get(wire.ENTRY_VALUE, b"").decode()
    except UnicodeDecodeError as error:
        raise IntegrityError(f"ONNX metadata is not text ({error}); copy or export the policy again") from error


def _slot(model: bytes, start: int, stop: int, where: str) -> dict[str, Slot]:
    """The slot of one TensorProto; other types than raw float32 are never patched and are left out."""
    shape: list[int] = []
    name, data_type, raw = "", 0, None
    for number, first, last, _ in wire.fields(model, start, stop):
        if number == wire.TENSOR_DIMS:
            shape.append(first)
        elif number == wire.TENSOR_TYPE:
            data_type = first
        elif number == wire.TENSOR_NAME:
            name = model[first:last].decode(errors="replace")
        elif number == wire.TENSOR_RAW:
            raw = (first, last)
        elif number == wire.TENSOR_LOCATION and first != 0:
            raise IntegrityError(f"{where}: weight {name!r} lies in another file; export with external_data=False")
    if data_type != wire.TENSOR_FLOAT32 or raw is None:
        return {}
    if raw[1] - raw[0] != 4 * int(np.prod(shape, dtype=np.int64)):
        raise IntegrityError(f"{where}: weight {name!r} has {raw[1] - raw[0]} bytes for shape {shape}; export it again")
    return {name: Slot(start=raw[0], stop=raw[1], shape=tuple(shape))}
