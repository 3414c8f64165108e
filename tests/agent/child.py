"""A tiny supervised process: `python -m tests.agent.child BOARD STARTS BEHAVIOUR PARENT`; notes its start in STARTS."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from agent.board import Board, CollectorSlot, Phase, Slot


def save(checkpoints: Path, updates: int) -> None:
    """A checkpoint as far as its name and place go."""
    (checkpoints / f"{updates:09d}").mkdir(parents=True)


def main(board_path: str, starts_path: str, behaviour: str, _parent: str) -> int:
    starts = Path(starts_path)
    with starts.open("a") as file:
        file.write(f"{time.monotonic()}\n")
    count = len(starts.read_text().splitlines())
    board = Board(Path(board_path))
    if behaviour == "dies":
        print(f"about to fail\nfailure {count}", file=sys.stderr)
        return 3
    if behaviour == "is refused":
        print("store x holds no transition: ingest or collect some first", file=sys.stderr)
        return 2
    if behaviour == "gets on" and count < 9:
        save(starts.parent / "checkpoints", count)
        return 3
    if behaviour == "updates and loses them":
        board[Slot.PRETRAIN_STEP] += 1
        return 3
    if behaviour == "dies in the warm-up" and count < 9:
        board.collector(0)[CollectorSlot.STEPS] += 10
        return 3
    if behaviour == "dies before it saves" and (interval := 100 >> board[Slot.LEARNER_DEATHS]) > 20:
        return 3
    if behaviour == "dies before it saves" and count < 9:
        save(starts.parent / "checkpoints", count * interval)
        return 3
    if behaviour == "hangs once" and count == 1:
        time.sleep(600)
    if behaviour == "beats, then hangs once" and count == 1:
        board.beat()
        time.sleep(600)
    if behaviour == "never stops":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if behaviour == "stops when asked":
        while not board.stopping:
            board.beat()
            time.sleep(0.01)
        return 0
    board[Slot.PHASE] = Phase.DONE
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
