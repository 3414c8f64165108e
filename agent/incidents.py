"""Incidents that outlast a full disk: what cannot be written now is written as soon as it can be."""

from __future__ import annotations

import errno
import time
from typing import Any

from agent.run_directory import RunDirectory


def no_space(error: BaseException) -> bool:
    """Whether a full disk (or a spent quota) is the cause of `error`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return False


class Incidents:
    """One process's lines in events.jsonl, in the order and with the times at which they happened."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._unsaid: list[tuple[str, str, dict[str, Any]]] = []

    def event(self, kind: str, message: str, **details: Any) -> None:
        """Record an incident, now or as soon as it can be written."""
        self._unsaid.append((kind, message, {"time": time.time(), **details}))
        self.flush()

    def flush(self) -> bool:
        """Write what waits; whether nothing waits any more."""
        try:
            while self._unsaid:
                kind, message, details = self._unsaid[0]
                self._run.event(kind, message, **details)
                del self._unsaid[0]
        except OSError:
            return False
        return True
