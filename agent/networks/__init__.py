"""Networks: trunks, actors, critics and novelty, initialised from an explicit torch.Generator."""

from agent.networks.actors import Actor, DeterministicActor, GaussianActor, SquashedGaussianActor
from agent.networks.candidates import CandidatePolicy
from agent.networks.critics import EnsembleCritic, Members, Subset
from agent.networks.novelty import RND, ActionVAE, Novelty
from agent.networks.quantiles import QuantileCritic
from agent.networks.scales import LearnedScale
from agent.networks.trunks import MLP

__all__ = [
    "MLP",
    "RND",
    "ActionVAE",
    "Actor",
    "CandidatePolicy",
    "DeterministicActor",
    "EnsembleCritic",
    "GaussianActor",
    "LearnedScale",
    "Members",
    "Novelty",
    "QuantileCritic",
    "SquashedGaussianActor",
    "Subset",
]
