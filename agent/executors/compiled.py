"""The whole update (losses, gradients, optimisers, moving average) as one graph compiled by torch.compile."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
import types
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from agent.executors.eager import Steppable, eager
from agent.transitions import Transitions

STRUCTURE = frozenset(
    {
        "NOT_PRESENT_IN_GENERIC_DICT", "EMPTY_NN_MODULE_HOOKS_DICT", "TYPE_MATCH",
        "MODULE_MATCH", "CLASS_MATCH", "BUILTIN_MATCH", "CLOSURE_MATCH",
    }
)  # fmt: skip
"""Torch's guards on what belongs to the code (modules, classes, functions, hooks), which no run changes.

They are two thirds of all, and checking them takes 0.2 ms of every update.
"""
IN_PLACE = re.compile(r"parameters\[|_mean(_square)?\[")
"""Members of such collections (networks' parameters, optimisers' moments) change in place and never their shape."""
OPTIONS = {"size_asserts": False, "alignment_asserts": False}
"""Torch checks every buffer of its own graph; with `IN_PLACE` that is 0.5 of 7 ms of an update with bf16 products."""
ON_CPUS = {"cpp_wrapper": True, "cpp.vec_isa_ok": True}
"""One call in C++ a graph, not one from Python an operation: quicker to run and, as one file, to compile.

And the processor is believed about its plain vectors: torch would try them by four more programs, which every new cache
compiles (11 of 43 s of processor time until the first update) and every process loads.
"""


class Compiled:
    """Compiles an algorithm's `step` at its first update; where that fails, says so once and goes on eagerly.

    A failure leaves no trace in the algorithm's state: nothing runs before all is compiled. A batch of another size
    or another part of the update compiles again, and so does another value of anything that `step` reads: a number, a
    flag, a function held by the algorithm. Only what belongs to the code itself is taken not to change, and the shapes
    of parameters and moments.
    """

    def __init__(
        self, say: Callable[[str], None], working: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """`working()` is entered while a compiler works, which may take as long as thousands of updates."""
        self._say, self._working = say, working
        self._compiled: Callable[..., dict[str, Tensor]] | None = None
        self._checked: set[tuple[int, str]] = set()
        self.failed = False
        self.compile_seconds = 0.0

    def __call__(self, algorithm: Steppable, batch: Transitions) -> dict[str, Tensor]:
        """One update."""
        if self.failed:
            return eager(algorithm, batch)
        if self._compiled is None:
            self._compiled = torch.compile(
                _step_of(algorithm), fullgraph=True, dynamic=False, options=_options(batch.reward.device)
            )
        tensors = tuple(getattr(batch, field.name) for field in dataclasses.fields(batch))
        if (len(batch.reward), algorithm.part) in self._checked:
            # Torch may find that something else has changed and compile again, which needs the first time's settings.
            with contextlib.suppress(torch._dynamo.exc.TorchDynamoException):
                return self._compiled(*tensors)
        return self._first(algorithm, batch, tensors)

    def _first(self, algorithm: Steppable, batch: Transitions, tensors: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
        assert self._compiled is not None
        start = time.monotonic()
        # Compilers report their own failures at length; ours is one line.
        logging.getLogger("torch._inductor").setLevel(logging.ERROR)
        try:
            # Tracing torch.autograd.grad needs the flag in those versions of torch that have it.
            with self._working(), warnings.catch_warnings(), torch._dynamo.config.patch(trace_autograd_ops=True):
                warnings.simplefilter("ignore")
                if batch.reward.device.type == "cpu":
                    _look_for_a_compiler()
                result = self._compiled(*tensors)
        except Exception as error:  # noqa: BLE001 - torch raises a different class for each way to fail
            self.failed = True
            cause = getattr(error, "inner_exception", error)
            first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            mend = ": install a C++ compiler (g++)" if type(cause).__name__ == "InvalidCxxCompiler" else ""
            self._say(f"the update cannot be compiled here ({first}); it runs eagerly{mend}")
            return eager(algorithm, batch)
        self.compile_seconds += time.monotonic() - start
        self._checked.add((len(batch.reward), algorithm.part))
        return result


def _look_for_a_compiler() -> None:
    """Raise torch's own error where there is none, which torch would find after ten seconds of tracing only."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    get_cpp_compiler()


def _options(device: torch.device) -> dict[str, Any]:
    options = {"guard_filter_fn": _stays, **OPTIONS}
    if device.type == "cpu":
        from agent.executors.rewrite import Rewrite  # its imports take longer than a run that never compiles can spare

        options |= {"post_grad_custom_post_pass": Rewrite(), **ON_CPUS}
    return options


def _stays(guards: Sequence[Any]) -> list[bool]:
    """Of each guard (torch's `GuardFilterEntry`) whether it is checked before each update."""
    return [_checked(guard.guard_type, guard.name) for guard in guards]


def _checked(kind: str, name: str) -> bool:
    if kind == "CLOSURE_MATCH":
        return name.startswith("algorithm.")
    if kind in ("TENSOR_MATCH", "DUPLICATE_INPUT") and IN_PLACE.search(name):
        return False
    return kind not in STRUCTURE


def _step_of(algorithm: Steppable) -> Callable[..., dict[str, Tensor]]:
    """`step` with the batch's tensors as arguments."""

    names = [field.name for field in dataclasses.fields(Transitions)]

    def step(*tensors: Any) -> dict[str, Tensor]:
        return algorithm.step(Transitions(**dict(zip(names, tensors, strict=True))))

    # Torch keeps what it compiled by the code object, eight versions of each: every learner gets one of its own.
    return types.FunctionType(step.__code__.replace(), step.__globals__, step.__name__, closure=step.__closure__)
