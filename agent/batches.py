"""Where a run's batches come from: the data, and once online the data and the live streams in fixed shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.config import TrainConfig
from agent.feeding import Feed
from agent.run_directory import RunDirectory
from agent.seeds import SEED_OFFLINE, SEED_ONLINE, generator_of
from agent.transitions import Preparer
from replay.reader import StoreReader
from replay.sampler import MixedSampler, PooledSampler
from replay.store import Store


class Batches:
    """The offline sampler, and from `mix` on the mixed one that draws through it."""

    online_reader: StoreReader
    """Of the live streams, from `mix` on; `refresh` it to see what has been appended."""

    def __init__(self, run: RunDirectory, config: TrainConfig, store: Store, prepare: Preparer) -> None:
        self._run, self._config, self._prepare = run, config, prepare
        self.offline = store.sampler(
            config.algorithm.batch_size,
            rng=generator_of(config.seed, SEED_OFFLINE),
            returns_to_go=prepare.returns_to_go(),
            **config.algorithm.sampling(),
        )
        self._mixed: MixedSampler | None = None
        self._saved: Mapping[str, Any] | None = None
        """State of the mixed sampler that a checkpoint held."""

    def mix(self) -> MixedSampler:
        """Offline and online rows in fixed shares of every batch."""
        config = self._config
        size = config.algorithm.batch_size
        offline_rows = round(size * config.online.offline_fraction)
        online = Store.open(self._run.replay).sampler(
            max(1, size - offline_rows),
            rng=generator_of(config.seed, SEED_ONLINE),
            returns_to_go=self._prepare.returns_to_go(),
        )
        self.online_reader = online.reader
        offline = self.offline
        if config.online.intervention:
            offline = PooledSampler(self.offline, self.online_reader, "intervention")
        self._mixed = MixedSampler([(offline, offline_rows), (online, size - offline_rows)])
        if self._saved is not None:
            self._mixed.load_state_dict(self._saved)
        return self._mixed

    def state_dict(self, feed: Feed) -> dict[str, Any]:
        """The samplers' positions at the last batch that `feed` handed out."""
        drawn = feed.state_dict()
        if self._mixed is None:
            return {"offline_sampler": drawn, "mixed_sampler": self._saved}
        return {"offline_sampler": drawn["parts"][0], "mixed_sampler": drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on from `state_dict`; whether it was of the online phase."""
        self._saved = state["mixed_sampler"]
        if self._saved is None:
            self.offline.load_state_dict(state["offline_sampler"])
        return self._saved is not None
