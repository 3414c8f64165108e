"""Environments in processes of their own: the same steps as in this one, and no hang, death or refusal that lasts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.env_child import EnvSpec
from agent.env_process import EnvHung, EnvProcess, EnvServer
from envs.errors import EnvError, EnvFault
from envs.make import make_env
from tests.faults.agent import alive

CART = EnvSpec(
    id="tests.faults.faulty_cart:SoundCart-v0", kwargs={}, max_episode_steps=None,
    observation_size=4, action_size=1, columns=(),
)  # fmt: skip
MAZE = EnvSpec(
    id="PointMaze_UMaze-v3", kwargs={}, max_episode_steps=15, observation_size=8, action_size=2, columns=("success",)
)
ROOT = Path(__file__).parents[2]
FORWARD = np.ones(1, np.float32)


@pytest.fixture(scope="module")
def server() -> Iterator[EnvServer]:
    with EnvServer() as server:
        yield server


@pytest.fixture
def cart(server: EnvServer) -> Iterator[EnvProcess]:
    env = EnvProcess(server, CART, deadline_seconds=1.0)
    env.launch()
    env.answer()
    yield env
    env.close()


def begin(env: EnvProcess, seed: int = 0) -> None:
    env.ask_reset(seed)
    env.answer()


def step(env: EnvProcess, action: np.ndarray = FORWARD) -> None:
    env.ask_step(action)
    env.answer()


def ends(pid: int) -> bool:
    """Whether a process ends soon."""
    deadline = time.monotonic() + 10.0
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


@pytest.mark.parametrize("spec", [CART, MAZE], ids=["cart", "maze"])
def test_steps_are_those_of_the_same_environment_in_this_process(server: EnvServer, spec: EnvSpec) -> None:
    here, there = make_env(spec.id, max_episode_steps=spec.max_episode_steps), EnvProcess(
        server, spec, deadline_seconds=5.0
    )  # fmt: skip
    there.launch()
    there.answer()
    rng = np.random.default_rng(0)
    ends = 0
    for seed in range(3):
        observation, _ = here.reset(seed=seed)
        begin(there, seed)
        np.testing.assert_array_equal(there.observation, observation)
        ended = False
        while not ended:
            action = rng.uniform(-1.0, 1.0, spec.action_size).astype(np.float32)
            observation, reward, terminated, truncated, info = here.step(action)
            step(there, action)
            np.testing.assert_array_equal(there.observation, observation)
            assert (there.reward, there.terminated, there.truncated) == (reward, terminated, truncated)
            assert there.info == {name: info[name] for name in spec.columns}
            ended = terminated or truncated
        ends += 1
    assert ends == 3
    there.close()
    here.close()


def test_a_stopped_environment_is_killed_by_its_deadline_and_another_steps_within_seconds(cart: EnvProcess) -> None:
    begin(cart)
    stopped = cart.pid
    os.kill(stopped, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(EnvHung, match=r"failed at step 1 of its episode: a step took over 1\.\d s; killed"):
        step(cart)
    assert 1.0 <= time.monotonic() - started < 2.0
    assert not alive(stopped)
    cart.launch()
    cart.answer()
    begin(cart)
    step(cart)
    assert time.monotonic() - started < 5.0
    assert cart.pid != stopped


def test_an_environment_that_is_killed_is_a_fault_that_names_the_signal(cart: EnvProcess) -> None:
    begin(cart)
    os.kill(cart.pid, signal.SIGKILL)
    with pytest.raises(EnvFault, match=r"its process ended with exit code -9 during a step"):
        step(cart)


def test_a_killed_server_takes_its_environments_along_and_is_replaced() -> None:
    with EnvServer() as server:
        env = EnvProcess(server, CART, deadline_seconds=5.0)
        env.launch()
        env.answer()
        begin(env)
        first = env.pid
        parent = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert ends(first)
        with pytest.raises(EnvFault, match="during a step"):
            step(env)
        env.launch()
        env.answer()
        begin(env)
        step(env)
        env.close()


def test_no_environment_outlives_its_collector() -> None:
    body = (
        "import time\nfrom agent.env_process import *\nfrom tests.agent.test_env_process import CART\n"
        "env = EnvProcess(EnvServer(), CART, deadline_seconds=5.0)\nenv.launch()\nenv.answer()\n"
        "print(env.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", body], cwd=ROOT, stdout=subprocess.PIPE, text=True) as collector:
        assert collector.stdout is not None
        pid = int(collector.stdout.readline())
        os.kill(pid, signal.SIGSTOP)  # nor one that hangs
        collector.kill()
    assert ends(pid)


def test_a_built_environment_keeps_its_model_but_not_the_sources_of_it(server: EnvServer) -> None:
    kitchen = EnvSpec(
        id="FrankaKitchen-v1", kwargs={}, max_episode_steps=None, observation_size=81, action_size=9, columns=()
    )
    env = EnvProcess(server, kitchen, deadline_seconds=60.0)
    env.launch()
    env.answer()
    begin(env)
    env.ask_step(np.zeros(9, np.float32))
    env.answer()
    status = Path(f"/proc/{env.pid}/status").read_text()
    assert int(status.partition("VmRSS:")[2].split()[0]) < 160 * 1024  # kB; it would be 280 MB
    env.close()


def test_what_the_environment_does_wrong_arrives_as_its_own_fault(server: EnvServer) -> None:
    spec = EnvSpec(**{**json.loads(CART.to_bytes()), "id": "tests.faults.faulty_cart:BrokenCart-v0", "columns": ()})
    env = EnvProcess(server, spec, deadline_seconds=5.0)
    env.launch()
    env.answer()
    begin(env)
    with pytest.raises(EnvFault, match=r"BrokenCart-v0 failed at step 1 .*RuntimeError: the motor is disconnected"):
        step(env)
    env.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "NoSuchCart-v0"}, "NoSuchCart"),
        ({"kwargs": {"wheels": 4}}, "wheels"),
        ({"observation_size": 5}, "has 4 observation and 1 action columns, the run's store 5 and 1"),
    ],
)
def test_an_environment_that_cannot_be_built_is_refused_with_its_message(
    server: EnvServer, changes: dict[str, object], message: str
) -> None:
    env = EnvProcess(server, EnvSpec(**{**json.loads(CART.to_bytes()), "columns": (), **changes}), deadline_seconds=5.0)  # type: ignore[arg-type]
    env.launch()
    with pytest.raises(EnvError, match=message) as raised:
        env.answer()
    assert not isinstance(raised.value, EnvFault)
    env.close()


def test_a_caller_that_must_leave_does_not_wait_for_the_deadline(server: EnvServer) -> None:
    env = EnvProcess(server, CART, deadline_seconds=60.0, tick=lambda: patient)
    patient = True
    env.launch()
    env.answer()
    begin(env)
    os.kill(env.pid, signal.SIGSTOP)
    patient = False
    started = time.monotonic()
    with pytest.raises(EnvHung):
        step(env)
    assert time.monotonic() - started < 1.0
    env.close()
