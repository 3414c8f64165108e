"""Code of the user's own, named as `module:factory` by a field or a flag. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.errors import ConfigError
from envs.errors import one_line
from envs.own_modules import find_in_working_directory
from export.errors import ExportError
from export.watchdog import load_attribute


def find_factory(spec: str, *, named_by: str) -> Callable[[], Any]:
    """What `spec` (`module:factory`) names; the current directory is on the import path.

    Raises:
        ConfigError: it cannot be imported or called; the line begins with `named_by`, the field or flag.
    """
    find_in_working_directory()
    try:
        factory = load_attribute(spec)
    except ExportError as error:
        raise ConfigError(f"{named_by}: {error}") from error
    except Exception as error:
        raise ConfigError(f"{named_by}: importing {spec!r} failed: {raised(error)}") from error
    if not callable(factory):
        raise ConfigError(f"{named_by}: {spec!r} is of type {type(factory).__name__}: name a function or class to call")
    made: Callable[[], Any] = factory
    return made


def build_own(spec: str, *, named_by: str) -> Any:
    """What the factory that `spec` names returns. ConfigError as from `find_factory`, and where it raises."""
    factory = find_factory(spec, named_by=named_by)
    try:
        return factory()
    except Exception as error:
        raise ConfigError(f"{named_by}: {spec!r}: its factory raised {raised(error)}") from error


def raised(error: Exception) -> str:
    """`OSError: the port is busy`, in one line."""
    return f"{type(error).__name__}: {one_line(error)}"
