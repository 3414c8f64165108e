"""Runs a policy: numpy and onnxruntime only, one thread, buffers bound once.

Collectors and evaluations call `act`; a device calls `step`, which never raises on what a sensor delivered but returns
a safe action and says why in `flags`. The order inside `step` is the invariant that makes it safe:

    age and sequence of the observation -> range (NaN and infinity fail it) -> poison the output -> run
    -> finite (a poisoned output that the run did not overwrite fails here) -> bounds -> age again (a run that
    stalled has decided on a world that is gone) -> rate limit

A recurrent policy's state follows the same rule: it advances with a run whose action is given out, and only then.

Shape legend: B batch, O observation entries, A action entries, E noise entries (A, unless the policy chooses between K
candidates), H entries of a recurrent policy's state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from export.errors import ExportError
from export.golden import check_golden
from export.matching import check_expected
from export.policy import MAX_BATCH, Policy, read_policy
from export.safeguards import ActionGuard, Flag, ObservationGuard
from export.session import ORT_ERRORS, open_session
from export.state import HiddenState, check_state_input

F32 = np.float32


class PolicyRunner:
    """An opened policy. Not for use by several threads at once: calls share the bound buffers.

    `policy` is a bundle folder, a .onnx file with its .sha256 beside it, ONNX bytes, or what `read_policy` returned.
    `expect` is part of a contract as plain data (`{"action": {"names": [...]}}`) that must agree, or it is refused.
    `variant` is one that the bundle holds (`float32`, `wfp16`, `int8`), by default float32. With `verify_key`, an
    Ed25519 public key file, only a bundle signed by its private key is accepted. A bundle's golden outputs are
    recomputed through the bound buffers before the runner is ready.
    `frozen_after`: in `step`, this many identical observations in a row with new time stamps are a fault (a driver that
    repeats its last sample under a fresh stamp); None: a robot may stand still.

    A recurrent policy keeps its state between single observations: `reset` begins every episode.
    """

    _observation_O: np.ndarray
    _action_A: np.ndarray
    _raw_A: np.ndarray
    _eps_E: np.ndarray
    _eps_used: bool

    def __init__(
        self,
        policy: str | Path | bytes | Policy,
        *,
        expect: Mapping[str, Any] | None = None,
        variant: str | None = None,
        verify_key: str | Path | None = None,
        frozen_after: int | None = None,
    ) -> None:
        if not isinstance(policy, Policy):
            policy = read_policy(policy, variant=variant, verify_key=verify_key)
        elif variant not in (None, policy.variant) or verify_key is not None:
            raise ExportError(f"{policy.source}: was read already; pass variant and verify_key to read_policy instead")
        self.policy = policy
        self.contract = policy.contract
        self.observation_size = policy.contract.observation_size
        self.action_size = policy.contract.action_size
        self.stochastic = policy.contract.stochastic.eps
        self.noise_size = policy.contract.noise_size
        self.max_batch = MAX_BATCH.get(policy.variant)
        if expect is not None:
            check_expected(policy.contract.to_dict(), expect, where=policy.source)
        self.frozen_after = frozen_after
        self._observations = ObservationGuard(self.contract, frozen_after)
        self._actions = ActionGuard(self.contract)
        deadline = self.contract.control.deadline_ms
        self._deadline_s = np.inf if deadline is None else deadline / 1e3
        self._session = open_session(policy)
        self._bind()
        self.infer(np.zeros(self.observation_size, F32))  # warm-up: the first run allocates
        if self._state is not None:
            self._state.restart()
        if policy.golden is not None:
            check_golden(self, policy.golden, policy.source)

    def act(self, observation: np.ndarray, eps: np.ndarray | None = None) -> np.ndarray:
        """Action [A] or [B, A] float32 in environment units for an observation [O] or [B, O]; a copy, yours to keep.

        `eps` is noise [E] or [B, E] for a stochastic policy (`export.candidates.draw_noise`); None or zeros give the
        mean action.
        Unguarded: NaN in gives NaN out. A recurrent policy's state advances, unless it would not be finite. Raises
        ExportError for another shape, a type that is not a real number, a batch for a recurrent policy, or more rows
        than `max_batch` (1 for int8; None is any number).
        """
        if getattr(observation, "ndim", None) == 1:
            self._run_bound(observation, eps)
            return self._action_A.copy()
        return self._run_batch(observation, eps, None)[0]

    def infer(self, observation: np.ndarray, eps: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Like `act`, and also the network's pre-squash mean `raw`, in the same shape."""
        if getattr(observation, "ndim", None) == 1:
            self._run_bound(observation, eps)
            return self._action_A.copy(), self._raw_A.copy()
        action, raw, *_ = self._run_batch(observation, eps, None)
        return action, raw

    def infer_candidates(
        self, observation: np.ndarray, eps: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(action [B, A], raw [B, A], q [B, K] of the candidates) for [B, O] under noise `eps` [B, E] or none.

        Raises ExportError as `act` does, and for a policy without candidates.
        """
        if self.contract.candidates is None:
            raise ExportError(f"{self.policy.source}: has no candidates whose values it could give; use infer")
        action, raw, q = self._run_batch(observation, eps, None)
        return action, raw, q

    def infer_with_state(
        self, observation: np.ndarray, h: np.ndarray, eps: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(action, raw, h_out) of a recurrent policy from the states `h`: [O] and [H], or [B, O] and [B, H].

        The caller keeps the states; the runner's own is neither read nor changed. Raises ExportError as `act` does,
        for a state of another shape, and for a memoryless policy.
        """
        state = self._state
        if state is None:
            raise ExportError(f"{self.policy.source}: is memoryless and takes no state; use infer")
        if getattr(observation, "ndim", None) != 1:
            action, raw, h_out = self._run_batch(observation, eps, h)
            return action, raw, h_out
        self._check_state(h, (len(state.value),))
        own = state.value
        try:
            state.set(h)
            self._run_bound(observation, eps)
            return self._action_A.copy(), self._raw_A.copy(), state.produced
        finally:
            state.set(own)

    def step(self, observation: np.ndarray, t_obs: float | None = None) -> tuple[np.ndarray, int]:
        """Guarded action [A] for one observation [O] measured at `t_obs` (s, time.monotonic); None: age unknown.

        Returns (action, flags). With a fault in `flags` the action is the last executed one (the middle of the
        bounds if there was none). The action is taken to be executed; call `executed` if something else was.
        """
        start = time.monotonic()
        if flags := self.check(observation, t_obs):
            return self._actions.hold, flags
        self._action_A.fill(np.nan)
        if self._state is not None:
            self._state.poison()
        if self._eps_used:
            self._eps_E.fill(0.0)
            self._eps_used = False
        try:
            self._session.run_with_iobinding(self._binding)
        except ORT_ERRORS:
            return self._actions.hold, int(Flag.RUN)
        action = self._action_A.copy()
        sound = self._state is None or self._state.sound
        refused = self._actions.refuse(action) if sound else int(Flag.NOT_FINITE)
        end = time.monotonic()
        if not refused and t_obs is not None:
            refused = self._observations.age(end, t_obs)
        if refused:
            return self._actions.hold, refused
        action, flags = self._actions.limit(action)
        self._actions.executed(action)
        if self._state is not None:
            self._state.advance()
        if end - start > self._deadline_s:
            flags |= int(Flag.LATE)
        return action, flags

    def check(self, observation: np.ndarray, t_obs: float | None = None) -> int:
        """What `step` would refuse about an observation, without acting on it: an episode's last one."""
        flags = self._observations.order_and_age(time.monotonic(), t_obs) if t_obs is not None else 0
        try:
            self._load(observation)
        except ExportError:
            return flags | int(Flag.SHAPE)
        # The copy is checked, so that what is checked is what runs.
        flags |= self._observations.range(self._observation_O)
        return flags | self._observations.motion(self._observation_O, t_obs)

    def executed(self, action: np.ndarray) -> None:
        """Say which action [A], finite, the robot really executed last.

        The rate limit and a hold start from it, or from the bounds where it lies beyond them.
        """
        self._actions.executed(action)

    def reset(self) -> None:
        """Begin a new episode: forget the last executed action, the last time stamp and a recurrent policy's state."""
        self._actions.reset()
        self._observations.reset()
        if self._state is not None:
            self._state.restart()

    def take_over(self, previous: PolicyRunner) -> None:
        """Go on where `previous`, a runner of the same layout, stands: last executed action, time stamp, motion.

        Not the state: what it means differs between networks, so a recurrent policy starts at its initial one.
        """
        if self._state is not None:
            self._state.restart()
        self._actions.take_over(previous._actions)
        self._observations.take_over(previous._observations)

    def explain(self, flags: int, observation: Any, t_obs: float | None = None) -> str:
        """What the faults in `flags`, of the last `step` and its arguments, mean here: which entry, which bound."""
        return self._observations.explain(flags, observation, self._observation_O, t_obs)

    @property
    def last_action(self) -> np.ndarray | None:
        """The last executed action [A], a copy; None before the first."""
        return self._actions.last

    @property
    def last_raw(self) -> np.ndarray:
        """The network's pre-squash mean [A] of the last single observation, a copy."""
        return self._raw_A.copy()

    @property
    def state(self) -> np.ndarray:
        """A recurrent policy's state before its next single observation [H], a copy; [0] if it is memoryless."""
        return np.zeros(0, F32) if self._state is None else self._state.value

    def _bind(self) -> None:
        """Bind owned arrays once. Bound memory must stay where it is: these are only ever written into."""
        sizes = {"observation": self.observation_size, "action": self.action_size, "raw": self.action_size}
        buffers = {name: np.zeros((1, size), F32) for name, size in sizes.items()}
        self._eps_E = np.zeros(self.noise_size, F32)
        self._eps_used = False
        self._binding: onnxruntime.IOBinding = self._session.io_binding()
        self._binding.bind_input(
            "observation", "cpu", 0, F32, (1, self.observation_size), _address(buffers["observation"])
        )
        if self.stochastic:
            self._binding.bind_input("eps", "cpu", 0, F32, (1, self.noise_size), _address(self._eps_E))
        for name in ("action", "raw"):
            self._binding.bind_output(name, "cpu", 0, F32, (1, self.action_size), _address(buffers[name]))
        recurrent = self.contract.recurrent
        check_state_input(self._session, recurrent, self.policy.source)
        self._state = None if recurrent is None else HiddenState(recurrent)
        if self._state is not None:
            self._state.bind(self._binding)
        self._observation_O, self._action_A, self._raw_A = (buffers[name][0] for name in sizes)

    def _load(self, observation: np.ndarray) -> None:
        if not _is_numbers(observation) or observation.shape != self._observation_O.shape:
            raise self._wrong_observation(observation, f"[{self.observation_size}]")
        if observation.dtype == F32:
            self._observation_O[:] = observation
        else:
            with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which the range check refuses
                self._observation_O[:] = observation

    def _run_bound(self, observation: np.ndarray, eps: np.ndarray | None) -> None:
        self._load(observation)
        if eps is not None:
            self._check_eps(eps, self._eps_E.shape)
            self._eps_E[:] = eps
            self._eps_used = True
        elif self._eps_used:
            self._eps_E.fill(0.0)
            self._eps_used = False
        self._session.run_with_iobinding(self._binding)
        if self._state is not None and self._state.sound:
            self._state.advance()

    def _run_batch(self, observation: np.ndarray, eps: np.ndarray | None, h: np.ndarray | None) -> list[np.ndarray]:
        """[action, raw], and h_out of a recurrent policy or the candidates' q."""
        if not _is_numbers(observation) or observation.ndim != 2 or observation.shape[1] != self.observation_size:
            raise self._wrong_observation(observation, f"[B, {self.observation_size}]")
        shape = (len(observation), self.action_size)
        names, shapes = ["action", "raw"], [shape, shape]
        if self._state is not None:
            if h is None:
                raise ExportError(
                    f"{self.policy.source}: a batch for a recurrent policy needs a state for each row; "
                    "use infer_with_state, or one observation at a time"
                )
            names.append("h_out")
            shapes.append((len(observation), len(self._state.value)))
            self._check_state(h, shapes[-1])
        if self.contract.candidates is not None:
            names.append("q")
            shapes.append((len(observation), self.contract.candidates.count))
        if not len(observation):
            return [np.zeros(each, F32) for each in shapes]
        if self.max_batch is not None and len(observation) > self.max_batch:
            raise ExportError(
                f"{self.policy.source}: the variant {self.policy.variant} runs one observation at a time, not "
                f"{len(observation)}: its rounding depends on the whole batch; use float32 for batches"
            )
        with np.errstate(over="ignore"):
            feed = {"observation": np.ascontiguousarray(observation, F32)}
        if eps is not None:
            self._check_eps(eps, (len(observation), self.noise_size))
        if self.stochastic:
            feed["eps"] = (
                np.zeros((len(observation), self.noise_size), F32) if eps is None else np.ascontiguousarray(eps, F32)
            )
        if h is not None:
            feed["h_in"] = np.ascontiguousarray(h, F32)
        return [np.asarray(output) for output in self._session.run(names, feed)]

    def _wrong_observation(self, observation: Any, wanted: str) -> ExportError:
        if isinstance(observation, np.ndarray):
            given = f"{observation.dtype}{list(observation.shape)}"
        else:
            given = type(observation).__name__
        return ExportError(
            f"{self.policy.source}: observation is {given}, the policy takes float32{wanted}; "
            "flatten it as the contract lists the terms"
        )

    def _check_state(self, h: np.ndarray, shape: tuple[int, ...]) -> None:
        if not _is_numbers(h) or h.shape != shape:
            given = f"{h.dtype}{list(h.shape)}" if isinstance(h, np.ndarray) else type(h).__name__
            raise ExportError(f"{self.policy.source}: state is {given}, float32{list(shape)} is needed")

    def _check_eps(self, eps: np.ndarray, shape: tuple[int, ...]) -> None:
        if not self.stochastic or eps.shape != shape:
            raise ExportError(
                f"{self.policy.source}: eps has shape {list(eps.shape)}, "
                + (f"{list(shape)} is needed" if self.stochastic else "but this policy is deterministic; pass None")
            )


def _is_numbers(observation: Any) -> bool:
    return isinstance(observation, np.ndarray) and observation.dtype.kind in "fiu"


def _address(array: np.ndarray) -> int:
    return int(array.ctypes.data)
