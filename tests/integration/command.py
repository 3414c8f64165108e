"""The `slipway` command as a user runs it: in this process, or in one of its own where that is what matters."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from agent.cli import main

ROOT = Path(__file__).parents[2]
SLIPWAY = Path(sys.executable).with_name("slipway")
TIMEOUT_SECONDS = 240.0
QUIET = {"NO_COLOR": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment with `extra` over it: this checkout, no colours, lines of one width, and no network."""
    merged = {**os.environ, **QUIET, **(extra or {})}
    merged["PYTHONPATH"] = os.pathsep.join(filter(None, ((extra or {}).get("PYTHONPATH"), str(ROOT))))
    return merged


def run(
    *arguments: object, cwd: Path, extra: Mapping[str, str] | None = None, timeout: float = TIMEOUT_SECONDS
) -> subprocess.CompletedProcess[str]:
    """`slipway ARGUMENTS` in folder `cwd`, to its end, in a process of its own."""
    return subprocess.run(
        [str(SLIPWAY), *map(str, arguments)],
        cwd=cwd, env=environment(extra), capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def run_here(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`slipway ARGUMENTS` in folder `cwd`, in this process: no start of Python, no import, for each of many calls."""
    stdout, stderr = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    command = list(map(str, arguments))
    try:
        with (
            contextlib.chdir(cwd), mock.patch.dict(os.environ, QUIET), warnings.catch_warnings(),
            contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr),
        ):  # fmt: skip
            # As in a process of its own, not as pytest wants them.
            warnings.resetwarnings()
            warnings.simplefilter("ignore", DeprecationWarning)
            code = main(command)
    except SystemExit as ended:  # how --help ends
        code = int(ended.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(["slipway", *command], code, stdout.getvalue(), stderr.getvalue())


def run_somewhere(
    *arguments: object, cwd: Path, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`slipway ARGUMENTS` in this process, except where `extra` asks for another environment.

    The README, the tutorials and the demo, which are played in processes of their own, show that the verbs need no more
    than what they import themselves.
    """
    return run_here(*arguments, cwd=cwd) if extra is None else run(*arguments, cwd=cwd, extra=extra)


def succeed(*arguments: object, cwd: Path, extra: Mapping[str, str] | None = None) -> str:
    """Run to success; what it wrote on stdout."""
    done = run_somewhere(*arguments, cwd=cwd, extra=extra)
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
    done = run_somewhere(*arguments, cwd=cwd, extra=extra)
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
