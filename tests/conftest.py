"""Fixtures shared by all tests: where the real datasets are and how their absence is treated."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of one file run in one process; so do all of tests/integration, which share costly fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "tests/integration" if file.startswith("tests/integration/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    """What each of `make test`'s processes is given to do."""
    return FileScheduling(config, log)


@pytest.fixture(scope="session")
def slipway_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Extract one archive of $SLIPWAY_DATA, e.g. `dapg-door-human-v0`; returns the MINARI_DATASETS_PATH root.

    Without the datasets a test skips, unless SLIPWAY_REQUIRE_DATA=1 (continuous integration), where it fails.
    """
    root = tmp_path_factory.mktemp("minari")
    extracted: set[str] = set()

    def fetch(name: str) -> Path:
        folder = os.environ.get("SLIPWAY_DATA")
        archive = Path(folder) / f"{name}.tar.gz" if folder else None
        if archive is None or not archive.exists():
            reason = f"dataset {name}.tar.gz not found: set SLIPWAY_DATA to the folder that holds it"
            if os.environ.get("SLIPWAY_REQUIRE_DATA") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        if name not in extracted:
            with tarfile.open(archive) as tar:
                tar.extractall(root, filter="data")
            extracted.add(name)
        return root

    return fetch


@pytest.fixture(scope="session")
def drawn() -> None:
    """Skips where no backend can draw without a screen, with the backends' own words."""
    from agent.rendering import RenderingError, backend

    try:
        backend()
    except RenderingError as error:
        pytest.skip(str(error))
