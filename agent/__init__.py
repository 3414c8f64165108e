"""The agent: learning, the long-running runtime, and the `slipway` command. Alone above replay, envs and export.

Every verb is a call: `from agent import configure, train, evaluate`. Names load on first use, so that a device that
deploys a policy never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.calls import collect as collect
    from agent.calls import deploy as deploy
    from agent.calls import evaluate as evaluate
    from agent.calls import export as export
    from agent.calls import finetune as finetune
    from agent.calls import ingest as ingest
    from agent.calls import pretrain as pretrain
    from agent.calls import status as status
    from agent.calls import verify as verify
    from agent.calls import write_report as write_report
    from agent.config import TrainConfig as TrainConfig
    from agent.errors import SLIPWAY_ERRORS as SLIPWAY_ERRORS
    from agent.errors import AgentError as AgentError
    from agent.export_request import DevicePromises as DevicePromises
    from agent.resolving import configure as configure
    from agent.scores import Score as Score
    from agent.training import train as train

__version__ = "0.1.0"

# A name here must not be a module's of this package: importing that would put the module in the name's place.
_HOME = {
    "AgentError": "errors",
    "DevicePromises": "export_request",
    "SLIPWAY_ERRORS": "errors",
    "Score": "scores",
    "TrainConfig": "config",
    "collect": "calls",
    "configure": "resolving",
    "deploy": "calls",
    "evaluate": "calls",
    "export": "calls",
    "finetune": "calls",
    "ingest": "calls",
    "pretrain": "calls",
    "status": "calls",
    "train": "training",
    "verify": "calls",
    "write_report": "calls",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'agent' has no attribute {name!r}")
    return getattr(importlib.import_module(f"agent.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
