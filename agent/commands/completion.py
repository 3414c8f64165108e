"""Print a script that completes verbs, flags and their values in a shell.

Example:
  slipway completion bash > ~/.local/share/bash-completion/completions/slipway
  slipway completion zsh > ~/.zfunc/_slipway          # with fpath+=(~/.zfunc) before compinit
  slipway completion fish > ~/.config/fish/completions/slipway.fish
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from agent.completion import SHELLS, vocabulary


@dataclass(frozen=True, kw_only=True)
class Args:
    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """Shell to make it for."""


def run(args: Args) -> int:
    """Print the script."""
    sys.stdout.write(SHELLS[args.shell](list(vocabulary())))
    return 0
