"""A reader process beside a writer that is killed: `python -m tests.replay.watch STORE STREAM` until stdin closes.

It checks every row against the formula when it sees its commit, and all of them at the end, and reports as JSON what
was wrong.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path

import numpy as np

from replay import Store
from replay.reader import StoreReader
from tests.replay import formula


def wrong_meta(reader: StoreReader, stream: str, since: int) -> list[int]:
    """Rows from `since` on whose episode id does not follow from their `first` flag."""
    head = reader.heads.get(stream, 0)
    if head - since < 2:
        return []
    episodes = reader.meta(stream, since, head)[:, 4]
    first = reader.rows(stream, since, head)[:, reader.spec.offsets["first"]] > 0
    return (since + 1 + np.flatnonzero(np.diff(episodes) != first[1:])).tolist()


def main(store: str, stream: str) -> None:
    reader = Store.open(Path(store)).reader()
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    wrong: list[str] = []
    seen = checks = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        reader.refresh()
        head = reader.heads.get(stream, 0)
        if head < seen:
            wrong.append(f"the head went back from {seen} to {head}")
        if head <= seen:
            time.sleep(0.001)  # leave the writer a share of few cores
            continue
        if rows := formula.wrong_among(reader.rows(stream, seen, head), seen, reader.spec.offsets):
            wrong.append(f"rows {rows[:5]} of {head}")
        if rows := wrong_meta(reader, stream, max(seen - 1, 0)):
            wrong.append(f"meta rows {rows[:5]} of {head}")
        seen, checks = head, checks + 1
    if rows := formula.wrong_rows(reader, stream):
        wrong.append(f"rows {rows[:5]} of {seen} in the end")
    json.dump({"checks": checks, "rows": seen, "wrong": wrong}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
