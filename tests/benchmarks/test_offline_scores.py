"""The benchmark of offline methods: what its file may set, and the table and rows of what was trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from agent.cli import main as slipway
from agent.comparison.plan import read_settings
from benchmarks import offline_scores
from benchmarks.offline_scores import SET_ELSEWHERE
from tests.integration.command import ROOT


def test_a_file_s_evaluation_and_hyper_parameters_count_beside_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("log_every = 7\n[algorithm]\nhidden = [8]\n[evaluation]\nepisodes = 9\n")
    assert read_settings(file, SET_ELSEWHERE, steps=3, online_steps=0, episodes=5) == {
        "log_every": 7, "algorithm": {"hidden": [8]}, "evaluation": {"episodes": 9, "final_episodes": 5},
        "pretrain_steps": 3, "online_steps": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[algorithm]\nname = "bc"\n',
            "sets algorithm.name, which a comparison takes from elsewhere: use --algorithms",
        ),
        ("[evaluation]\nfinal_episodes = 3\n", "sets evaluation.final_episodes"),
        ("seed = 3\n", "use --seeds"),
    ],
)
def test_what_flags_say_is_refused_in_a_file_in_one_line(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    flags = ["--datasets", "none", "--config", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["offline_scores", *flags])
    with pytest.raises(SystemExit) as ended:
        offline_scores.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and words in line and "mine.toml" in line
    assert not (tmp_path / "out").exists()


def test_ours_are_reported_and_written_before_the_peer_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rows = tmp_path / "out" / "local-maze-v0.zarr", tmp_path / "rows.json"
    assert slipway(["collect", "--env", "PointMaze_UMaze-v3", "--policy", "expert", "--steps", "400",
                    "--max-episode-steps", "100", "--out", str(store)]) == 0  # fmt: skip
    capsys.readouterr()
    (tmp_path / "small.toml").write_text('executor = "eager"\n[algorithm]\nhidden = [16]\nbatch_size = 32\n')
    flags = ["--quick", "--datasets", "local-maze-v0", "--algorithms", "iql", "--d3rlpy", "--config", "small.toml"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "argv", ["offline_scores", *flags, "--out", "out", "--json", str(rows)])

    def no_peer(runs: list[object]) -> list[float]:
        raise RuntimeError("cannot install the peer")

    monkeypatch.setattr(offline_scores, "d3rlpy_scores", no_peer)
    with pytest.raises(RuntimeError, match="cannot install"):
        offline_scores.main()
    (ours,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| local-maze-v0 |")]
    (row,) = json.loads(rows.read_text())["rows"]
    assert f"| iql | {row['value']:.1f} |" in ours

    monkeypatch.setattr(offline_scores, "d3rlpy_scores", lambda runs: [None for _ in runs])
    offline_scores.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| local-maze-v0 |")]
    assert lines[0] == ours and "| d3rlpy iql | not finished |" in lines[1]
    first, second = json.loads(rows.read_text())["rows"]
    assert (first, second["value"]) == (row, None)
