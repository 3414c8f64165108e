"""Which evaluations a run wants, their processes, and the report at the switch. Torch-free; used by the supervisor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from agent import best
from agent.board import Board, Phase, Slot
from agent.child import Child
from agent.config import TrainConfig
from agent.files import read_lines
from agent.guard import squared_error
from agent.incidents import Incidents, no_space
from agent.publish import published_versions
from agent.run_directory import RunDirectory, evaluation_name, last_evaluation
from envs.catalog import counts_as_scored
from replay.statistics import returns
from replay.store import Store

HANG_SECONDS = 300.0


class Evaluations:
    """Starts each evaluation when it is due, one at a time along the curve, and collects what came of it."""

    def __init__(
        self, run: RunDirectory, config: TrainConfig, board: Board, incidents: Incidents,
        make_child: Callable[[str, list[str]], Child],
    ) -> None:  # fmt: skip
        self._run, self._config, self._board, self._incidents = run, config, board, incidents
        self._make_child = make_child
        self.running: list[Child] = []
        self.switch: dict[str, Any] | None = next(
            (event["switch"] for event in reversed(read_lines(run.events, "switch_report"))), None
        )
        """The report at the switch, once the pretrained policy has its score."""
        self._evaluated = {(r["label"], r["online_steps"]) for r in run.evaluations()}
        if run.final_evaluation(config) is None:  # or over another number of episodes
            self._evaluated.discard(last_evaluation(config))
        self._crossed = board.online_steps()
        """Online steps up to which points of the curve have had their turn, those of earlier starts included."""

    def keep(self, *, final: bool) -> None:
        """Collect finished evaluations and start those that are due."""
        for child in list(self.running):
            self._collect(child)
        board, config = self._board, self._config.evaluation
        version = board[Slot.POLICY_VERSION]
        if version == 0 or board.phase < Phase.WARMUP:
            return
        steps, planned = board.online_steps(), self._config.online_steps
        # Its imports would keep the first steps waiting.
        stepping = final or not (planned and self._config.online.collectors) or steps > 0
        if ("pretrained", 0) not in self._evaluated and stepping:
            # The first version is the pretrained policy, also where this starts late or again after a stop.
            self._start("pretrained", 0, published_versions(self._run.policies)[0], config.final_episodes)
        if final and planned and ("finetuned", planned) not in self._evaluated:
            self._start("finetuned", planned, version, config.final_episodes)
        if config.every_steps and not final and board.phase == Phase.ONLINE:
            if self._config.guards_in_turns():
                # The learner stands still for it, so that its outcome comes at the same step in every repetition.
                due, wanted = board[Slot.SCORE_WANTED], board[Slot.SCORE_WANTED] != board[Slot.SCORE_ENDED]
            else:
                due = steps - steps % config.every_steps
                # A point whose turn has passed is left out: by now the policy is one of more steps.
                wanted = self._crossed < due < planned and ("curve", due) not in self._evaluated
                self._crossed = max(due, self._crossed)
            if wanted and not self.running:
                self._start("curve", due, version, config.episodes)

    def _start(self, label: str, step: int, version: int, episodes: int) -> None:
        name = evaluation_name(label, step)
        child = self._make_child(
            name, ["agent.evaluator", str(self._run.path), str(version), label, str(step), str(episodes)]
        )
        self._board[Slot.SCORED_VERSION] = version  # first: from now on the version's file stays
        try:
            child.start()
        except OSError:
            return  # a full disk has no room for its log: pretrained and finetuned stay due
        self._evaluated.add((label, step))
        self.running.append(child)

    def _collect(self, child: Child) -> None:
        assert child.process is not None
        code = child.process.poll()
        if code is None:
            if child.quiet_seconds() <= HANG_SECONDS:
                return
            self._incidents.event(
                "evaluation_hung", f"the evaluation finished no episode for {HANG_SECONDS:.0f} s; killed",
                process=child.name,
            )  # fmt: skip
            child.kill()
            code = child.process.returncode
        if code == 0 and not self._note_best(child):
            return  # a full disk: it stays to be collected
        self.running.remove(child)
        if child.name == evaluation_name("curve", self._board[Slot.SCORE_WANTED]):
            self._board[Slot.SCORE_ENDED] = self._board[Slot.SCORE_WANTED]
        if code != 0:
            self._incidents.event(
                "evaluation_failed", f"{child.name}: {child.last_words()}", process=child.name, exit_code=code
            )
            return
        if self.switch is None and self._config.online_steps:
            self._report_switch()

    def _note_best(self, child: Child) -> bool:
        """Keep the last checkpoint as the best where the last evaluation says so; False where the disk has no room."""
        if self._board.phase != Phase.DONE or child.name != evaluation_name("finetuned", self._config.online_steps):
            return True
        # The learner, which keeps the others, has left; its last checkpoint is of the version scored last.
        scored = [record for record in self._run.evaluations() if record["label"] == "finetuned"]
        try:
            best.note(self._run, scored[-1], (self._run.checkpoints / "LATEST").read_text())
        except OSError as error:
            if not no_space(error):
                raise
            return False
        return True

    def _report_switch(self) -> None:
        """Say what fine-tuning starts from, once the pretrained policy has been scored."""
        scored = [record for record in self._run.evaluations() if record["label"] == "pretrained"]
        if not scored:
            return
        store = Store.open(self._config.replay)
        dataset_mean = float(returns(store).mean())
        comparable = counts_as_scored(self._run.read_record(self._run.env)["id"], store.spec.env)
        self.switch = switch_report(scored[-1], dataset_mean, comparable=comparable)
        error, suggested = self.switch["standard_error"], self.switch["suggested"]
        told = f": recipe {suggested} suits" if suggested else ", its rewards counted otherwise: no recipe follows"
        message = (
            f"pretrained {self.switch['pretrained']:.4g}{'' if error is None else f' ± {error:.2g}'}, "
            f"data {dataset_mean:.4g}{told}"
        )
        self._incidents.event("switch_report", message, switch=self.switch)


def switch_report(score: dict[str, Any], dataset_mean: float, *, comparable: bool) -> dict[str, Any]:
    """J(π0) beside the data's mean return, and the recipe that suits: a rule of thumb, no measurement.

    A policy clearly better than its data has values worth following without them (`fast`); one clearly worse has values
    that should not be trusted beyond the data (`safe`); in between, `default`. None where the data counts its rewards
    otherwise than scoring does, so that the two means are not `comparable`.
    """
    error = math.sqrt(squared_error(score))
    lead = score["mean"] - dataset_mean
    suggested = "fast" if lead > 2.0 * error else "safe" if lead < -2.0 * error else "default"
    return {
        "pretrained": score["mean"],
        "standard_error": error if math.isfinite(error) else None,
        "dataset": dataset_mean,
        "suggested": suggested if comparable else None,
    }
