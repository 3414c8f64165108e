"""The little of protobuf's wire format that reading and patching an ONNX file needs.

A device has numpy and onnxruntime but no `onnx` package, and onnxruntime cannot say where in the file a weight lies.
Reference: https://protobuf.dev/programming-guides/encoding and onnx.proto (field numbers below).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from export.errors import IntegrityError

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto.
MODEL_GRAPH = 7
MODEL_METADATA = 14
GRAPH_INITIALIZER = 5
ENTRY_KEY, ENTRY_VALUE = 1, 2
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_LOCATION = 1, 2, 8, 9, 14
TENSOR_FLOAT32 = 1


def fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, value or start of payload, end of payload, start of the field) of one message.

    For a varint the second entry is its value; for the other wire types it is the offset of the payload in `data`.
    Raises IntegrityError when the bytes are not a protobuf message.
    """
    at = start
    while at < end:
        begin = at
        key, at = _varint(data, at, end)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            value, at = _varint(data, at, end)
            yield number, value, at, begin
            continue
        if wire_type == LENGTH_DELIMITED:
            length, at = _varint(data, at, end)
        elif wire_type == FIXED32:
            length = 4
        elif wire_type == FIXED64:
            length = 8
        else:
            raise IntegrityError(f"not an ONNX model: wire type {wire_type} at byte {begin}; export the policy again")
        if at + length > end:
            raise IntegrityError(f"ONNX model ends in the middle of a field at byte {begin}; copy or export it again")
        yield number, at, at + length, begin
        at += length


def encode_entries(entries: Mapping[str, str]) -> bytes:
    """Encode `metadata_props` entries of a ModelProto, in the order given."""
    out = bytearray()
    for key, value in entries.items():
        entry = _text(ENTRY_KEY, key) + _text(ENTRY_VALUE, value)
        out += _encode_varint(MODEL_METADATA << 3 | LENGTH_DELIMITED) + _encode_varint(len(entry)) + entry
    return bytes(out)


def _text(number: int, text: str) -> bytes:
    payload = text.encode()
    return _encode_varint(number << 3 | LENGTH_DELIMITED) + _encode_varint(len(payload)) + payload


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IntegrityError(f"not an ONNX model: unreadable number at byte {at}; copy or export it again")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
