"""A robot whose hardware outlives its process: files in $HARDWARE. `--robot tests.export.hardware:make_robot`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from export.control_loop import Reading

OBS = 17


def folder() -> Path:
    return Path(os.environ["HARDWARE"])


def mark(name: str, line: str) -> None:
    with (folder() / name).open("a") as file:
        file.write(f"{line} {time.monotonic()}\n")


class Hardware:
    contract = {"observation": [{"name": "qpos", "length": 8}, {"name": "qvel", "length": 9}]}  # noqa: RUF012

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def read(self) -> Reading:
        observation = self._rng.normal(size=OBS).astype(np.float32)
        return Reading(observation=observation, t_mono=time.monotonic())

    def write(self, action: np.ndarray) -> None:
        mark("writes", "write")

    def safe_stop(self) -> None:
        mark("stops", "loop")

    def close(self) -> None:
        pass


class Unbuildable(Hardware):
    def __init__(self) -> None:
        if "export.watchdog" in __import__("sys").argv[0].replace("/", "."):
            raise OSError("port is in use")
        super().__init__()


class Silent(Hardware):
    """Does not say what it delivers."""

    contract = None  # type: ignore[assignment]


class Jammed(Hardware):
    def safe_stop(self) -> None:
        raise RuntimeError("brake jammed")

    def close(self) -> None:
        mark("closed", "robot")
        raise OSError("port is gone")


class Chatty(Hardware):
    def __init__(self) -> None:
        print("hardware: built")
        super().__init__()


class Permuted(Hardware):
    contract = {"observation": [{"name": "qvel"}, {"name": "qpos"}]}  # noqa: RUF012


def make_robot() -> Hardware:
    return Hardware()


def make_permuted() -> Permuted:
    return Permuted()


def make_named(name: str) -> Hardware:
    return Hardware()


def make_unplugged() -> Hardware:
    raise RuntimeError("port /dev/ttyUSB0\nis missing")


def watchdog_stop() -> None:
    mark("stops", "watchdog")


def refuse() -> None:
    mark("stops", "attempt")
    raise OSError("bus is down")
