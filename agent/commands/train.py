"""The long-running agent: pretrain from a replay store, then fine-tune online while collectors run.

Learns by IQL, or as --algorithm.name says (`--algorithm.name bc --help` shows that one's flags).

The same command again resumes; Ctrl-C or SIGTERM finishes the current step, saves and leaves.

Example:
  slipway train --replay door.zarr --env AdroitHandDoor-v1 --pretrain-steps 100000 --out runs/door
  slipway train CONFIG.toml --seed 1 --out runs/door-1

CONFIG.toml stands first; flags win over it, it wins over recipe and preset, these over the defaults.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from agent.algorithms import ALGORITHMS, owners
from agent.algorithms.config import AlgorithmConfig
from agent.board import Board, Phase, Slot
from agent.config import TrainConfig
from agent.config_files import load_toml, to_toml
from agent.console import figure, progress, results, say, table, write, write_json
from agent.errors import ConfigError
from agent.files import Follower
from agent.kinds import what_is
from agent.resolving import resolve
from agent.run_directory import TURNING_POINTS, RunDirectory
from agent.training import train

TELL_SECONDS = 1.0
SCORE_COLUMNS = ["policy", "mean return", "95% interval", "score", "success"]


@dataclass(frozen=True, kw_only=True)
class Args:
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    json: bool = False
    """Print one JSON object at the end instead of a table."""
    print_config: bool = False
    """Print the resolved configuration as TOML and leave."""


def parse(arguments: list[str], *, prog: str = "slipway train", description: str | None = None) -> Args:
    """Defaults, then preset, recipe, CONFIG.toml, flags."""
    base = base_config(arguments)
    check_algorithm_flags(arguments, base.algorithm)
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(path_to_name)
    return tyro.cli(
        Args, args=strip_file(arguments), default=Args(config=base), registry=registry,
        prog=prog, description=f"{description or __doc__}\nAlgorithms: {', '.join(ALGORITHMS)}.",
    )  # fmt: skip


def path_to_name(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """tyro's rule for paths, except that --help calls a missing one none, which as a path is the current folder."""
    if kind.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1, metavar="PATH", instance_from_str=lambda words: Path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path) if path != Path() else "none"],
    )  # fmt: skip


def strip_file(arguments: list[str]) -> list[str]:
    """The arguments without a leading CONFIG.toml."""
    return arguments[1:] if arguments and not arguments[0].startswith("-") else arguments


def base_config(arguments: list[str]) -> TrainConfig:
    """The configuration under the flags: preset of the environment (or the one named), recipe, then CONFIG.toml."""
    file: dict[str, Any] = {}
    if strip_file(arguments) != arguments:
        file = load_toml(configuration_file(Path(arguments[0])))
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # A flag without its value is for the whole parser to refuse.
    for name in ("preset", "recipe", "env", "replay"):
        early.add_argument(f"--{name}", nargs="?", const="", default="")
    early.add_argument("--algorithm.name", dest="algorithm", nargs="?", const="", default="")
    known, _ = early.parse_known_args(arguments)
    return resolve(file, where=arguments[0] if file else "", flags=vars(known))


def check_algorithm_flags(arguments: list[str], chosen: AlgorithmConfig) -> None:
    """ConfigError for the flag of a hyper-parameter that only other algorithms have."""
    for flag in (argument.partition("=")[0] for argument in arguments if argument.startswith("--algorithm.")):
        name = flag.removeprefix("--algorithm.").replace("-", "_").removeprefix("no_")
        if (having := owners(name)) and chosen.name not in having:
            raise ConfigError(
                f"{flag} is no setting of {chosen.name}: leave it out, or choose --algorithm.name {' or '.join(having)}"
            )


def configuration_file(path: Path) -> Path:
    """`path`; ConfigError where it is one of our folders, with the flag or verb that takes it."""
    mends = {
        "is a replay store": f"name it with --replay {path}",
        "is a run directory": f"give {path / 'config.toml'}, or go on with `slipway finetune {path}`",
    }
    if path.is_dir():
        what = what_is(path)
        raise ConfigError(f"{path} {what}, not a CONFIG.toml: {mends.get(what, 'give a file, or flags alone')}")
    return path


def run(args: Args) -> int:
    """Train until done or stopped; both are success."""
    config = args.config
    if args.print_config:
        write(to_toml(config))
        return 0
    for name, value, what in (
        ("--replay", config.replay, "name the store to learn from, made by `slipway ingest`"),
        ("--out", config.out, "name the run directory to make or resume"),
    ):
        if value == Path():
            raise ConfigError(f"{name} is missing: {what}")
    return report(train_with_progress(config), as_json=args.json)


def train_with_progress(config: TrainConfig, on_tick: Callable[[Board], None] = lambda board: None) -> dict[str, Any]:
    """`train` with bars for both phases, and a line for each incident and evaluation."""
    teller = Teller(RunDirectory(config.out))
    with progress() as bars:
        offline = bars.add("pretrain", config.pretrain_steps)
        online = bars.add("fine-tune", config.online_steps) if config.online_steps else None

        def tick(board: Board) -> None:
            on_tick(board)
            teller.tell()
            phase = board.phase
            if phase <= Phase.PRETRAIN:
                offline(board[Slot.PRETRAIN_STEP], note="starting" if phase == Phase.STARTING else "")
                return
            offline(config.pretrain_steps)
            if online is not None:
                note = {Phase.WARMUP: "warm-up", Phase.DONE: "evaluating"}.get(phase, "")
                note = note or f"policy v{board[Slot.POLICY_VERSION]}"
                online(board.online_steps(), note=note)

        outcome = train(config, on_tick=tick)
        teller.tell(now=True)
        return outcome


class Teller:
    """Says what a run's files tell while it runs: incidents as warnings, evaluations, turning points for debugging."""

    def __init__(self, run: RunDirectory) -> None:
        self._events, self._metrics = Follower(run.events, from_end=True), Follower(run.metrics, from_end=True)
        self._told = 0.0

    def tell(self, *, now: bool = False) -> None:
        """Read on where the last call ended, at most once a second."""
        if not now and time.monotonic() - self._told < TELL_SECONDS:
            return
        self._told = time.monotonic()
        for event in self._events.new():
            say(f"{event['kind']}: {event['message']}", "debug" if event["kind"] in TURNING_POINTS else "warning")
        for line in self._metrics.new():
            if line["kind"] == "evaluation":
                say(f"evaluation: {evaluation_words(line)}")


def evaluation_words(line: dict[str, Any]) -> str:
    """`curve at 10,000 online steps: return 0.83 (0.71 to 0.95), success 83%`."""
    mean, interval, _, success = score_cells(line)
    words = f"{line['label']} at {line['online_steps']:,} online steps: return {mean}"
    words += f" (95% {interval})" if line["ci"] else ""
    return words + (f", success {success}" if success else "")


def report(outcome: dict[str, Any], *, as_json: bool) -> int:
    """Print how it went."""
    if as_json:
        write_json(outcome)
        return 0
    data = outcome["dataset"]
    named = "data" if data["comparable"] else "data (rewards counted otherwise: does not compare)"
    rows = [[named, figure(data["mean"]), "", "", ""]]
    rows += [[label, *score_cells(outcome[label])] for label in ("pretrained", "finetuned") if label in outcome]
    results.print(table(f"run {outcome['run']}", SCORE_COLUMNS, rows))
    if not outcome["finished"]:
        say("stopped: everything is saved; the same command goes on from here")
    return 0


def score_cells(score: dict[str, Any]) -> list[str]:
    """Mean, interval, normalised score and success rate as text."""
    return [
        figure(score["mean"]),
        " to ".join(map(figure, score["ci"] or ())) or "—",
        "" if score["normalized"] is None else f"{score['normalized']:.1f}",
        "" if score["success"] is None else f"{100 * score['success']:.0f}%",
    ]
