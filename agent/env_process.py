"""An environment in a process of its own, which its collector kills when it hangs and replaces when it faults.

    env = EnvProcess(server, spec, deadline_seconds=10.0, tick=beat)
    env.launch(); env.answer()                        # or EnvError: it cannot be built
    env.ask_reset(seed); env.answer()                 # env.observation
    env.ask_step(action); env.answer()                # env.observation, env.reward, env.terminated, ...

What asks returns at once, so several environments compute side by side; each is followed by exactly one `answer`.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType

import numpy as np

from agent.env_child import DONE, END, FAULT, MESSAGE_BYTES, REFUSED, RESET, SEED, START, STEP, EnvSpec, Exchange
from envs.errors import EnvError, EnvFault

SLICE_SECONDS = 0.1
"""How often a waiting collector looks up: to beat, to stop, to see whether the deadline has passed."""
BUILD_SECONDS = 60.0
"""For importing a task's own packages and compiling its model; not a step's deadline."""
SERVER_SECONDS = 60.0
"""For importing the simulators; a fork takes milliseconds."""


class EnvHung(EnvFault):
    """No answer within the deadline.

    Mend: raise the deadline if such a step is sound; the run goes on with a new environment by itself.
    """


class EnvServer:
    """The process that forks environments; started at the first request, and again should it die."""

    def __init__(self, tick: Callable[[], bool] = lambda: True) -> None:
        self._tick = tick
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._children: set[int] = set()

    def __enter__(self) -> EnvServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def fork(self, spec: EnvSpec, memory: int, channel: int) -> int:
        """A child that builds `spec`, maps the file `memory` and answers on the socket `channel`; its process id."""
        message = START + b" " + spec.to_bytes()
        try:
            pid = self._ask(message, [memory, channel])
        except OSError:
            self.close()  # it died, or was killed: its children did with it
            pid = self._ask(message, [memory, channel])
        self._children.add(pid)
        return pid

    def end(self, pid: int) -> int | None:
        """Kill a child at once; its exit code, negative for a signal. None where it went with its server."""
        if pid not in self._children:
            return None
        self._children.remove(pid)
        try:
            return self._ask(END + b" %d" % pid, [])
        except OSError:
            self.close()
            return None

    def close(self) -> None:
        """End the server, and with it every child."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._control = None
        self._children.clear()

    def _ask(self, message: bytes, descriptors: list[int]) -> int:
        """OSError where the server is gone or stays silent."""
        if self._control is None:
            self._start()
        assert self._control is not None
        due = time.monotonic() + SERVER_SECONDS
        socket.send_fds(self._control, [message], descriptors)
        while True:
            try:
                answer = self._control.recv(MESSAGE_BYTES)
            except BlockingIOError:
                self._tick()
                if time.monotonic() > due:
                    raise TimeoutError("the server of environments does not answer") from None
                continue
            if not answer:
                raise ConnectionResetError("the server of environments has died")
            return int(answer)

    def _start(self) -> None:
        self._control, theirs = pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agent.env_child", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
            )  # fmt: skip


class EnvProcess:
    """One environment behind a deadline; see the module's example.

    `tick()` is called now and then while waiting; False says that the caller will not wait any longer.
    """

    def __init__(
        self, server: EnvServer, spec: EnvSpec, *, deadline_seconds: float, tick: Callable[[], bool] = lambda: True
    ) -> None:
        self._server, self._spec, self._tick, self._deadline = server, spec, tick, deadline_seconds
        self._memory = os.memfd_create(f"slipway-{spec.id[-40:]}")
        os.ftruncate(self._memory, max(1, Exchange.layout(spec).itemsize))
        self._exchange = Exchange(self._memory, spec)
        self._channel: socket.socket | None = None
        self._descriptor = -1
        self._doing, self._patience, self._asked = "", 0.0, 0.0
        self._step = 0
        self.pid = 0
        self.observation = self._exchange.observation
        """[O] float32, overwritten by the next answer."""

    def launch(self) -> None:
        """Build the environment in a new process, in place of the one before. EnvError from `answer` if it cannot."""
        self.end()
        self._channel, theirs = pair()
        self._descriptor = self._channel.fileno()
        with theirs:
            self.pid = self._server.fork(self._spec, self._memory, theirs.fileno())
        self._step, self._doing, self._patience = 0, "building it", BUILD_SECONDS
        self._asked = time.monotonic()

    def ask_reset(self, seed: int) -> None:
        """Begin an episode."""
        self._step, self._doing, self._patience = 0, "its reset", self._deadline
        self._ask(RESET + SEED.pack(seed))

    def ask_step(self, action: np.ndarray) -> None:
        """Take one step with `action` [A], environment units."""
        self._step += 1
        self._doing = "a step"
        self._exchange.action[:] = action
        self._ask(STEP)

    def answer(self) -> None:
        """Wait for what was asked for; the properties then tell of it.

        Raises:
            EnvError: the environment cannot be built.
            EnvHung: it was silent for longer than the deadline, or than the caller would wait; it has been killed.
            EnvFault: the environment raised, returned nonsense, or its process died.
        """
        while True:
            try:
                answer = os.read(self._descriptor, MESSAGE_BYTES)
                break
            except BlockingIOError:
                waited = time.monotonic() - self._asked
                if self._tick() and waited < self._patience:
                    continue
                self.end()
                raise EnvHung(self._spec.id, self._step, f"{self._doing} took over {waited:.1f} s; killed") from None
            except ConnectionResetError:
                answer = b""
                break
        if answer == DONE:
            return
        if answer[:1] == FAULT:
            raise EnvFault(*json.loads(answer[1:]))
        if answer[:1] == REFUSED:
            raise EnvError(answer[1:].decode())
        code = self.end()
        how = "was lost with its server" if code is None else f"ended with exit code {code}"
        raise EnvFault(self._spec.id, self._step, f"its process {how} during {self._doing}")

    @property
    def reward(self) -> float:
        """Of the last step."""
        return float(self._exchange.reward[0])

    @property
    def terminated(self) -> bool:
        """Whether the last step ended the task."""
        return bool(self._exchange.ended[0])

    @property
    def truncated(self) -> bool:
        """Whether the last step was the last for another reason."""
        return bool(self._exchange.ended[1])

    @property
    def info(self) -> dict[str, float]:
        """The spec's columns of the last step."""
        return dict(zip(self._spec.columns, self._exchange.info.tolist(), strict=True))

    def end(self) -> int | None:
        """Kill the process, whatever it is doing; its exit code where known."""
        if self._channel is None:
            return None
        self._channel.close()
        self._channel = None
        return self._server.end(self.pid)

    def close(self) -> None:
        """End the process and give the shared memory back."""
        self.end()
        os.close(self._memory)

    def _ask(self, message: bytes) -> None:
        self._asked = time.monotonic()
        try:  # noqa: SIM105 - contextlib.suppress takes a microsecond of each step
            os.write(self._descriptor, message)
        except OSError:
            pass  # it died: the answer will say so


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep messages apart; reads of the first come back empty-handed after SLICE_SECONDS."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(SLICE_SECONDS * 1e6)))
    return ours, theirs
