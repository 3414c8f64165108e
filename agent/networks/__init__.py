"""Networks: trunks, actors and critics, initialised from an explicit torch.Generator."""

from agent.networks.actors import Actor, DeterministicActor, GaussianActor, SquashedGaussianActor
from agent.networks.critics import EnsembleCritic, Subset
from agent.networks.scales import LearnedScale
from agent.networks.trunks import MLP

__all__ = [
    "MLP",
    "Actor",
    "DeterministicActor",
    "EnsembleCritic",
    "GaussianActor",
    "LearnedScale",
    "SquashedGaussianActor",
    "Subset",
]
