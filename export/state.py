"""The hidden state of a recurrent policy: two owned buffers that are bound once, and when the one becomes the other.

The graph reads `h_in` and writes `h_out`. A run that failed, or whose outcome was refused, must leave no trace in the
state, so `h_out` is copied over `h_in` only by an explicit `advance`.

Shape legend: H entries of the state.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from export.contract_parts import Recurrent
from export.errors import ContractError

F32 = np.float32


class HiddenState:
    """State [H] of one sequence, float32, kept where an onnxruntime binding reads and writes it."""

    def __init__(self, recurrent: Recurrent) -> None:
        self._initial_H = np.asarray(recurrent.initial, F32)
        self._in_H = self._initial_H.copy()
        self._out_H = np.zeros(recurrent.size, F32)

    @property
    def value(self) -> np.ndarray:
        """What the next run starts from [H], a copy."""
        return self._in_H.copy()

    @property
    def produced(self) -> np.ndarray:
        """What the last run gave [H], a copy."""
        return self._out_H.copy()

    @property
    def sound(self) -> bool:
        """Whether the last run gave finite numbers; false after `poison` until a run overwrote it."""
        return bool(np.isfinite(self._out_H).all())

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        """Bind both buffers; this object must outlive the binding."""
        shape = (1, len(self._in_H))
        binding.bind_input("h_in", "cpu", 0, F32, shape, int(self._in_H.ctypes.data))
        binding.bind_output("h_out", "cpu", 0, F32, shape, int(self._out_H.ctypes.data))

    def poison(self) -> None:
        """Before a guarded run, so that an output that it does not write is noticed."""
        self._out_H.fill(np.nan)

    def advance(self) -> None:
        """Accept what the last run gave."""
        self._in_H[:] = self._out_H

    def set(self, h: np.ndarray) -> None:
        """Go on from `h` [H]."""
        self._in_H[:] = h

    def restart(self) -> None:
        """Begin a sequence: the contract's initial state."""
        self._in_H[:] = self._initial_H


def check_state_input(session: onnxruntime.InferenceSession, recurrent: Recurrent | None, where: str) -> None:
    """Raise ContractError unless the graph's `h_in` is what the contract says: [batch, H], or none at all."""
    found = [item.shape[1:] for item in session.get_inputs() if item.name == "h_in"]
    wanted = [] if recurrent is None else [[recurrent.size]]
    if found != wanted:
        raise ContractError(
            f"{where}: the graph's state h_in is {found or 'absent'}, the contract says {wanted or 'none'}; "
            "export the policy again"
        )
