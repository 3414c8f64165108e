"""`slipway replay`: the actions on a store, as a person and as a program calls them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.commands.replay import ACTIONS
from replay import Store
from tests.integration.command import outcome, refusal, succeed
from tests.replay import formula


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", formula.spec(), chunk_rows=formula.CHUNK_ROWS)
    with store.writer("a", durability="process") as writer:
        for head in formula.append_forever(writer):
            if head > 600:
                break
    return store


@pytest.mark.parametrize("action", ACTIONS)
def test_help_explains_an_action_by_an_example(action: str, tmp_path: Path) -> None:
    assert re.search(rf"^ +slipway replay {action} \S", succeed("replay", action, "--help", cwd=tmp_path), re.MULTILINE)


def test_evict_says_what_went_and_what_stayed(store: Store, tmp_path: Path) -> None:
    rows = store.num_rows
    said = outcome("replay", "evict", "s.zarr", "--keep-steps", 200, cwd=tmp_path)["streams"]["a"]
    assert said["evicted_rows"] + said["rows"] == rows
    assert store.num_rows == said["rows"] < rows
    with store.writer("a"):
        assert "already has a writer" in refusal("replay", "evict", "s.zarr", "--keep-steps", 1, cwd=tmp_path)
    assert "--keep-steps or --keep-bytes" in refusal("replay", "evict", "s.zarr", cwd=tmp_path)
