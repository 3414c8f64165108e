"""The real `slipway` command in subprocesses, as a user runs it: successes with JSON, refusals with their line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SLIPWAY = Path(sys.executable).with_name("slipway")
TIMEOUT_SECONDS = 240.0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment with `extra` over it: no colours, lines of one width, and no network."""
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1", **(extra or {})}


def run(
    *arguments: object, cwd: Path, extra: Mapping[str, str] | None = None, timeout: float = TIMEOUT_SECONDS
) -> subprocess.CompletedProcess[str]:
    """`slipway ARGUMENTS` in folder `cwd`, to its end."""
    return subprocess.run(
        [str(SLIPWAY), *map(str, arguments)],
        cwd=cwd, env=environment(extra), capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def succeed(*arguments: object, cwd: Path, extra: Mapping[str, str] | None = None) -> str:
    """Run to success; what it wrote on stdout."""
    done = run(*arguments, cwd=cwd, extra=extra)
    assert done.returncode == 0, f"slipway {' '.join(map(str, arguments))}: {done.returncode}\n{done.stderr}"
    return done.stdout


def outcome(*arguments: object, cwd: Path, extra: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run with --json to success; the one object that it printed."""
    return one_object(succeed(*arguments, "--json", cwd=cwd, extra=extra))


def one_object(output: str) -> dict[str, Any]:
    """`output` as one JSON object on one line, strict about NaN."""
    assert output.count("\n") == 1, f"expected one line of JSON, got: {output}"
    record = json.loads(output, parse_constant=lambda constant: pytest_fail(f"{constant} is no JSON"))
    assert isinstance(record, dict)
    return record


def pytest_fail(message: str) -> None:
    """Raise from inside a parser."""
    raise AssertionError(message)


def refusal(*arguments: object, cwd: Path, extra: Mapping[str, str] | None = None) -> str:
    """Run to a refusal: exit code 2, one line on stderr, nothing on stdout, no file made or changed. The line."""
    before = listing(cwd)
    done = run(*arguments, cwd=cwd, extra=extra)
    command = f"slipway {' '.join(map(str, arguments))}"
    assert done.returncode == 2, f"{command}: exit code {done.returncode}\n{done.stderr}"
    lines = done.stderr.splitlines()
    assert len(lines) == 1, f"{command}: {len(lines)} lines on stderr:\n{done.stderr}"
    assert done.stdout == ""
    assert lines[0].startswith("slipway")
    changed = {name for name, state in before.items() ^ listing(cwd).items()}
    assert not changed, f"{command} was refused but made or changed {sorted(changed)}"
    return lines[0]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below `folder`, hidden ones too, and the folders themselves."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)
        for path in folder.rglob("*")
    }
