"""Graphs that torch's exporter gave before: the same computation need not be converted twice on one machine.

Converting takes some 4 s for the smallest network, nearly all of it loading the exporter and its table of operators,
and every learner does it before its first update. Kept is the graph without its weights, by a digest of all that the
conversion depends on: the operations that the network does with their arguments (`operations`), the names and shapes of
its weights, the versions of the libraries, and this package's own code. Another network has another digest; weights are
filled in anew each time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.utils._python_dispatch import TorchDispatchMode

GRAPHS = "graphs"
"Name for the folder of them in a cache."
CONVERTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
_DIGEST_BYTES = hashlib.sha256().digest_size


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each operation on tensors, its tensors by where they came from, all else by value."""

    def __init__(self, known: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[str] = []
        self._names = {id(tensor): name for name, tensor in known.items()}
        self._alive = list(known.values())  # an id stands for its tensor as long as that lives

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: what says so loads torch's compiler, a third of the time that is saved here."""
        return False

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record, then do it."""
        kwargs = kwargs or {}
        given = f"{operation}({self.words(args)}, {self.words(kwargs)})"
        result = operation(*args, **kwargs)
        for index, tensor in enumerate(_tensors(result)):
            self._alive.append(tensor)
            self._names.setdefault(id(tensor), f"{len(self.lines)}.{index}")
        self.lines.append(f"{self.words(result)} = {given}")
        return result

    def words(self, value: Any) -> str:
        """A tensor made elsewhere is a constant of the network's code: what it holds counts."""
        if isinstance(value, torch.Tensor):
            name = self._names.get(id(value))
            if name is None:
                held = value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
                name = f"constant {hashlib.sha256(held).hexdigest()}"
            return f"<{name} {value.dtype} {tuple(value.shape)} {value.stride()}>"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key}={self.words(entry)}' for key, entry in value.items())}}}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.words, value))}]"
        return repr(value)


def operations(network: torch.nn.Module, inputs: Mapping[str, int]) -> str:
    """What `network` does, an operation a line, given [B, size] float32 of each of `inputs`.

    For B of 2 and of 3, and for numbers of no meaning: what depends on the batch's size, or on the input other than by
    operations on tensors, is told apart from what does not.
    """
    known = dict(network.state_dict(keep_vars=True))
    generator = torch.Generator().manual_seed(0)
    lines = []
    for rows in (2, 3):
        examples = {name: torch.randn(rows, size, generator=generator) for name, size in inputs.items()}
        recorder = _Recorder(known | examples)
        with torch.no_grad(), recorder:
            result = network(*examples.values())
        lines += [*recorder.lines, f"return {recorder.words(result)}"]
    return "\n".join(lines)


def digest_of(network: torch.nn.Module, inputs: Mapping[str, int], outputs: Mapping[str, int], *, opset: int) -> str:
    """Of all that the exported graph depends on but the weights' values, in hexadecimal."""
    digest = hashlib.sha256()
    weights = {name: (str(weight.dtype), tuple(weight.shape)) for name, weight in network.state_dict().items()}
    for part in (
        operations(network, inputs), weights, dict(inputs), dict(outputs), opset,
        {name: version(name) for name in CONVERTERS},
    ):  # fmt: skip
        digest.update(repr(part).encode())
    for code in ("onnx_writer.py", "graph_cache.py"):
        digest.update(Path(__file__).with_name(code).read_bytes())
    return digest.hexdigest()


def recall(folder: Path, digest: str, weights: Mapping[str, torch.Tensor]) -> onnx.GraphProto | None:
    """The graph kept under `digest`, with `weights` in it; None where there is none, or its file is not whole."""
    try:
        kept = (folder / digest).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(kept[_DIGEST_BYTES:]).digest() != kept[:_DIGEST_BYTES]:
        return None
    graph = onnx.GraphProto()
    graph.ParseFromString(kept[_DIGEST_BYTES:])
    for tensor in graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name].detach().contiguous().numpy().tobytes()
    return graph


def keep(folder: Path, digest: str, graph: onnx.GraphProto, weights: Mapping[str, torch.Tensor]) -> None:
    """Keep `graph` without `weights`. A folder that cannot be written costs the next export its time, no more."""
    bare = onnx.GraphProto()
    bare.CopyFrom(graph)
    for tensor in bare.initializer:
        if tensor.name in weights:
            if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.HasField("raw_data"):
                return  # written in a way that `recall` does not write
            tensor.ClearField("raw_data")
    body = bare.SerializeToString(deterministic=True)
    temporary = folder / f".{digest}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(body).digest() + body)
        temporary.replace(folder / digest)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return []
