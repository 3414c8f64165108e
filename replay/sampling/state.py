"""Saved states of samplers: plain JSON, read back strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replay.errors import SamplerStateError


def generator_state(rng: np.random.Generator) -> Any:
    """The generator's state, JSON-able."""
    return _plain(rng.bit_generator.state)


def load_generator(rng: np.random.Generator, state: Any) -> None:
    """Put a generator where `generator_state` was taken.

    Raises:
        SamplerStateError: the state is of another kind of generator, or garbled.
    """
    kind = rng.bit_generator.state["bit_generator"]
    try:
        saved = state["bit_generator"]
        if kind == saved:
            rng.bit_generator.state = _arrays(state)
    except (KeyError, TypeError, ValueError) as error:
        raise SamplerStateError(f"the saved generator state is garbled ({error!r}): take an intact state") from error
    if kind != saved:
        raise SamplerStateError(f"the saved state is of a {saved} generator, the sampler has {kind}: pass a {saved}")


def check_keys(state: Mapping[str, Any], keys: tuple[str, ...], what: str) -> None:
    """Refuse a state that lacks a key or has one too many.

    Raises:
        SamplerStateError: naming the keys.
    """
    if set(state) != set(keys):
        raise SamplerStateError(
            f"the saved state of {what} has the keys {sorted(state)}, expected {sorted(keys)}: "
            "load it into a sampler made with the same options"
        )


def check_same(saved: Any, own: Any, what: str) -> None:
    """Refuse a state that was taken under another option.

    Raises:
        SamplerStateError: naming the option.
    """
    if saved != own:
        raise SamplerStateError(
            f"the saved state has {what} {saved!r}, this sampler {own!r}: load it into a sampler of the same options"
        )


def _plain(value: Any) -> Any:
    """Generator state with arrays as lists."""
    if isinstance(value, dict):  # a Mapping would be asked for at three times the cost, by every batch
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value


def _arrays(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, Mapping):
        if set(value) == {"array", "dtype"}:
            return np.array(value["array"], value["dtype"])
        return {key: _arrays(each) for key, each in value.items()}
    return value
