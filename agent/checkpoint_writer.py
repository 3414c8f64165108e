"""Checkpoints written behind the update loop's back: the loop pays for a snapshot in memory, a thread for the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from agent import checkpoint
from replay.errors import StorageError


class CheckpointWriter:
    """One thread that writes snapshots in the order of their steps.

    Where the disk is slower than checkpoints come, the newest waiting snapshot replaces the one that waited before it:
    the loop never waits for the disk. A write that fails (a full disk) leaves the checkpoints before it as they are;
    the following one is the next try.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writes: list[tuple[str, Future[str | None]]] = []
        self._failure: str | None = None
        self.spare: set[str] = set()
        """Names of checkpoints that are written and kept whatever comes after them."""

    def submit(
        self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, first: Callable[[], dict[str, Any]]
    ) -> None:
        """Copy `tensors` to the host's memory and write them and `state` as checkpoint `step` in the background.

        `first` is called by the writing thread before anything is written; what it returns joins `state`.
        """
        snapshot = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        # A write in progress goes on.
        self._writes = [(name, write) for name, write in self._writes if name in self.spare or not write.cancel()]
        write = self._pool.submit(self._save, step, snapshot, dict(state), first)
        self._writes.append((f"{step:09d}", write))

    def _save(
        self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], first: Callable[[], dict[str, Any]]
    ) -> str | None:
        try:
            checkpoint.save(
                self._folder, step, tensors, {**state, **first()}, keep=self._keep, spare=frozenset(self.spare)
            )
        except (OSError, StorageError) as error:
            return (
                f"checkpoint {step} could not be written to {self._folder} ({error}): free some space or mend the disk"
            )
        return None

    def failure(self) -> str | None:
        """What kept a finished write from succeeding since the last call, else None. Raises what is no disk's fault."""
        failure = None
        while self._writes and self._writes[0][1].done():
            failure = self._writes.pop(0)[1].result() or failure
        return failure

    def wait(self) -> str | None:
        """Wait for what is being written; then as `failure`, of the newest write only."""
        futures.wait([write for _, write in self._writes])
        del self._writes[:-1]
        return self.failure()

    def close(self) -> None:
        """Wait for what is being written and end the thread."""
        self._pool.shutdown(wait=True)
