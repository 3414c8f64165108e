"""What lets a lockstep run repeat its past: a writer that compares before it appends, and an environment at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from envs.errors import EnvError, EnvFault
from envs.wrappers import FlatEnv
from replay.packing import pack_episode
from replay.reader import StoreReader
from replay.schema import StoreSpec
from replay.stream import StreamWriter


class Differs(Exception):
    """The past did not repeat itself; caught where it is repeated."""


class RepeatingWriter:
    """A `StreamWriter` whose caller may stand behind the stream's head, at `head`, and come up to it step by step.

    Behind the head a step is compared bit for bit with the rows that are there; at the head it is appended. So nothing
    that was committed is ever rewritten or stored twice.
    """

    def __init__(self, writer: StreamWriter, reader: StoreReader) -> None:
        self._writer, self._reader = writer, reader
        self.name, self.spec = writer.name, writer.spec
        self.head = self.steps = 0
        """Rows and steps up to where the caller stands."""
        self.in_episode = False
        """Whether the step before was not its episode's last."""
        self.first_row = 0
        """Where the running episode begins."""

    @property
    def behind(self) -> bool:
        """Whether the stream holds rows from `head` on."""
        return self.head < self._writer.head

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Stored rows [stop - start, W], of before or behind `head`."""
        self._reader.refresh()
        return self._reader.rows(self.name, start, stop)

    def resume(self, *, head: int, steps: int, first_row: int | None) -> None:
        """Stand where a checkpoint was taken; `first_row` of the episode that was running, None where none was."""
        self.head, self.steps = head, steps
        self.in_episode, self.first_row = first_row is not None, first_row or 0
        self._catch_up()

    def give_up(self) -> None:
        """Stand at the stream's end, before a new episode."""
        self.head, self.steps, self.in_episode = self._writer.head, self._writer.steps, False

    def append(
        self, observation: np.ndarray, action: np.ndarray, reward: float, *, terminated: bool, truncated: bool,
        next_observation: np.ndarray, first: bool, policy_version: int, info: Mapping[str, float],
        intervention: bool = False,
    ) -> None:  # fmt: skip
        """As `StreamWriter.append`; Differs where the stream already holds something else."""
        ended = terminated or truncated
        if self.behind:
            rows, _ = pack_episode(
                self.spec, np.stack([observation, next_observation]), action[None], [reward],
                terminated=terminated, truncated=truncated, intervention=intervention,
                info={name: [info[name]] for name in self.spec.info},
            )  # fmt: skip
            rows[0, self.spec.offsets["first"]] = first
            self._compare(rows if ended else rows[:1])
        else:
            self._writer.append(
                observation, action, reward, terminated=terminated, truncated=truncated,
                next_observation=next_observation, first=first, policy_version=policy_version, info=info,
                intervention=intervention,
            )  # fmt: skip
        if first:
            self.first_row = self.head
        self.head += 1 + ended
        self.steps += 1
        self.in_episode = not ended
        self._catch_up()

    def cut(self, observation: np.ndarray) -> None:
        """As `StreamWriter.cut`; Differs where the stream already holds something else."""
        if self.behind:
            row = np.zeros((1, self.spec.row_width), np.float32)
            row[0, : self.spec.observation_size] = observation
            row[0, self.spec.offsets["interrupted"]] = 1.0
            self._compare(row)
        else:
            self._writer.cut(observation)
        self.head += 1
        self.in_episode = False

    def _compare(self, expected: np.ndarray) -> None:
        stored = self.rows(self.head, min(self.head + len(expected), self._writer.head))
        if stored.shape != expected.shape or not np.array_equal(stored, expected):
            raise Differs(f"row {self.head} of stream {self.name} was not repeated")

    def _catch_up(self) -> None:
        """Having reached the end of the stream, go on with the episode that runs there."""
        if self.in_episode and not self.behind and not self._writer.in_episode:
            self._writer.continue_episode()


class LocalEnv:
    """An environment of this very process, with the calls of `agent.env_process.EnvProcess`."""

    def __init__(self, build: Callable[[], FlatEnv], spec: StoreSpec) -> None:
        self._build, self._columns = build, spec.info
        self._env: FlatEnv | None = None
        self._fault: EnvFault | EnvError | None = None
        self.observation = np.zeros(spec.observation_size, np.float32)
        self.reward = 0.0
        self.terminated = self.truncated = False
        self.info: dict[str, float] = {}
        self.seed = 0
        """That the running episode began with."""

    def launch(self) -> None:
        """Build the environment, in place of the one before."""
        self.close()
        self._try(self._launch)

    def ask_reset(self, seed: int) -> None:
        """Begin an episode."""
        self.seed = seed
        self._try(lambda: self._reset(seed))

    def ask_step(self, action: np.ndarray) -> None:
        """Take one step with `action` [A], environment units."""
        self._try(lambda: self._step(action))

    def answer(self) -> None:
        """Raise the EnvFault or EnvError of what was asked last, if it met one."""
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def close(self) -> None:
        """Release the environment."""
        if self._env is not None:
            env, self._env = self._env, None
            self._try(env.close)
            self._fault = None  # a faulty environment may fail to close as well; it is gone either way

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except (EnvFault, EnvError) as fault:
            self._fault = fault

    def _launch(self) -> None:
        self._env = self._build()
        self._env.columns = self._columns

    def _reset(self, seed: int) -> None:
        assert self._env is not None
        self.observation[:], _ = self._env.reset(seed=seed)

    def _step(self, action: np.ndarray) -> None:
        assert self._env is not None
        following, self.reward, self.terminated, self.truncated, info = self._env.step(action)
        self.observation[:] = following
        self.info = {name: float(info.get(name, 0.0)) for name in self._columns}
