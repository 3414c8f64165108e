"""The far side of an environment in a process of its own: `python -m agent.env_child CONTROL PARENT`.

A server imports the simulators once and then forks a child for each environment that a collector asks for, so that a
killed one is replaced in milliseconds and not after seconds of imports. A child steps one environment when told to.
Arrays go through a small shared `Exchange`; the messages beside them are a few bytes on a SOCK_SEQPACKET pair:

    collector → child    STEP (the action is in the exchange) | RESET + seed as int64
    child → collector    DONE (observation, reward, flags and infos are in the exchange) | FAULT + JSON | REFUSED + text

One message is always followed by its answer, so each side writes to the exchange only while the other waits.
No torch, no onnxruntime: what a child maps beyond the server's pages is its environment.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import struct
import sys
import traceback
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agent.process import die_with_parent, return_freed_memory, run_child
from envs.errors import EnvError, EnvFault, one_line

STEP, RESET = b"s", b"r"
DONE, FAULT, REFUSED = b"d", b"f", b"e"
START, END = b"start", b"end"
MESSAGE_BYTES = 8192
SEED = struct.Struct("<q")


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What a child needs to build its environment and to lay out the exchange."""

    id: str
    """Gymnasium id."""
    kwargs: dict[str, Any]
    """Constructor arguments over the catalogue's."""
    max_episode_steps: int | None
    """Time limit over the catalogue's."""
    observation_size: int
    """O."""
    action_size: int
    """A."""
    columns: tuple[str, ...]
    """Infos that are stored with each step, as floats; 0 where a step does not bring one."""

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> EnvSpec:
        """What `to_bytes` wrote."""
        values = json.loads(data)
        return cls(**{**values, "columns": tuple(values["columns"])})


class Exchange:
    """The arrays of one environment in memory that both sides map."""

    def __init__(self, descriptor: int, spec: EnvSpec) -> None:
        layout = self.layout(spec)
        self._map = mmap.mmap(descriptor, layout.itemsize)
        whole = np.frombuffer(self._map, layout)
        self.observation: np.ndarray = whole["observation"][0]
        """[O] float32: where the last step or reset led to."""
        self.action: np.ndarray = whole["action"][0]
        """[A] float32, environment units: what to do next."""
        self.reward: np.ndarray = whole["reward"]
        """[1] float64."""
        self.ended: np.ndarray = whole["ended"][0]
        """[2] bool: terminated, truncated."""
        self.info: np.ndarray = whole["info"][0]
        """[K] float64: the spec's columns."""

    @staticmethod
    def layout(spec: EnvSpec) -> np.dtype[Any]:
        """One record; float64 first, so that all is aligned."""
        return np.dtype(
            [
                ("reward", np.float64), ("info", np.float64, (len(spec.columns),)),
                ("observation", np.float32, (spec.observation_size,)), ("action", np.float32, (spec.action_size,)),
                ("ended", np.bool_, (2,)),
            ]
        )  # fmt: skip


def serve_environment(spec: EnvSpec, exchange: Exchange, channel: int) -> None:
    """Build the environment, then step and reset it on request until the collector leaves or a fault ends it."""
    from envs.make import drop_model_sources, make_env

    try:
        env = make_env(spec.id, kwargs=spec.kwargs, max_episode_steps=spec.max_episode_steps)
        sizes = env.flattener.size, len(env.action_low)
        if sizes != (spec.observation_size, spec.action_size):
            raise EnvError(
                f"environment {spec.id} has {sizes[0]} observation and {sizes[1]} action columns, the run's store "
                f"{spec.observation_size} and {spec.action_size}: use the environment that the data come from"
            )
    except EnvError as error:
        os.write(channel, REFUSED + one_line(error, 2000).encode())
        return
    env.columns = spec.columns
    drop_model_sources()
    return_freed_memory()
    os.write(channel, DONE)
    try:
        while request := os.read(channel, MESSAGE_BYTES):
            if request == STEP:
                observation, reward, terminated, truncated, info = env.step(exchange.action)
                exchange.reward[0] = reward
                exchange.ended[0], exchange.ended[1] = terminated, truncated
                for index, name in enumerate(spec.columns):
                    exchange.info[index] = float(info.get(name, 0.0))
            else:
                observation, _ = env.reset(seed=SEED.unpack(request[1:])[0])
            exchange.observation[:] = observation
            os.write(channel, DONE)
    except EnvFault as fault:
        # One fault, one environment: the collector replaces this process.
        os.write(channel, FAULT + json.dumps([fault.env_id, fault.step, fault.what]).encode())


def fork(message: bytes, descriptors: list[int], control: socket.socket) -> int:
    """Fork a child that serves the environment in `message`; its process id."""
    server = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        control.close()
        memory, channel = descriptors
        # SIGKILL, because a stopped or looping simulator would sit out a SIGTERM.
        die_with_parent(server, signal.SIGKILL)
        spec = EnvSpec.from_bytes(message)
        serve_environment(spec, Exchange(memory, spec), channel)
        code = 0
    except (BrokenPipeError, ConnectionResetError):
        code = 0  # the collector left in mid-answer
    except BaseException:  # noqa: BLE001 - whatever it is must not return into the server's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve(control: socket.socket) -> None:
    """Fork and end children on request until the collector has left."""
    from envs.make import registered_ids

    registered_ids()  # imports gymnasium, the robotics environments and MuJoCo
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        if not message:
            return
        verb, _, rest = message.partition(b" ")
        if verb == START:
            answer = fork(rest, descriptors, control)
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            os.kill(int(rest), signal.SIGKILL)
            answer = os.waitstatus_to_exitcode(os.waitpid(int(rest), 0)[1])
        control.send(str(answer).encode())


def main(control: str, parent: str) -> int:
    """Entry point of the server's process."""
    with socket.socket(fileno=int(control)) as channel:
        return run_child(parent, lambda: serve(channel))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
