"""MLflow. MLFLOW_TRACKING_URI names the server; without it the run is kept in RUN/mlflow.db."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlflow import MlflowClient


class MlflowRun:
    """One run, through a client of its own: nothing of MLflow's global state is touched."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self.id = client, run_id

    def log(self, values: dict[str, float], step: int) -> None:
        """Scalars at `step` updates."""
        for name, value in values.items():
            self._client.log_metric(self.id, name, value, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._client.set_terminated(self.id)


def open_run(*, name: str, folder: Path, config: dict[str, Any], known: str | None) -> MlflowRun:
    """A new run called `name` of experiment slipway, or the one whose id is `known`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    if known:
        client.update_run(known, status="RUNNING")
        return MlflowRun(client, known)
    experiment = client.get_experiment_by_name("slipway")
    made = experiment.experiment_id if experiment else client.create_experiment("slipway")
    run = client.create_run(made, run_name=name)
    for key, value in config.items():
        client.log_param(run.info.run_id, key, value)
    return MlflowRun(client, str(run.info.run_id))
