"""Lockstep (`online.collectors` 0): the learner's process collects and learns in turns, alike at every repetition.

Each environment step is followed by the updates that the ratio then owes, and every `online.publish_updates` updates
the actor is published; no clock decides anything. Where the guard is on, both stand still at each
evaluation along the curve until it is there, and the guard judges it at that very step. So a run that was stopped or
killed ends bit for bit as one that was not, in its networks, its optimisers and its rows:

* A checkpoint holds, beside the learner's state, the weights that act and those that will, the generator of noise and
  resets, the steps so far and what the running episode began with. MuJoCo's whole state cannot be saved for every
  environment; the episode is begun again from its seed, its stored actions are executed again, what comes back is
  compared with the stored rows.
* Steps committed after the checkpoint are taken again, with the updates between them, and compared instead of appended.

Where something is not repeated (an environment that keeps a state of its own across resets, other libraries), the event
`lockstep_differs` says so; all rows stay, a new episode begins at the stream's end and the limiter forgives what was
lost: consistent then, as with collectors, but not exact. Versions of policies go on growing, as they always do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from agent.board import CollectorSlot, Phase, Slot
from agent.collection import Collection, Lane, PolicyFault
from agent.collector import COLLECTOR_BRANCH, intervention_of, stream_name
from agent.errors import RunError
from agent.faults import FaultBudget
from agent.feeding import Feed
from agent.full_disk import DiskPatience
from agent.incidents import Incidents
from agent.latest_policy import LatestPolicy
from agent.repeating import Differs, LocalEnv, RepeatingWriter
from envs.errors import EnvError, EnvFault
from envs.make import make_env
from envs.wrappers import FlatEnv
from replay.sampling.state import generator_state, load_generator
from replay.store import Store

if TYPE_CHECKING:
    from agent.learner import Learner

ACTING = "lockstep.acting."
"""Before the names of the acting weights in a checkpoint's tensors."""
WAITING = "lockstep.waiting."
"""Before those of newer ones that have been published and wait for the next step or episode."""
WAIT_SECONDS = 0.01

SavedWeights = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
"""That acted when the checkpoint was taken, and that waited for the next step or episode; empty where none did."""


class Lockstep:
    """The online phase in one process. A context manager: it holds the stream's writer and the environment.

    Ordering: a round (one step) or an update, then publication, then the checkpoint; between any two of them the state
    is one that can be resumed.
    """

    def __init__(self, learner: Learner, saved: Mapping[str, Any] | None, weights: SavedWeights) -> None:
        """`saved`: what `state_dict` was at the checkpoint, None where it was taken before the online phase."""
        self._learner, self._saved = learner, saved
        config, run = learner.config, learner.run
        assert learner.publication is not None
        self._publication = learner.publication
        self._acting, self._waiting = weights
        if self._acting:
            self._publication.publish(self._acting)
        self._acting = self._published = self._acting or self._publication.weights()
        store = Store.open(run.replay)
        refuse_several(store)
        self._stack = ExitStack()
        writer = self._stack.enter_context(store.writer(stream_name(0, 0), durability=config.online.durability))
        self._writer = RepeatingWriter(writer, store.reader())
        # Streams that no collector of this run wrote are sampled as they stand.
        self._others = {name: head for name, head in store.reader().heads.items() if name != writer.name}
        self._env = LocalEnv(self._build, store.spec)
        self._stack.callback(self._env.close)
        self._budget = FaultBudget()
        self._rng = np.random.default_rng(np.random.SeedSequence([config.seed, COLLECTOR_BRANCH]))
        self._scored = 0
        self._slots = learner.board.collector(0)
        intervention = intervention_of(config, store.spec.action_size)
        self._lane = Lane(env=self._env, writer=self._writer, row=0, intervention=intervention)
        self._collection = Collection(
            [self._lane],
            LatestPolicy(
                run.policies, learner.board, noise=config.online.exploration_noise, rng=self._rng,
                by_episode=config.online.swap == "episode",
            ),
            on_fault=self._note, slots=self._slots, rng=self._rng,
            patiently=DiskPatience(Incidents(run), self._slots, self._stopping),
        )  # fmt: skip

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def heads(self) -> dict[str, int]:
        """Rows that may be sampled, by stream: none that a repetition has yet to reach."""
        return {**self._others, self._writer.name: self._writer.head}

    def train(self, feed: Feed) -> bool:
        """Collect and learn in turns until the run has its steps and updates; False if asked to stop before."""
        self._resume()
        if self._waiting:
            self._publish(self._waiting)
        self._show_phase()
        if self._learner.config.guards_in_turns():
            self._learner.oversight.begin(
                online_updates=self._learner.ratio.online_updates(),
                online_steps=self._writer.steps,
                scored=self._scored,
            )
        while (due := self._update_due()) or self._writer.steps < self._learner.config.online_steps:
            if self._learner.stopping():
                return False
            if self._score_due():
                if not self._score():
                    return False
            elif due:
                self._update(feed)
            else:
                self._step()
        return True

    def _score_due(self) -> bool:
        config, steps = self._learner.config, self._writer.steps
        if not config.guards_in_turns() or steps % config.evaluation.every_steps:
            return False
        return max(config.online.warmup_steps, self._scored + 1) <= steps < config.online_steps

    def _score(self) -> bool:
        """Have the newest policy scored, and the guard judge it; False if asked to stop before."""
        learner, steps = self._learner, self._writer.steps
        if self._score_of("curve", steps) is None:
            learner.oversight.expect(self._publication.version, learner.save)
            learner.board[Slot.SCORE_WANTED] = steps
            while learner.board[Slot.SCORE_ENDED] != steps:
                if learner.stopping():
                    return False
                time.sleep(WAIT_SECONDS)
                learner.waiting(WAIT_SECONDS)
        for record in (self._score_of("pretrained", 0), self._score_of("curve", steps)):
            if record is not None:  # else it failed, as an event says
                learner.oversight.judge(
                    record, online_steps=steps, publish=lambda: self._publish(self._publication.weights())
                )
        learner.oversight.hold(steps)
        self._scored = steps
        return True

    def _score_of(self, label: str, online_steps: int) -> dict[str, Any] | None:
        """The evaluation as it was recorded, perhaps in an earlier life: what is repeated has the same score."""
        records = (
            r for r in self._learner.run.evaluations() if (r["label"], r["online_steps"]) == (label, online_steps)
        )
        return next(records, None)

    def _update_due(self) -> bool:
        learner, steps, updates = self._learner, self._writer.steps, self._learner.ratio.online_updates()
        if updates >= learner.ratio.last_update():
            return False
        return learner.ratio.limiter.deficit(steps, updates) >= 1.0 or steps >= learner.config.online_steps

    def _update(self, feed: Feed) -> None:
        learner = self._learner
        learner.batches.online_reader.refresh(self.heads)
        result = learner.algorithm.update(feed.next())
        if learner.ratio.online_updates() % learner.config.online.publish_updates == 0:
            self._publish(self._publication.weights())
        learner.after_online_update(result)

    def _step(self) -> None:
        self._learner.board.beat()
        self._slots[CollectorSlot.BEAT] = time.monotonic_ns()
        try:
            self._collection.round(1)
        except Differs as difference:
            self._give_up(str(difference))
        if self._lane.acting and self._lane.acting.version == self._publication.version:
            self._acting = self._published
        if self._learner.config.guards_in_turns():
            self._learner.oversight.hold(self._writer.steps)
        self._show_phase()

    def _stopping(self) -> bool:
        """Asked while a write waits for space."""
        self._learner.board.beat()
        return self._learner.stopping()

    def _publish(self, weights: Mapping[str, np.ndarray]) -> None:
        before = self._publication.version
        self._publication.publish(weights)
        while self._learner.board[Slot.DISK_FULL] and not self._learner.stopping():
            # Going on with the policy before would not be what a repetition does.
            time.sleep(WAIT_SECONDS)
            self._learner.waiting(WAIT_SECONDS)
            self._publication.publish(weights)
        if self._publication.version > before:  # not refused
            self._published = weights

    def _show_phase(self) -> None:
        warming_up = self._writer.steps < self._learner.config.online.warmup_steps
        self._learner.board[Slot.PHASE] = Phase.WARMUP if warming_up else Phase.ONLINE

    def _build(self) -> FlatEnv:
        spec = json.loads(self._learner.run.env.read_text())
        return make_env(spec["id"], kwargs=spec["kwargs"], max_episode_steps=spec["max_episode_steps"])

    def _note(self, fault: EnvFault) -> None:
        kind = "policy_fault" if isinstance(fault, PolicyFault) else "env_fault"
        self._learner.run.event(kind, str(fault), collector=0)
        self._budget.spend(fault, self._writer.steps)

    # --- state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the collecting side stands, JSON-able."""
        writer = self._writer
        return {
            "head": writer.head,
            "steps": writer.steps,
            "episode": {"seed": self._env.seed, "first_row": writer.first_row} if writer.in_episode else None,
            "scored": self._scored,
            "generator": generator_state(self._rng),
            "heads": self._others,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The weights that act and those that wait, as entries of a checkpoint."""
        acting = self._acting if self._writer.in_episode else self._published
        waiting = {} if acting is self._published else self._published
        return {
            **{f"{ACTING}{name}": torch.from_numpy(weight) for name, weight in acting.items()},
            **{f"{WAITING}{name}": torch.from_numpy(weight) for name, weight in waiting.items()},
        }

    def _resume(self) -> None:
        """Stand where the checkpoint was taken, or at the beginning; or at the stream's end if that cannot be."""
        learner, saved = self._learner, self._saved
        if saved is None and learner.ratio.online_updates():
            return self._give_up("the checkpoint was taken with collectors")
        if saved is not None:
            load_generator(self._rng, saved["generator"])
            self._scored = int(saved["scored"])
            episode = saved["episode"]
            try:
                self._writer.resume(
                    head=saved["head"], steps=saved["steps"], first_row=episode and episode["first_row"]
                )
                if episode:
                    self._begin_again(int(episode["seed"]))
            except (EnvFault, EnvError, Differs) as difference:
                return self._give_up(str(difference))
        self._collection.count()
        return None

    def _begin_again(self, seed: int) -> None:
        """Bring the environment to where the checkpoint's episode stood. Differs, EnvFault: it does not get there."""
        writer, env, spec = self._writer, self._env, self._writer.spec
        rows = writer.rows(writer.first_row, writer.head)
        o, flag = spec.observation_size, spec.offsets["intervention"]
        intervention = self._lane.intervention
        env.launch()
        env.answer()
        env.ask_reset(seed)
        env.answer()
        if intervention is not None:
            intervention.reset()
        for number, row in enumerate(rows):
            action = row[o : o + spec.action_size]
            # A script that intervenes may count its steps: it comes along.
            intervened = intervention is not None and intervention(env.observation, action) is not None
            if not np.array_equal(env.observation, row[:o]) or intervened != bool(row[flag]):
                raise Differs(f"row {writer.first_row + number} of stream {writer.name} was not repeated")
            env.ask_step(action)
            env.answer()
            self._learner.board.beat()
        self._collection.stand(self._lane, env.observation)

    def _give_up(self, why: str) -> None:
        """Go on from the stream's end, consistent but not exact."""
        learner = self._learner
        self._writer.give_up()
        self._lane.built = self._lane.in_episode = False
        # The noise and resets that have been stored must not be stored again.
        self._rng.bit_generator.state = np.random.default_rng(
            np.random.SeedSequence([learner.config.seed, COLLECTOR_BRANCH, self._writer.steps])
        ).bit_generator.state
        learner.run.event("lockstep_differs", f"{why}: goes on from the stream's end, not bit-exactly")
        learner.ratio.resume(self._writer.steps)
        self._collection.count()


def refuse_several(store: Store) -> None:
    """RunError where several environments have taken the run's steps: lockstep counts and repeats those of one."""
    heads = store.reader().heads
    others = sorted(name for name in heads if heads[name] and name.startswith("collector-"))
    if others not in ([], [stream_name(0, 0)]):
        raise RunError(
            f"{store.path} holds online steps of several environments ({', '.join(others)}): lockstep "
            "(--online.collectors 0) drives one; go on with as many collectors as before, or begin a new run"
        )


def split_acting(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], SavedWeights]:
    """A checkpoint's tensors: the algorithm's own; the acting and the waiting weights by their names in the graph."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith((ACTING, WAITING))}
    acting, waiting = (
        {name.removeprefix(prefix): tensor.numpy() for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in (ACTING, WAITING)
    )
    return own, (acting, waiting)
