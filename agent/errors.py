"""What the command line reports in one line with exit code 2, and everything else that is a crash of ours."""

from __future__ import annotations

from envs.errors import EnvError
from export.errors import ExportError
from replay.errors import ReplayError


class AgentError(Exception):
    """The user's input cannot be used as it stands; the message says what, where and how to mend it.

    Mend: read the message; `slipway VERB --help` explains the verb.
    """


class ConfigError(AgentError):
    """A configuration value, file or preset that cannot be used.

    Mend: correct the flag or the key that is named; `slipway train --print-config` shows what is meant.
    """


class CheckpointError(AgentError):
    """A checkpoint that is missing, corrupt or belongs to another configuration.

    Mend: resume with the run's own command, or restore `RUN/checkpoints` from a backup.
    """


class DivergenceError(AgentError):
    """Training produced a non-finite or exploding value; the last good checkpoint stands.

    Mend: lower `--algorithm.learning-rate` or scale the rewards; the last good checkpoint stands.
    """


class RunError(AgentError):
    """A run directory that is in use, incomplete or was made by another configuration.

    Mend: `slipway status RUN` tells what a run is doing; choose another `--out` for another one.
    """


class RenderingError(AgentError):
    """Pictures of an environment cannot be made: nothing draws here, or the environment has none.

    Mend: `slipway doctor` tells which backends draw here.
    """


# The leaves never import each other, so each owns a root; together they are one tree for the command line.
SLIPWAY_ERRORS: tuple[type[Exception], ...] = (AgentError, ReplayError, EnvError, ExportError)
