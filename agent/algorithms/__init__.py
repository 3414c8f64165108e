"""One file an algorithm, its hyper-parameters beside it. Importing this package does not import torch."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import TYPE_CHECKING, Any

from agent.algorithms.config import AlgorithmConfig
from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.algorithms.base import Algorithm

ALGORITHMS: dict[str, tuple[str, str]] = {
    "iql": ("iql_config.IQLConfig", "iql.IQL"),
    "bc": ("bc_config.BCConfig", "bc.BC"),
    "top_bc": ("bc_config.TopBCConfig", "bc.TopBC"),
    "td3_bc": ("td3_bc_config.TD3BCConfig", "td3_bc.TD3BC"),
    "awac": ("awac_config.AWACConfig", "awac.AWAC"),
    "awr": ("awr_config.AWRConfig", "awr.AWR"),
    "one_step": ("one_step_config.OneStepConfig", "one_step.OneStep"),
    "rebrac": ("rebrac_config.ReBRACConfig", "rebrac.ReBRAC"),
    "sac": ("sac_config.SACConfig", "sac.SAC"),
    "cql": ("cql_config.CQLConfig", "cql.CQL"),
    "cal_ql": ("cal_ql_config.CalQLConfig", "cal_ql.CalQL"),
    "wsrl": ("wsrl_config.WSRLConfig", "wsrl.WSRL"),
    "rlpd": ("rlpd_config.RLPDConfig", "rlpd.RLPD"),
}
"""By name: the configuration and the algorithm, each as module.Class of this package."""


def config_class(name: str) -> type[AlgorithmConfig]:
    """The configuration of algorithm `name`; ConfigError for an unknown one."""
    found: type[AlgorithmConfig] = _load(name, 0)
    return found


def owners(setting: str) -> list[str]:
    """Names of the algorithms that have a hyper-parameter of this name."""
    return [name for name in ALGORITHMS if setting in {f.name for f in dataclasses.fields(config_class(name))}]


def make(config: AlgorithmConfig, **arguments: Any) -> Algorithm[Any]:
    """The algorithm of `config`, with the arguments of `agent.algorithms.base.Algorithm`. Imports torch."""
    made: Algorithm[Any] = _load(config.name, 1)(config, **arguments)
    return made


def _load(name: str, which: int) -> Any:
    if name not in ALGORITHMS:
        close = difflib.get_close_matches(name, ALGORITHMS, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown algorithm.name {name!r}{meant} (algorithms: {', '.join(ALGORITHMS)})")
    module, _, member = ALGORITHMS[name][which].partition(".")
    return getattr(importlib.import_module(f"agent.algorithms.{module}"), member)
