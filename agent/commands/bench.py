"""Run one of the benchmarks of Slipway's source tree, beside named peers, in this Python.

What follows the name goes to the benchmark: --quick, --json FILE. Needs a checkout: run it in the repository's root.

Example:
  slipway bench deploy --quick --json deploy.json
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from agent.errors import ConfigError
from envs.own_modules import find_in_working_directory

MODULES = {"deploy": "deploy_latency", "replay": "replay_speed", "learner": "learner_speed", "online": "online_speed"}
"""Short names; any other name is a module of `benchmarks`."""


@dataclass(frozen=True, kw_only=True)
class Args:
    name: str
    """Short name or module of the benchmark."""
    rest: tuple[str, ...]
    """What it is called with."""


def parse(arguments: list[str]) -> Args:
    """The name and, untouched, what follows it."""
    if not arguments:
        raise ConfigError(f"which benchmark? {_known()}")
    if arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: slipway bench NAME [--quick] [--json FILE]\n\n{__doc__}\n{_known()}\n")
        sys.exit(0)
    return Args(name=arguments[0], rest=tuple(arguments[1:]))


def run(args: Args) -> int:
    """The benchmark's own exit code. Raises ConfigError where there is no such benchmark."""
    find_in_working_directory()
    name = MODULES.get(args.name, args.name)
    if importlib.util.find_spec("benchmarks") is None:
        raise ConfigError("the benchmarks are not installed: run this in the root of a checkout of slipway")
    if not name.isidentifier() or importlib.util.find_spec(f"benchmarks.{name}") is None:
        raise ConfigError(f"no benchmark {args.name!r}; {_known()}")
    return subprocess.run(_command(f"benchmarks.{name}", args.rest), check=False).returncode


def _command(module: str, rest: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *rest]


def _known() -> str:
    if importlib.util.find_spec("benchmarks") is None:
        return "none is importable here: run this in the root of a checkout of slipway"
    short = {module: name for name, module in MODULES.items()}
    names = [short.get(module, module) for module in importlib.import_module("benchmarks").listed()]
    return f"here are {', '.join(names)}"
