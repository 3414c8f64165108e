"""The policy as an artifact: contract, ONNX graph, bundle, torch-free runner and control loop.

Names load on first use, so that a device that runs a policy never loads torch or onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.bundle import write_bundle as write_bundle
    from export.contract import Contract as Contract
    from export.control_loop import ControlLoop as ControlLoop
    from export.errors import ExportError as ExportError
    from export.onnx_writer import export_policy as export_policy
    from export.policy import read_policy as read_policy
    from export.policy import write_policy as write_policy
    from export.robot import Reading as Reading
    from export.runner import PolicyRunner as PolicyRunner
    from export.template import Template as Template

_HOME = {
    "Contract": "contract",
    "ControlLoop": "control_loop",
    "ExportError": "errors",
    "PolicyRunner": "runner",
    "Reading": "robot",
    "Template": "template",
    "export_policy": "onnx_writer",
    "read_policy": "policy",
    "write_bundle": "bundle",
    "write_policy": "policy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(import_module(f"export.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
