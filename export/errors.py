"""Errors of the export package: one root, each message one line that says what, where and what to do."""

from __future__ import annotations


class ExportError(Exception):
    """Root of every error that exporting, verifying, loading or running a policy raises on purpose.

    Mend: `slipway verify BUNDLE` says what is wrong with a bundle.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ContractError(ExportError):
    """A policy contract is missing something, contradicts itself, or is not the one that was expected.

    Mend: `slipway export RUN --out BUNDLE` with the flag that is named, or another policy.
    """


class IntegrityError(ExportError):
    """A file is missing, truncated or altered: its bytes are not the ones its checksum was made from.

    Mend: copy the bundle again, or `slipway export RUN --out BUNDLE` anew.
    """


class ParityError(ExportError):
    """The exported policy does not compute what the reference (trained network, golden outputs) computes.

    Mend: report it: an export that differs from its network is never written.
    """
