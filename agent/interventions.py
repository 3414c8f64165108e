"""Interventions: a person or a script that may act in the policy's place (`online.intervention = "module:factory"`).

    class Brake:
        def __call__(self, observation, action):      # [O], [A] float32, environment units; both may be kept
            return np.zeros_like(action) if observation[0] > 1.0 else None      # None: the policy's action stands

    make_brake = Brake

The factory is called once for each environment, without arguments, and once before the run, to be tried. What is
returned is clipped to the action bounds, executed, stored and flagged `intervention`. A `reset()` is called where an
episode begins. Torch-free.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from agent.errors import ConfigError
from agent.own_code import build_own, find_factory, raised
from envs.errors import one_line

FIELD = "online.intervention"
REFUSED = 2


def check_intervention(spec: str, *, build: bool) -> None:
    """ConfigError unless `spec` names a factory, and with `build` one that makes what can be called.

    It is called in a process of its own: a device that one process alone may open is free again for the collectors.
    """
    find_factory(spec, named_by=FIELD)
    if not build:
        return
    child = subprocess.run(
        [sys.executable, "-m", "agent.interventions", spec],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        check=False,
    )  # fmt: skip
    if child.returncode:
        said = child.stderr.strip().splitlines() or [f"ended with exit code {child.returncode}"]
        raise ConfigError(said[-1] if child.returncode == REFUSED else f"{FIELD}: {spec!r}: its factory: {said[-1]}")


class Intervention:
    """One environment's intervening party, whose answers are checked."""

    def __init__(self, spec: str, action_size: int) -> None:
        """ConfigError where the factory fails or returns nothing that can be called."""
        self._spec, self._shape = spec, (action_size,)
        self._act = build_own(spec, named_by=FIELD)
        if not callable(self._act):
            raise ConfigError(f"{FIELD}: {spec!r} returned a {type(self._act).__name__}, which cannot be called")

    def reset(self) -> None:
        """An episode begins."""
        reset = getattr(self._act, "reset", None)
        if callable(reset):
            self._try("its reset", reset)

    def __call__(self, observation: np.ndarray, action: np.ndarray) -> np.ndarray | None:
        """The action to take instead of the policy's, [A] float32; None to let it stand.

        ConfigError where it raises or returns something else: whoever relies on it would rather stand still.
        """
        answer = self._try("it", lambda: self._act(observation.copy(), action.copy()))
        if answer is None:
            return None
        try:
            taken = np.asarray(answer, np.float32)
        except (TypeError, ValueError):
            taken = np.zeros(0, np.float32)
        if taken.shape != self._shape or not np.isfinite(taken).all():
            raise ConfigError(
                f"{FIELD}: {self._spec!r} returned {one_line(repr(answer), 120)}: "
                f"return {self._shape[0]} finite numbers, or None"
            )
        return taken

    def _try(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"{FIELD}: {self._spec!r}: {what} raised {raised(error)}") from error


def main(spec: str) -> int:
    """Entry point of the process that tries a factory."""
    try:
        Intervention(spec, 0)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
