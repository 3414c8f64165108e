"""A process that the supervisor starts and watches."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent.files import last_line

# glibc returns every buffer above 128 KiB to the system and faults it in again at the next update; keeping them makes
# an update at 2×256 a fifth faster (9.5 against 11.7 ms; medians of three interleaved pairs).
MALLOC_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(512 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}


@dataclass(kw_only=True)
class Child:
    """One supervised process and its restart budget."""

    name: str
    command: list[str]
    log: Path
    lock: int | None = None
    """File descriptor of the run's lock, inherited: the run stays held until its last process has left."""
    process: subprocess.Popen[bytes] | None = None
    restarts: list[float] = field(default_factory=list)
    progress_at_restart: int = -1
    not_before: float = 0.0
    started: float = 0.0
    log_start: int = 0
    """Where the lines of the last start begin in the log."""
    touched: tuple[int, float] = (0, 0.0)
    """The log's time of change when last looked at, and the monotonic time at which that was new."""

    def start(self) -> None:
        """Run it in a session of its own, so that Ctrl-C reaches the supervisor alone."""
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.log.touch()
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command, str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **MALLOC_ENVIRONMENT}, pass_fds=() if self.lock is None else (self.lock,),
            )  # fmt: skip

    def last_words(self) -> str:
        """The last line that it wrote since its last start, for the user."""
        return last_line(self.log, self.log_start) or "no message"

    def quiet_seconds(self) -> float:
        """How long its log has not been touched, by the monotonic clock: the wall clock may jump."""
        changed, now = self.log.stat().st_mtime_ns, time.monotonic()
        if changed != self.touched[0]:
            self.touched = changed, now
        return now - self.touched[1]

    def kill(self) -> None:
        """End it at once and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
