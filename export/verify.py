"""Is this bundle whole, is it what its contract says, and does this processor compute what the network did?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from export.contract import FLOAT32
from export.golden import check_golden
from export.policy import SIGNATURE, read_policy
from export.runner import PolicyRunner


def verify(path: str | Path, *, verify_key: str | Path | None = None) -> dict[str, Any]:
    """Check a bundle or a bare .onnx: checksums, signature, contract against graph, golden outputs of every variant.

    With `verify_key`, an Ed25519 public key file, an unsigned or wrongly signed bundle is refused. Golden outputs run
    through the bound buffers. Returns a JSON-able report. Raises ExportError on the first thing that does not hold.
    """
    policy = read_policy(path, verify_key=verify_key)
    runner = PolicyRunner(policy)
    contract = policy.contract
    signed = (Path(path) / SIGNATURE).is_file()
    report: dict[str, Any] = {
        "path": str(path),
        "policy_id": contract.policy_id,
        "policy_version": contract.policy_version,
        "contract_sha256": contract.digest(),
        "observation_size": contract.observation_size,
        "action_size": contract.action_size,
        "stochastic": contract.stochastic.eps,
        **({} if contract.recurrent is None else {"state_size": contract.recurrent.size}),
        "onnxruntime": onnxruntime.__version__,
        "checksums": "ok",
        "signature": "none" if not signed else "ok" if verify_key is not None else "not checked: no --verify-key",
        "contract": "ok",
        "golden": None,
    }
    if policy.golden is not None and policy.manifest is not None:
        share = check_golden(runner, policy.golden, policy.source)
        report["golden"] = {"rows": len(policy.golden["observation"]), "share_of_tolerance": share}
        report["files"] = {name: entry["sha256"] for name, entry in policy.manifest["files"].items()}
        report["variants"] = {FLOAT32: report["golden"]}
        for variant in policy.manifest["variants"]:
            if variant != FLOAT32:
                reduced = read_policy(path, variant=variant, verify_key=verify_key)
                share = check_golden(PolicyRunner(reduced), reduced.golden or {}, reduced.source)
                report["variants"][variant] = {"rows": report["golden"]["rows"], "share_of_tolerance": share}
    return report
