"""A program: is killed at every line that saving a checkpoint executes, one after another, and reports what is left.

`python -m tests.agent.kill_while_saving FOLDER` prints a JSON line for each instant: {"at": file:line, "found": step of
the checkpoint that loads, "latest": what LATEST names, "fallbacks": [...], and "again", "latest_again", "folders" after
saving once more}. The process that dies is a fork, so that torch is imported once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from agent import checkpoint, files

KEEP = 2
STEPS = (100, 200)  # complete before the fatal save
FATAL = 300
# rmtree's own lines count too: it may die with an old checkpoint half deleted.
TRACED = {checkpoint.__file__, files.__file__, shutil.__file__}


def save(folder: Path, step: int) -> None:
    tensors = {"weights": torch.full((4,), float(step)), "more": torch.arange(3)}
    checkpoint.save(folder, step, tensors, {"step": step}, keep=KEEP)


def save_and_die(folder: Path, at_line: int, report: int) -> None:
    """Save; before line number `at_line` of those executed, write where that is and be killed."""
    executed = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal executed
        code: CodeType = frame.f_code
        if code.co_filename not in TRACED:
            return None
        if event == "line":
            if executed == at_line:
                os.write(report, f"{Path(code.co_filename).name}:{frame.f_lineno}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            executed += 1
        return trace

    sys.settrace(trace)
    save(folder, FATAL)
    sys.settrace(None)


def main(root: Path) -> None:
    # A killed process loses nothing that it has written: fsync is for power losses, and takes most of the time.
    os.fsync = lambda _descriptor: None
    at_line = 0
    while True:
        folder = root / f"{at_line:04d}"
        for step in STEPS:
            save(folder, step)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            save_and_die(folder, at_line, write_end)
            os._exit(0)
        os.close(write_end)
        where = os.read(read_end, 1000).decode()
        os.close(read_end)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return
        fallbacks: list[str] = []
        found = checkpoint.load_latest(folder, on_fallback=fallbacks.append)
        assert found is not None
        whole = found.tensors["weights"].tolist() == [float(found.state["step"])] * 4
        latest = (folder / "LATEST").read_text()
        checkpoint.load(folder / latest)
        save(folder, FATAL)
        again = checkpoint.load_latest(folder, on_fallback=fallbacks.append)
        assert again is not None
        print(
            json.dumps(
                {
                    "at": where,
                    "found": found.state["step"] if whole else None,
                    "latest": latest,
                    "fallbacks": fallbacks,
                    "again": again.state["step"],
                    "latest_again": (folder / "LATEST").read_text(),
                    "folders": sorted(path.name for path in folder.iterdir() if path.is_dir()),
                }
            )
        )
        shutil.rmtree(folder)
        at_line += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
