"""The learner benchmarks' peers: `python learner_peers.py KIND [--eager]` in an environment that has the peer.

Each learns IQL (d3rlpy also TD3+BC and CQL) with the published settings (2×256, batch 256, 17 observations, 6 actions)
from its own buffer of random transitions on one thread, and serves one update a call, sampling included, as fast as its
documentation says how.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from serving import serve  # this file runs as a script, in environments without Slipway

OBS, ACT, BATCH, ROWS = 17, 6, 256, 100_000
Calls = dict[str, Callable[[], object]]


def d3rlpy(compiling: bool, algorithm: str = "IQL") -> Calls:
    """Eager: d3rlpy compiles (`compile_graph`) on GPUs only."""
    import d3rlpy as library

    rng = np.random.default_rng(0)
    ends = np.zeros(ROWS, np.float32)
    ends[999::1000] = 1.0
    dataset = library.dataset.MDPDataset(
        rng.standard_normal((ROWS, OBS), dtype=np.float32), rng.uniform(-1, 1, (ROWS, ACT)).astype(np.float32),
        rng.standard_normal(ROWS, dtype=np.float32), ends,
    )  # fmt: skip
    # Its defaults are the published settings, networks of 2×256 included.
    learner = getattr(library.algos, f"{algorithm}Config")(batch_size=BATCH).create(device="cpu:0")
    learner.build_with_dataset(dataset)
    return {"eager": lambda: learner.update(dataset.sample_transition_batch(BATCH))}


def torchrl(compiling: bool) -> Calls:
    """As sota-implementations/iql/iql_offline.py, with and without its `compile` switch."""
    from tensordict import TensorDict
    from tensordict.nn import InteractionType, TensorDictModule
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import IQLLoss, SoftUpdate

    def network(inputs: int, outputs: int) -> MLP:
        return MLP(in_features=inputs, out_features=outputs, num_cells=[256, 256], activation_class=torch.nn.ReLU)

    body = torch.nn.Sequential(network(OBS, 2 * ACT), NormalParamExtractor(scale_lb=0.1))
    actor = ProbabilisticActor(
        module=TensorDictModule(body, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"], distribution_class=TanhNormal, default_interaction_type=InteractionType.RANDOM,
    )  # fmt: skip
    v = ValueOperator(network(OBS, 1), in_keys=["observation"], out_keys=["state_value"])

    class Joined(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            return self.inner(torch.cat([observation, action], -1))

    q = ValueOperator(Joined(network(OBS + ACT, 1)), in_keys=["observation", "action"])
    loss = IQLLoss(actor, q, value_network=v, num_qvalue_nets=2, loss_function="l2", temperature=3.0, expectile=0.7)
    loss.make_value_estimator(gamma=0.99)
    targets = SoftUpdate(loss, tau=0.005)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4, fused=True)

    generator = torch.Generator().manual_seed(0)

    def normal(width: int) -> torch.Tensor:
        return torch.randn(ROWS, width, generator=generator)

    done = torch.zeros(ROWS, 1, dtype=torch.bool)
    following = TensorDict(
        {"observation": normal(OBS), "reward": normal(1), "done": done, "terminated": done}, batch_size=[ROWS]
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(ROWS), batch_size=BATCH)
    buffer.extend(
        TensorDict(
            {"observation": normal(OBS), "action": normal(ACT).tanh() * 0.99, "next": following}, batch_size=[ROWS]
        )
    )

    def update(data: TensorDict) -> None:
        found = loss(data)
        (found["loss_actor"] + found["loss_qvalue"] + found["loss_value"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        targets.step()

    calls: Calls = {"eager": lambda: update(buffer.sample())}
    if not compiling:
        return calls
    compiled = torch.compile(update)
    try:
        for _ in range(3):
            compiled(buffer.sample())
        calls["compiled"] = lambda: compiled(buffer.sample())
    except Exception as error:  # noqa: BLE001 - whatever keeps it from compiling here
        print(f"torchrl does not compile here: {str(error).splitlines()[0]}", file=sys.stderr)
    return calls


def main() -> None:
    """Serve the peer that the first argument names, e.g. torchrl, d3rlpy or d3rlpy:CQL."""
    torch.set_num_threads(1)
    kind, _, algorithm = sys.argv[1].partition(":")
    compiling = "--eager" not in sys.argv
    calls = d3rlpy(compiling, algorithm or "IQL") if kind == "d3rlpy" else torchrl(compiling)
    serve(calls, calls=sorted(calls))


if __name__ == "__main__":
    main()
