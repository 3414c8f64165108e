"""The `slipway` command. Verbs load what they need and nothing more: a device's never load torch."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence

from agent.process import THREAD_VARIABLES, stop_early

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("agent.commands.demo", "the whole loop on an embedded task, start to end"),
    "collect": ("agent.commands.collect", "make logged data with a scripted expert, at random or with a policy"),
    "ingest": ("agent.commands.ingest", "read logged data (Minari, D4RL, robomimic, LeRobot, CSV, ...) into a store"),
    "replay": ("agent.commands.replay", "look after a store: info, verify, repair, compact, evict, export-minari"),
    "train": ("agent.commands.train", "the long-running agent: pretrain, then fine-tune online; resumes"),
    "pretrain": ("agent.commands.pretrain", "the offline phase alone"),
    "finetune": ("agent.commands.finetune", "fine-tune a pretrained run online"),
    "eval": ("agent.commands.eval", "returns and scores of a run or a policy, with intervals"),
    "export": ("agent.commands.export", "a verified bundle of a run's policy"),
    "verify": ("agent.commands.verify", "check a bundle: checksums, contract, golden outputs"),
    "deploy": ("agent.commands.deploy", "run a bundle in a fixed-rate control loop"),
    "play": ("agent.commands.play", "look at episodes of a policy or a store: video, window, Rerun"),
    "compare": ("agent.commands.compare", "algorithms side by side on the same data, over seeds"),
    "report": ("agent.commands.report", "a self-contained HTML page about a run"),
    "status": ("agent.commands.status", "what a run is doing now"),
    "bench": ("agent.commands.bench", "benchmarks beside named peers, from a checkout"),
    "doctor": ("agent.commands.doctor", "what is wrong with this installation or machine, and its mend"),
    "completion": ("agent.commands.completion", "a script that completes verbs and flags in bash, zsh or fish"),
}

# What SIGTERM and Ctrl-C end with success, at any moment.
STOPPABLE = ("train", "pretrain", "finetune")

# What takes CONFIG.toml before its flags.
READING_A_FILE = ("train", "pretrain")

# Which extra brings a missing package, for the verb that needs it.
EXTRAS = {
    "gymnasium": "sim", "gymnasium_robotics": "sim", "mujoco": "sim", "imageio": "sim",
    "imageio_ffmpeg": "sim",
    "torch": "train", "minari": "train", "onnx": "train", "onnxscript": "train", "tensorboard": "train",
    "matplotlib": "train", "jinja2": "train", "h5py": "train", "pyarrow": "train", "safetensors": "train",
    "cryptography": "sign", "ray": "ray", "rerun": "rerun",
}  # fmt: skip


# The headings of tyro's messages.
TITLES = ("Unrecognized options", "Value error", "Required options", "Invalid choice", "Missing subcommand", "")


def usage() -> str:
    """The overview of all verbs."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in VERBS.items())
    return (
        "usage: slipway VERB [options]\n\n"
        "Launches a policy pretrained on logged robot data, safely, into live experience.\n\n"
        f"{verbs}\n\n"
        "Every verb also takes --log-level debug|info|warning|error (info): what it says beside its result.\n"
        "Start with `slipway demo`. `slipway VERB --help` explains a verb and gives an example.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0 for success, 2 for the user's input, 1 (with a traceback) for a crash."""
    before, arguments = verb_first(list(sys.argv[1:] if argv is None else argv))
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0 if arguments else 2
    verb, rest = arguments[0], [*arguments[1:], *before]
    if verb == "--version":
        from agent import __version__

        sys.stdout.write(f"slipway {__version__}\n")
        return 0
    if verb not in VERBS:
        from difflib import get_close_matches

        close = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `slipway {close[0]}`?" if close else "`slipway --help` lists the verbs"
        sys.stderr.write(f"slipway: unknown verb {verb!r}: {hint}\n")
        return 2
    for variable in THREAD_VARIABLES:
        # One process, one thread, set before numpy and torch load; a user's own choice stands.
        os.environ.setdefault(variable, "1")
    try:
        from agent.console import set_level, shows
        from agent.errors import SLIPWAY_ERRORS
    except ImportError:
        from agent.shadowing import hidden

        if not (found := hidden()):
            raise
        name, where = found[0]
        sys.stderr.write(
            f"slipway {verb}: another {name!r} ({where}) hides Slipway's own: remove it from the import path\n"
        )
        return 2

    try:
        level, rest = log_level(rest)
        set_level(level)
        command = importlib.import_module(VERBS[verb][0])
        return int(command.run(parse(command, verb, rest)))
    except SLIPWAY_ERRORS as error:
        if shows("debug"):
            traceback.print_exc()
        sys.stderr.write(f"slipway {verb}: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        sys.stderr.write(f"slipway {verb}: needs the package {error.name}: pip install 'slipway[{extra}]'\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"slipway {verb}: interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of our output left (`slipway ... | head`): nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def verb_first(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A `--log-level`, which may stand before the verb as well as after it, and the arguments from the verb on."""
    if arguments and arguments[0].partition("=")[0] == "--log-level":
        words = 1 if "=" in arguments[0] else 2
        return arguments[:words], arguments[words:]
    return [], arguments


def log_level(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The level that `--log-level` names, and the other arguments; ConfigError for one that is none."""
    from agent.console import LEVELS
    from agent.errors import ConfigError

    rest, level = list(arguments), "info"
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == "--log-level":
            level = value if equals else next(iter(rest[index + 1 :]), "")
            del rest[index : index + (1 if equals else 2)]
            break
    if level not in LEVELS:
        raise ConfigError(f"--log-level is {level!r}: give {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    return level, rest


def parse(command: object, verb: str, rest: Sequence[str]) -> object:
    """The verb's arguments from the command line; ConfigError, in one line, for a usage error."""
    from agent.errors import ConfigError

    custom = getattr(command, "parse", None)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if custom is not None:
                return custom(list(rest))
            import tyro

            return tyro.cli(command.Args, args=list(rest), prog=f"slipway {verb}", description=command.__doc__)  # type: ignore[attr-defined]
    except SystemExit as leaving:
        if leaving.code != 2:
            raise
        raise ConfigError(in_one_line(said.getvalue(), verb)) from None


def in_one_line(box: str, verb: str) -> str:
    """What tyro framed with lines and colours, as a sentence: what is wrong, the flags meant, where help is."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    rows = [row.strip(" │|") for row in plain.splitlines() if not re.match(r"[╭╰+]", row)]
    said: list[str] = []
    for section in re.split(r"[─-]{5,}", " ".join(rows)):
        words = " ".join(section.split())
        if words in TITLES or words.startswith("Argument helptext"):
            continue  # they repeat what is said beside them
        if words.startswith("Perhaps you meant"):
            near = list(dict.fromkeys(re.findall(r"(?<!\S)--[\w.-]+", words)))[:3]
            # The likeliest name of all is one that we gave to a part of it.
            near = ["--algorithm.name"] if "--algorithm," in "".join(said) else near
            words = f"did you mean {' or '.join(near)}?"
        elif words.startswith("Unrecognized options") and re.search(r"\b(true|false)\b", words, re.IGNORECASE):
            words += " (a switch takes no value: --NAME turns it on, --no-NAME off)"
        elif words.startswith("Unrecognized options") and verb in READING_A_FILE and ".toml" in words:
            words += f" (the file stands first: slipway {verb} CONFIG.toml --flags)"
        words = words.replace("Expected 1 values", "It takes one")
        words = re.sub(r"invalid literal for int\(\) with base 10: (\S+)", r"\1 is no whole number in digits", words)
        words = re.sub(
            r"Could not find valid parse for arguments", "not understood (spaces part several values)", words
        )
        said.append(words[:1].lower() + words[1:] if words.startswith(("Unrec", "For full", "Missing")) else words)
    return re.sub(r"[.;]*;", ";", "; ".join(said)).replace("?;", "?")


def entry() -> None:
    """Console-script entry point."""
    verb = next(iter(verb_first(sys.argv[1:])[1]), "")
    if verb in STOPPABLE:
        # Before anything heavy is imported, and to the last: a stop in the first second is as good as any.
        stop_early(f"slipway {verb}: stopped; nothing is lost: the same command begins or goes on from here\n")
    sys.exit(main())


if __name__ == "__main__":
    entry()
