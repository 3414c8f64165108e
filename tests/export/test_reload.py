"""Newer policies are flown once they are proven; whatever else lies in the folder, the old one flies on."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.bundle import write_bundle
from export.contract import Contract
from export.contract_parts import ActionSpec, Control
from export.control_loop import ControlLoop, Reading
from export.errors import ContractError, ExportError
from export.policy import write_policy
from export.reload import PolicyWatcher, newest_policy
from export.runner import PolicyRunner
from export.template import Template
from tests.export.policies import ACT, OBS, NumpyPolicy, make_contract, make_network, weights_of

CONTRACT = make_contract(control=Control(hz=50.0, hold_steps=3))


@pytest.fixture
def old(model: bytes) -> PolicyRunner:
    return PolicyRunner(version(model, 1))


def version(model: bytes, number: int, contract: Contract = CONTRACT) -> bytes:
    """The policy with other weights: seed and version `number`."""
    changed = replace(contract, policy_id=f"v{number}", policy_version=number)
    return Template.from_bytes(model).patch(weights_of(make_network(number)), changed)


def publish(folder: Path, model: bytes, number: int) -> None:
    write_policy(folder / f"v{number:06d}.onnx", model)
    (folder / "LATEST").write_text(f"v{number:06d}.onnx")


class Still:
    """Always the same observation; `on_read` sees each read's number first."""

    def __init__(self, on_read: Callable[[int], Any] = lambda n: None) -> None:
        self.on_read, self.reads, self.written = on_read, 0, list[np.ndarray]()

    def read(self) -> Reading:
        self.reads += 1
        said = self.on_read(self.reads)
        value = np.nan if isinstance(said, float) else 0.1
        return Reading(observation=np.full(OBS, value, np.float32), t_mono=time.monotonic())

    def write(self, action: np.ndarray) -> None:
        self.written.append(action.copy())

    def safe_stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class Offer:
    """A reloader that has what it was given, once."""

    def __init__(self) -> None:
        self.ready: PolicyRunner | None = None

    def take(self) -> PolicyRunner | None:
        ready, self.ready = self.ready, None
        return ready


class Log:
    def __init__(self) -> None:
        self.entries: list[tuple[str, Any]] = []

    def record(self, step: dict[str, Any]) -> None:
        self.entries.append(("step", step))

    def cut(self, observation: np.ndarray) -> None:
        self.entries.append(("cut", observation))


def settled(watcher: PolicyWatcher, folder: Path) -> PolicyRunner | None:
    """What the watcher hands over of the folder's present state; None once it has looked and has nothing."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        taken = watcher.take()
        if taken is not None:
            return taken
        found = newest_policy(folder)
        seen = watcher._seen
        if (found is None or found[1] == seen) and watcher._ready is None:
            time.sleep(0.3)  # the look that noted it may still be at work
            return watcher.take()
        time.sleep(0.01)
    raise AssertionError("the watcher never looked")


def test_a_published_version_is_flown_and_the_last_one_kept_for_rollback(
    old: PolicyRunner, model: bytes, tmp_path: Path
) -> None:
    newer, observation = version(model, 2), np.full(OBS, 0.1, np.float32)
    log, threads = Log(), set()

    def on_read(n: int) -> None:
        threads.add(threading.current_thread())
        if n == 5:
            publish(tmp_path, newer, 2)
        if n == 5 or len(swapped()) > 10:
            loop.rollback()  # before the reload there is nothing to return to

    def swapped() -> list[np.ndarray]:
        return [action for action in robot.written if not np.array_equal(action, old.act(observation))]

    robot = Still(on_read)
    with PolicyWatcher(tmp_path, old, poll_s=0.02) as watcher:
        loop = ControlLoop(robot, old, hz=100.0, recorder=log, reloader=watcher, max_steps=150)
        report = loop.run()
    assert (report["reloads"], report["rollbacks"], watcher.refused) == (1, 1, 0)
    assert report["policy_version"] == 1 and report["state"] == "OK"
    expected = PolicyRunner(newer).act(observation)
    assert len(swapped()) >= 10
    for action in swapped():
        np.testing.assert_array_equal(action, expected)
    np.testing.assert_array_equal(robot.written[-1], robot.written[0])
    # Each policy's actions are chains of their own; every step before a change is complete.
    steps = [value for kind, value in log.entries if kind == "step"]
    versions = [step["policy_version"] for step in steps]
    changes = [i for i in range(1, len(steps)) if versions[i] != versions[i - 1]]
    assert len(changes) == 2 and all(steps[i]["first"] for i in changes)
    assert len(steps) + report["recording_gaps"] == 149


def test_whatever_is_wrong_with_a_newer_policy_the_old_one_flies_on(
    old: PolicyRunner, model: bytes, tmp_path: Path
) -> None:
    action = CONTRACT.action
    permuted = replace(action, names=tuple(reversed(action.names)))
    wider = ActionSpec(low=action.low, high=tuple(2 * value for value in action.high))
    flipped = bytearray(version(model, 2))
    flipped[len(flipped) // 2] ^= 1
    with PolicyWatcher(tmp_path, old, poll_s=0.01) as watcher:
        bad = [
            (version(model, 3, replace(CONTRACT, action=permuted)), "action.names"),
            (version(model, 4, replace(CONTRACT, action=wider)), "action.high"),
            (version(model, 5, replace(CONTRACT, control=Control(hz=100.0))), "control.hz"),
            (b"not a policy", "v000006"),
        ]
        for count, (content, said) in enumerate(bad, 1):
            publish(tmp_path, content, count + 2)
            assert settled(watcher, tmp_path) is None
            assert watcher.refused == count and said in str(watcher.reason)
        sound = version(model, 9)
        publish(tmp_path, sound, 9)
        path = tmp_path / "v000010.onnx"
        path.write_bytes(bytes(flipped))
        path.with_name(path.name + ".sha256").write_bytes((tmp_path / "v000009.onnx.sha256").read_bytes())
        taken = settled(watcher, tmp_path)
        assert taken is not None and taken.contract.policy_version == 9
        (tmp_path / "LATEST").write_text("v000010.onnx")
        assert settled(watcher, tmp_path) is None
        assert watcher.refused == 5 and "checksum" in str(watcher.reason)


def test_a_robots_own_expectation_holds_for_reloads_too(old: PolicyRunner, model: bytes, tmp_path: Path) -> None:
    with PolicyWatcher(tmp_path, old, expect={"algorithm": "iql", "dataset": ["sha256:0123"]}, poll_s=0.01) as watcher:
        publish(tmp_path, version(model, 2, replace(CONTRACT, dataset=("sha256:9",))), 2)
        assert settled(watcher, tmp_path) is None
        assert "dataset" in str(watcher.reason)


def test_a_bundle_that_is_still_being_copied_is_looked_at_again(
    old: PolicyRunner, model: bytes, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    contract = replace(CONTRACT, policy_version=2)
    reference = NumpyPolicy(make_network(2), contract)
    write_bundle(made, version(model, 2, contract), reference=reference, rng=np.random.default_rng(0))
    watched = tmp_path / "watched"
    (watched / "new").mkdir(parents=True)
    with PolicyWatcher(watched, old, poll_s=0.01) as watcher:
        for name in sorted(path.name for path in made.iterdir()):
            content = (made / name).read_bytes()
            (watched / "new" / name).write_bytes(content[: len(content) // 2])
            time.sleep(0.02)
            (watched / "new" / name).write_bytes(content)
        taken = settled(watcher, watched)
        assert taken is not None and taken.contract.policy_version == 2
        # The same bytes under another name are no news.
        shutil.copytree(made, watched / "newer")
        assert settled(watcher, watched) is None


def test_a_reload_waits_until_a_fault_is_over(old: PolicyRunner, model: bytes) -> None:
    offer, newer = Offer(), PolicyRunner(version(model, 2))

    def blind(n: int) -> float | None:
        if n == 4:
            offer.ready = newer
        return np.nan if 4 <= n <= 6 else None

    robot = Still(blind)
    report = ControlLoop(robot, old, hz=None, reloader=offer, max_steps=10).run()
    assert report["held_steps"] == 3 and report["reloads"] == 1 and report["state"] == "OK"
    for held in robot.written[3:6]:
        np.testing.assert_array_equal(held, robot.written[0])


def test_a_reload_neither_clears_a_fault_nor_unlatches(old: PolicyRunner, model: bytes) -> None:
    offer = Offer()

    def blind(n: int) -> float | None:
        if n >= 4:
            offer.ready = PolicyRunner(version(model, n))
            return np.nan
        return None

    robot = Still(blind)
    loop = ControlLoop(robot, old, hz=None, reloader=offer, max_steps=100)
    report = loop.run()
    assert report["state"] == "LATCHED" and report["held_steps"] == 3 and len(robot.written) == 6
    assert report["reloads"] == 0 and report["policy_version"] == 1
    with pytest.raises(ExportError, match="latched"):
        loop.run()


def test_the_rate_limit_goes_on_from_what_the_last_policy_did(model: bytes) -> None:
    limited = replace(CONTRACT, action=replace(CONTRACT.action, rate_limit=(0.5,) * ACT))
    offer = Offer()

    def on_read(n: int) -> None:
        if n == 3:
            offer.ready = PolicyRunner(version(model, 2, limited))

    robot = Still(on_read)
    runner = PolicyRunner(version(model, 1, limited))
    report = ControlLoop(robot, runner, hz=None, reloader=offer, max_steps=6).run()
    assert report["reloads"] == 1
    assert np.abs(np.diff(np.stack(robot.written), axis=0)).max() <= 0.01 + 1e-6
    assert report["notes"]["RATE_LIMITED"] == 3


def test_a_policy_with_permuted_joints_of_equal_length_is_refused(model: bytes) -> None:
    names = tuple(f"joint_{i}" for i in range(ACT))
    contract = replace(CONTRACT, action=replace(CONTRACT.action, names=names))
    PolicyRunner(version(model, 1, contract), expect={"action": {"names": list(names)}})
    with pytest.raises(ContractError, match=r"action\.names\[0\] is 'joint_0', 'joint_1' is expected"):
        PolicyRunner(version(model, 1, contract), expect={"action": {"names": [names[1], names[0], *names[2:]]}})


def test_a_folder_that_is_not_there_is_refused(old: PolicyRunner, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such folder"):
        PolicyWatcher(tmp_path / "nowhere", old)


def test_a_policy_older_than_the_one_in_flight_is_not_newer(model: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    publish(folder, version(model, 1), 1)
    time.sleep(0.02)
    write_policy(tmp_path / "flying.onnx", version(model, 2))
    with PolicyWatcher(folder, PolicyRunner(tmp_path / "flying.onnx"), poll_s=0.01) as watcher:
        assert settled(watcher, folder) is None and watcher.refused == 0
        publish(folder, version(model, 3), 3)
        taken = settled(watcher, folder)
        assert taken is not None and taken.contract.policy_version == 3


def test_a_policy_that_was_there_and_is_newer_than_the_one_in_flight_is_flown(model: bytes, tmp_path: Path) -> None:
    made, contract = tmp_path / "made", replace(CONTRACT, policy_version=1)
    reference = NumpyPolicy(make_network(1), contract)
    write_bundle(made, version(model, 1, contract), reference=reference, rng=np.random.default_rng(0))
    time.sleep(0.02)
    (folder := tmp_path / "watched").mkdir()
    publish(folder, version(model, 2), 2)
    with PolicyWatcher(folder, PolicyRunner(made), poll_s=0.01) as watcher:
        taken = settled(watcher, folder)
        assert taken is not None and taken.contract.policy_version == 2


def test_no_limit_is_loosened_by_a_newer_policy(model: bytes, tmp_path: Path) -> None:
    position, velocity = CONTRACT.observation
    flown = replace(
        CONTRACT,
        observation=(replace(position, valid_min=(-5.0,) * 8, valid_max=(5.0,) * 8), velocity),
        action=replace(CONTRACT.action, rate_limit=(0.5,) * ACT),
        control=Control(hz=50.0, max_obs_age_ms=100.0, deadline_ms=5.0, on_fault="safe", hold_steps=2),
    )
    without = replace(CONTRACT, control=Control())  # as a run publishes
    stricter = replace(
        flown,
        observation=(replace(position, valid_max=(1.0,) * 8), velocity),
        action=replace(CONTRACT.action, rate_limit=(0.1,) + (9.0,) * (ACT - 1)),
        control=Control(hz=50.0, max_obs_age_ms=500.0, deadline_ms=1.0, hold_steps=1),
    )
    with PolicyWatcher(tmp_path, PolicyRunner(version(model, 1, flown)), poll_s=0.01) as watcher:
        publish(tmp_path, version(model, 2, without), 2)
        bare = settled(watcher, tmp_path)
        publish(tmp_path, version(model, 3, stricter), 3)
        tight = settled(watcher, tmp_path)
    assert bare is not None and tight is not None and watcher.refused == 0, watcher.reason
    for part in ("observation", "control"):
        assert getattr(bare.contract, part) == getattr(flown, part)
    assert bare.contract.action.rate_limit == (0.5,) * ACT
    assert tight.contract.observation[0].valid_min == (-5.0,) * 8
    assert tight.contract.observation[0].valid_max == (1.0,) * 8
    assert tight.contract.action.rate_limit == (0.1,) + (0.5,) * (ACT - 1)
    assert tight.contract.control == Control(
        hz=50.0, max_obs_age_ms=100.0, deadline_ms=1.0, on_fault="safe", hold_steps=1
    )


def test_a_file_where_a_folder_of_policies_was_expected_is_not_followed(
    old: PolicyRunner, model: bytes, tmp_path: Path
) -> None:
    (tmp_path / "policies").write_text("")
    assert newest_policy(tmp_path) is None
