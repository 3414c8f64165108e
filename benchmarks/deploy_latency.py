"""A policy on a device: latency, CPU a step, rate, drift, start and memory, beside default onnxruntime, NumPy, torch.

    python -m benchmarks.deploy_latency [--quick] [--json FILE]          (or `slipway bench deploy`)

The policy is 17 -> 256 -> 256 -> 6 with normaliser and bounds, batch 1. Tight loops alternate in one process, what is
paced or started runs in processes of its own, in turn; each figure is the median of `--repeats`. The peers: onnxruntime
with its default session and `run`, the equations in NumPy, torch eager under inference_mode with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 - after the thread counts

if TYPE_CHECKING:
    from benchmarks.measure import Results

OBS, ACT, WIDTH = 17, 6, 256
F32 = np.float32
Act = Callable[[np.ndarray], Any]


def make_policy(folder: Path) -> Path:
    """Export the policy with every guard in its contract, and its weights for the peers."""
    import torch

    from export.contract import Contract
    from export.contract_parts import ActionSpec, Control, Normalizer, ObservationTerm
    from export.onnx_writer import export_policy
    from export.policy import write_policy

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(OBS, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, ACT),
    )  # fmt: skip
    term = ObservationTerm(name="x", offset=0, length=OBS, valid_min=(-1e3,) * OBS, valid_max=(1e3,) * OBS)
    contract = Contract(
        policy_id="benchmark",
        observation=(term,),
        normalizer=Normalizer(mean=(0.1,) * OBS, std=(1.5,) * OBS),
        action=ActionSpec(low=(-1.0,) * ACT, high=(1.0,) * ACT, rate_limit=(1e3,) * ACT),
        control=Control(hz=200.0, max_obs_age_ms=1e3, deadline_ms=1e3),
    )
    path = folder / "policy.onnx"
    write_policy(path, export_policy(network, log_std=None, contract=contract))
    arrays = {name.replace(".", "_"): value.numpy() for name, value in network.state_dict().items()}
    np.savez(folder / "weights.npz", **arrays)
    return path


# --- the contenders: observation [O] -> action [A] --------------------------------------------------------------------


def ours(folder: Path) -> Act:
    from export.runner import PolicyRunner

    return PolicyRunner(folder / "policy.onnx").act


def guarded(folder: Path) -> Act:
    from export.runner import PolicyRunner

    step = PolicyRunner(folder / "policy.onnx").step
    return lambda observation: step(observation, time.monotonic())


def ort_default(folder: Path) -> Act:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "policy.onnx", providers=["CPUExecutionProvider"])
    return lambda observation: session.run(None, {"observation": observation[None]})[0][0]


def plain_numpy(folder: Path) -> Act:
    weights = dict(np.load(folder / "weights.npz"))
    w1, w2, w3 = (np.ascontiguousarray(weights[f"{i}_weight"].T) for i in (0, 2, 4))
    b1, b2, b3 = (weights[f"{i}_bias"] for i in (0, 2, 4))
    mean, inv_std = np.full(OBS, 0.1, F32), np.full(OBS, 1 / 1.5, F32)
    low, high, scale, shift = -np.ones(ACT, F32), np.ones(ACT, F32), np.ones(ACT, F32), np.zeros(ACT, F32)

    def act(observation: np.ndarray) -> np.ndarray:
        x = np.clip((observation - mean) * inv_std, -10.0, 10.0)
        x = np.maximum(x @ w1 + b1, 0.0)
        x = np.maximum(x @ w2 + b2, 0.0)
        return np.clip(np.tanh(x @ w3 + b3) * scale + shift, low, high)

    return act


def torch_eager(folder: Path) -> Act:
    import torch

    torch.set_num_threads(1)
    network = torch.nn.Sequential(
        torch.nn.Linear(OBS, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, ACT),
    )  # fmt: skip
    weights = np.load(folder / "weights.npz")
    network.load_state_dict({name.replace("_", ".", 1): torch.from_numpy(weights[name]) for name in weights.files})
    mean, inv_std = torch.full((OBS,), 0.1), torch.full((OBS,), 1 / 1.5)

    @torch.inference_mode()
    def act(observation: np.ndarray) -> np.ndarray:
        x = ((torch.from_numpy(observation) - mean) * inv_std).clamp_(-10.0, 10.0)
        return network(x).tanh().clamp_(-1.0, 1.0).numpy()

    return act


CONTENDERS: dict[str, Callable[[Path], Act]] = {
    "infer": ours, "guarded": guarded, "ort_default": ort_default, "numpy": plain_numpy, "torch": torch_eager,
}  # fmt: skip


# --- measurements -----------------------------------------------------------------------------------------------------


def observations() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, OBS)).astype(F32)


def tight(folder: Path, *, repeats: int, calls: int) -> dict[str, float]:
    """Microseconds a call, median of `repeats` blocks of `calls` in turn; each block's own median call."""
    acts = {name: make(folder) for name, make in CONTENDERS.items()}
    rows = list(observations())
    expected = acts["infer"](rows[0])
    for name, act in acts.items():
        given = act(rows[0])[0] if name == "guarded" else act(rows[0])
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5, err_msg=name)
    blocks: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(repeats):
        for name, act in acts.items():
            for i in range(100):
                act(rows[i % 64])
            taken = np.empty(calls)
            for i in range(calls):
                row = rows[i % 64]
                began = time.perf_counter()
                act(row)
                taken[i] = time.perf_counter() - began
            blocks[name].append(float(np.median(taken)) * 1e6)
            time.sleep(0.05)  # a default session's threads spin on for a while: not on the next one's time
    return {name: float(np.median(values)) for name, values in blocks.items()}


class Bench:
    """A robot that costs nothing: a random row, and the times at which it was read."""

    def __init__(self) -> None:
        self.rows, self.times = list(observations()), list[float]()

    def read(self) -> Any:
        from export.control_loop import Reading

        now = time.monotonic()
        self.times.append(now)
        return Reading(observation=self.rows[len(self.times) % 64], t_mono=now)

    def write(self, action: np.ndarray) -> None:
        pass

    def safe_stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def paced(folder: Path, kind: str, hz: float, steps: int) -> dict[str, Any]:
    """CPU a step, rate held and drift (periods) of `kind`: our whole guarded loop, or a bare policy under our pacer."""
    from export.control_loop import ControlLoop
    from export.pacing import Pacer
    from export.runner import PolicyRunner

    robot = Bench()
    if kind == "infer":
        runner = PolicyRunner(folder / "policy.onnx")
        loop = ControlLoop(robot, runner, hz=hz, max_steps=steps)
        began = time.process_time()
        report = loop.run()
        cpu, rate, skipped = time.process_time() - began, report["rate_hz"], report["skipped_periods"]
        latency = report["latency_us"]
    else:
        act, pacer = CONTENDERS[kind](folder), Pacer(hz)
        began = time.process_time()
        for _ in range(steps):
            pacer.wait()
            act(robot.read().observation)
        cpu, rate, skipped, latency = time.process_time() - began, pacer.rate, pacer.skipped, {}
    # Against the schedule, at the last read: a deadline that was skipped is no drift, it is counted.
    drift = abs((robot.times[-1] - robot.times[0]) * hz - (steps - 1 + skipped))
    return {"cpu_us": cpu / steps * 1e6, "rate": rate, "skipped": skipped, "drift": drift, "latency_us": latency}


def start(folder: Path, kind: str) -> dict[str, float]:
    """CPU seconds of this process from its start to the first action, and resident MiB then."""
    action = CONTENDERS[kind](folder)(observations()[0])
    assert np.isfinite(action).all()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"cpu_s": time.process_time(), "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}


def in_process(*arguments: object) -> dict[str, Any]:
    """One measurement in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.deploy_latency", "--child", *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def median(records: list[dict[str, Any]], key: str) -> float:
    return float(np.median([record[key] for record in records]))


def measure(results: Results, folder: Path, *, quick: bool, repeats: int) -> None:
    """All rows, interleaved."""

    def add(name: str, value: float, unit: str, against: str, peer: float) -> None:
        results.compare(name, value, peer, unit, against)

    us = tight(folder, repeats=repeats, calls=1_000 if quick else 5_000)
    add("infer_vs_ort_default", us["infer"], "µs", "onnxruntime, default session", us["ort_default"])
    add("infer_vs_numpy", us["infer"], "µs", "plain NumPy", us["numpy"])
    add("infer_vs_torch_eager", us["infer"], "µs", "torch eager, one thread", us["torch"])
    add("guarded_step_vs_infer", us["guarded"], "µs", "bare inference", us["infer"])

    for hz in (200,) if quick else (50, 200, 500):
        steps = int(hz * (1.0 if quick else 3.0))
        runs: dict[str, list[dict[str, Any]]] = {"infer": [], "ort_default": []}
        for _ in range(repeats):
            for kind, records in runs.items():
                records.append(in_process("paced", folder, kind, hz, steps))
        cpu, peer = median(runs["infer"], "cpu_us"), median(runs["ort_default"], "cpu_us")
        suffix = "" if hz == 200 else f"_{hz}hz"
        add(f"paced_cpu_vs_ort_default{suffix}", cpu, "µs/step", "default session, same pacer", peer)
        add(f"rate_held_{hz}hz", median(runs["infer"], "rate"), "Hz", "the rate asked for", hz)
        for share in ("p50", "p99"):
            latency = float(np.median([record["latency_us"][share] for record in runs["infer"]]))
            results.rows.append({"name": f"paced_latency_{share}_{hz}hz", "value": latency, "unit": "µs"})
    steps = 1_000 if quick else 10_000
    long = in_process("paced", folder, "infer", 200, steps)
    add(f"drift_{steps}_steps_200hz", long["drift"], "periods", "one period", 1.0)

    starts: dict[str, list[dict[str, Any]]] = {"infer": [], "torch": []}
    for _ in range(repeats):
        for kind, records in starts.items():
            records.append(in_process("start", folder, kind))
    ours_, theirs = starts["infer"], starts["torch"]
    add("import_cpu_vs_torch", median(ours_, "cpu_s"), "s", "torch and the same actor", median(theirs, "cpu_s"))
    add("rss_vs_torch", median(ours_, "rss_mib"), "MiB", "torch and the same actor", median(theirs, "rss_mib"))


def main() -> None:
    """Measure, print a table, optionally write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer calls, 200 Hz alone: within a minute")
    parser.add_argument("--repeats", type=int, default=5, help="runs whose median counts")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, folder, kind, *numbers = args.child
        if what == "start":
            record = start(Path(folder), kind)
        else:
            record = paced(Path(folder), kind, float(numbers[0]), int(numbers[1]))
        print(json.dumps(record))
        return
    # Here, not above: what a measured process imports is on its time and in its memory.
    from benchmarks.measure import Results, machine

    with tempfile.TemporaryDirectory() as name:
        make_policy(Path(name))
        results = Results(machine(["onnxruntime", "torch"]))
        measure(results, Path(name), quick=args.quick, repeats=args.repeats)
    results.write(args.json)


if __name__ == "__main__":
    main()
