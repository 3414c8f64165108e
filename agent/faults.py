"""How many faults of an environment are borne before a run ends."""

from __future__ import annotations

from agent.errors import RunError
from envs.errors import EnvFault

FAULTS_WITHOUT_PROGRESS = 5


class FaultBudget:
    """Tells an environment that faults now and then from one that never gets anywhere."""

    def __init__(self) -> None:
        self._faults, self._steps = 0, -1

    def spend(self, fault: EnvFault, steps: int) -> None:
        """Note a fault after `steps` steps (or episodes); RunError after too many without progress."""
        self._faults = self._faults + 1 if steps == self._steps else 1
        self._steps = steps
        if self._faults > FAULTS_WITHOUT_PROGRESS:
            raise RunError(
                f"{fault} ({self._faults} faults without progress between them): mend the environment; "
                "the same command then resumes"
            )
