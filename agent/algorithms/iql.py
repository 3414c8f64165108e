"""Implicit Q-Learning (Kostrikov, Nair, Levine 2021, arXiv:2110.06169), in the order of the authors' code.

One update on one batch (s, a, r, s', terminated), Q̂ the target critics:
  1. V:  L_V = E[|τ − 1(Q̂min − V < 0)|·(Q̂min − V)²]                              (equation 5)
  2. Q:  L_Q = Σ_i E[(r + γ(1 − terminated)·V(s') − Q_i)²], with the new V           (equation 6)
     π:  L_π = −E[min(exp(β·(Q̂min − V)), 100)·log π(a|s)], with the new V            (equation 7)
  3. Q̂ ← (1 − α)·Q̂ + α·Q
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from agent import losses
from agent.adam import FusedAdam
from agent.algorithms.iql_config import IQLConfig
from agent.errors import CheckpointError
from agent.executors.eager import Executor, eager
from agent.networks import MLP, EnsembleCritic, GaussianActor
from agent.networks.products import AFFINE
from agent.transitions import Transitions


class IQL:
    """Networks, optimisers and the update. Holds all of an IQL learner's state.

    `generator` initialises the networks and draws dropout masks; its state is part of `state_dict`. `precision` is that
    of the hidden layers' matrix products; everything else is float32. `executor` runs `step`.
    """

    name = "iql"

    def __init__(
        self,
        config: IQLConfig,
        *,
        observation_size: int,
        action_size: int,
        offline_steps: int,
        generator: torch.Generator,
        precision: Literal["float32", "bf16"] = "float32",
        device: torch.device | None = None,
    ) -> None:
        device = device or torch.device("cpu")
        self.config, self.precision = config, precision
        self.observation_size, self.action_size = observation_size, action_size
        self.offline_steps = offline_steps
        self.updates = 0
        self.generator = generator
        sizes = {"observation_size": observation_size, "action_size": action_size, "hidden": config.hidden}
        self.actor = GaussianActor(**sizes, generator=generator, dropout=config.dropout).to(device)  # type: ignore[arg-type]
        self.critic = self._make_critic(observation_size, action_size).to(device)
        self.target_critic = self._make_critic(observation_size, action_size).to(device).requires_grad_(False)
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.value = MLP(observation_size, config.hidden, 1, generator=generator).to(device)
        self.optimizers = {
            "value": FusedAdam(list(self.value.parameters())),
            "critic": FusedAdam(list(self.critic.parameters())),
            "actor": FusedAdam(list(self.actor.parameters())),
        }
        self._rate = torch.tensor(config.learning_rate, device=device)
        self._actor_rate = torch.tensor(config.learning_rate, device=device)
        self.affine = AFFINE[precision]
        self.executor: Executor = eager
        self.part: Literal["all", "values", "policy"] = "all"
        self._critic_params: list[Tensor] = list(self.critic.parameters())
        self._target_params: list[Tensor] = list(self.target_critic.parameters())
        self.actor.train()

    def _make_critic(self, observation_size: int, action_size: int) -> EnsembleCritic:
        return EnsembleCritic(
            observation_size,
            action_size,
            self.config.hidden,
            members=self.config.critics,
            generator=self.generator,
            layer_norm=self.config.critic_layer_norm,
        )

    def actor_learning_rate(self) -> float:
        """Cosine from the base rate to zero over the offline extraction; constant at the base rate once online.

        The schedule ends with the offline phase instead of leaving the actor frozen when online training starts.
        """
        if self.updates >= self.offline_steps:
            return self.config.learning_rate
        first = self._first_extraction()
        progress = max(0, self.updates - first) / (self.offline_steps - first)
        return self.config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))

    def _first_extraction(self) -> int:
        return self.offline_steps // 2 if self.config.extraction == "after" else 0

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step; returns detached tensors for the log.

        On all networks, or with `extraction` "after" while offline on the values first and then on the policy alone.
        """
        self.part = self._due()
        if self.part != "values":
            self.actor.trunk.draw_masks(len(batch.reward))
            self._actor_rate.fill_(self.actor_learning_rate())
        result = self.executor(self, batch)
        self.updates += 1
        return result

    def _due(self) -> Literal["all", "values", "policy"]:
        if self.config.extraction == "concurrent" or self.updates >= self.offline_steps:
            return "all"
        return "values" if self.updates < self._first_extraction() else "policy"

    def step(self, batch: Transitions) -> dict[str, Tensor]:
        """The update as tensor operations alone, in place on parameters, moments and targets.

        The one definition that all executors run: no Python number of the learner changes here, no random one is drawn.
        """
        with torch.no_grad():
            target_q_NB = self.target_critic(batch.observation, batch.action, self.affine)
            q_hat_B = target_q_NB.amin(dim=0)
        if self.part == "policy":
            with torch.no_grad():
                v_B = self.value(batch.observation, self.affine).squeeze(-1)
            judged = {"q": target_q_NB, "v": v_B, "advantage": q_hat_B - v_B}
        else:
            judged = self._learn_values(batch, q_hat_B)
        if self.part == "values":
            return judged
        return {**judged, **self._extract_policy(batch, judged["advantage"])}

    def _learn_values(self, batch: Transitions, q_hat_B: Tensor) -> dict[str, Tensor]:
        c = self.config
        v_B = self.value(batch.observation, self.affine).squeeze(-1)
        value_loss = losses.expectile_loss(q_hat_B - v_B, c.expectile)
        self.optimizers["value"].minimize(value_loss, self._rate)

        with torch.no_grad():
            both = self.value(torch.cat([batch.observation, batch.next_observation]), self.affine).squeeze(-1)
            new_v_B, next_v_B = both.chunk(2)
            target_B = losses.td_target(batch.reward, batch.discount, next_v_B)
        q_NB = self.critic(batch.observation, batch.action, self.affine)
        critic_loss = losses.td_loss(q_NB, target_B)
        self.optimizers["critic"].minimize(critic_loss, self._rate)
        with torch.no_grad():
            self._move_targets()
        return {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "q": q_NB.detach(),
            "v": new_v_B,
            "advantage": q_hat_B - new_v_B,
        }

    def _extract_policy(self, batch: Transitions, advantage_B: Tensor) -> dict[str, Tensor]:
        c = self.config
        weights_B = losses.advantage_weights(advantage_B, c.beta, c.weight_clip)
        mean_BA = torch.tanh(self.actor(batch.observation, self.affine))
        log_prob_B = losses.gaussian_log_prob(mean_BA, self.actor.clamped_log_std(), batch.action)
        actor_loss = losses.weighted_regression_loss(weights_B, log_prob_B)
        self.optimizers["actor"].minimize(actor_loss, self._actor_rate)
        return {"actor_loss": actor_loss.detach(), "weight": weights_B}

    def _move_targets(self) -> None:
        if torch.compiler.is_compiling():
            for target, parameter in zip(self._target_params, self._critic_params, strict=True):
                target.lerp_(parameter, self.config.target_rate)
        else:
            torch._foreach_lerp_(self._target_params, self._critic_params, self.config.target_rate)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on: tensors by name and plain numbers."""
        return {
            "tensors": {
                **{
                    f"{name}.{key}": tensor
                    for name, part in self._parts().items()
                    for key, tensor in part.state_dict().items()
                },
                "generator": self.generator.get_state(),
            },
            "numbers": {"updates": self.updates, "offline_steps": self.offline_steps},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore exactly; any missing, extra or misshapen entry raises CheckpointError before anything changes."""
        current: Mapping[str, Tensor] = self.state_dict()["tensors"]
        tensors: Mapping[str, Tensor] = state["tensors"]
        unmatched = sorted(set(tensors) ^ set(current))
        if unmatched:
            raise CheckpointError(
                f"checkpoint and configuration disagree about {unmatched[0]} ({len(unmatched)} entries): "
                "resume with the configuration that the run was started with"
            )
        for name, tensor in current.items():
            if tensors[name].shape != tensor.shape:
                raise CheckpointError(
                    f"checkpoint tensor {name} has shape {tuple(tensors[name].shape)}, this configuration makes "
                    f"{tuple(tensor.shape)}: resume with the configuration that the run was started with"
                )
        for name, part in self._parts().items():
            part.load_state_dict({key: tensors[f"{name}.{key}"] for key in part.state_dict()})
        self.generator.set_state(tensors["generator"])
        self.updates = int(state["numbers"]["updates"])
        self.offline_steps = int(state["numbers"]["offline_steps"])

    def _parts(self) -> dict[str, torch.nn.Module | FusedAdam]:
        """What has tensors, by the name that it has in checkpoints."""
        return {
            "actor": self.actor,
            "critic": self.critic,
            "target_critic": self.target_critic,
            "value": self.value,
            **{f"adam.{name}": optimizer for name, optimizer in self.optimizers.items()},
        }
