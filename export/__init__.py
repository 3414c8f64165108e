"""The policy as an artifact: contract, ONNX graph, bundle, torch-free runner and control loop.

Names load on first use, so that a device that runs a policy never loads torch or onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(import_module(f"export.{_HOME[name]}"), name)
