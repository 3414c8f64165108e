"""When the learner publishes, what it does not publish, and what it does on a full disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agent.algorithms.base import Algorithm
from agent.board import Board, Slot
from agent.config import TrainConfig
from agent.incidents import no_space
from agent.networks import Actor, CandidatePolicy
from agent.publish import PolicyRefusedError, Publisher
from agent.run_directory import RunDirectory
from agent.training_log import TrainingLog
from export.contract import Contract
from export.errors import ExportError
from export.graph_cache import GRAPHS
from export.onnx_writer import export_policy
from export.template import Template
from replay.layout import user_cache
from replay.reader import StoreReader

PROBE_ROWS = 64
RETRY_SECONDS = 0.5


class Publication:
    """Publishes the run's policy: exported once as the template of all versions, then patched.

    `beside()` is called after each regular publication.
    """

    def __init__(
        self, run: RunDirectory, config: TrainConfig, board: Board, algorithm: Algorithm[Any], log: TrainingLog, *,
        policy: Actor | CandidatePolicy, contract: Contract, version: int, probe: np.ndarray,
        beside: Callable[[], None],
    ) -> None:  # fmt: skip
        self._board, self._algorithm, self._log, self._beside = board, algorithm, log, beside
        self._policy = policy
        self._seconds = config.online.publish_seconds
        self._published_at = 0.0
        network, log_std = policy.to_export()
        model = export_policy(network, log_std=log_std, contract=contract, cache=user_cache() / GRAPHS)
        template = Template.from_bytes(model)
        self._publisher = Publisher(run.policies, board, template, contract, version=version, probe=probe)

    @property
    def version(self) -> int:
        """The last one published."""
        return self._publisher.version

    def weights(self) -> dict[str, np.ndarray]:
        """The present weights, a copy, by their names in the graph."""
        return {name: weight.copy() for name, weight in self._policy.exported_weights().items()}

    def begin(self, stopping: Callable[[], bool]) -> None:
        """Publish the first version of this process; on a full disk wait for space.

        Raises:
            PolicyRefusedError: it gives NaN or infinity: there is nothing to act with.
        """
        while not self._publish() and not stopping():
            self._board.beat()
            time.sleep(RETRY_SECONDS)

    def publish(self, weights: Mapping[str, np.ndarray] | None = None) -> None:
        """Hand the present weights, or those given, to collectors and evaluation.

        A policy whose actions are not finite stays here, with an incident; on a full disk the version before stays in
        use until there is space.
        """
        try:
            self._publish(weights)
        except PolicyRefusedError as refused:
            self._log.event("policy_refused", str(refused), updates=self._algorithm.updates)

    def maybe(self) -> None:
        """Publish if `publish_seconds` have passed."""
        if time.monotonic() - self._published_at >= self._seconds:
            self.publish()
            self._beside()

    def _publish(self, weights: Mapping[str, np.ndarray] | None = None) -> bool:
        """Whether there was space for it."""
        self._published_at = time.monotonic()
        try:
            self._publisher.publish(weights or self._policy.exported_weights(), step=self._algorithm.updates)
        except (ExportError, OSError) as error:
            if not no_space(error):
                raise
            if not self._board[Slot.DISK_FULL]:
                self._log.event("publication_paused", f"the disk is full ({error}): publishing waits for free space")
            self._board[Slot.DISK_FULL] = 1
            return False
        if self._board[Slot.DISK_FULL]:
            self._log.event("publication_resumed", "there is space on the disk again")
        self._board[Slot.DISK_FULL] = 0
        return True


def probe_of(reader: StoreReader, observation_size: int) -> np.ndarray:
    """The newest observations of the longest stream, [up to PROBE_ROWS, O], environment units."""
    stream, head = max(reader.heads.items(), key=lambda item: item[1])
    return reader.rows(stream, max(0, head - PROBE_ROWS), head)[:, :observation_size]
