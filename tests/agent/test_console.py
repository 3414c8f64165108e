"""What a command says on the way: bars in a terminal, rare plain lines elsewhere, nothing that was not asked for."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest

from agent import console
from agent.cli import log_level, main
from agent.errors import ConfigError


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    console.set_level("info")


def capture(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    file = io.StringIO()
    made = console.Output(file=file, width=80, force_terminal=terminal, color_system="truecolor" if terminal else None)
    monkeypatch.setattr(console, "messages", made)
    return file


def test_plain_lines_tell_rate_and_time_left_and_grow_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    file, clock = capture(monkeypatch, terminal=False), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.progress() as bars:
        bar = bars.add("fine-tune", 400_000)
        for second in range(3601):
            clock[0] = float(second)
            bar(50_000 + 100 * second, note="warm-up" if second < 10 else "")
    lines = file.getvalue().splitlines()
    # The first 50,000 steps were an earlier start's: they count as done, not as speed.
    assert lines[0] == "fine-tune: 50,500 of 400,000 · 100/s · 58:15 left · warm-up"
    assert 50 < len(lines) < 80, "an hour is a screenful or two"


def test_a_bar_that_stands_still_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    file, clock = capture(monkeypatch, terminal=False), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.progress() as bars:
        bar = bars.add("evaluate", 100)
        for second in range(600):
            clock[0] = float(second)
            bar(40, note="evaluating")
    assert file.getvalue().splitlines() == ["evaluate: 40 of 100 · evaluating"]


def test_a_terminal_shows_phase_rate_and_time_left_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    file = capture(monkeypatch, terminal=True)
    with console.progress() as bars:
        never = bars.add("unstarted", 10)
        bar = bars.add("fine-tune", 1_000_000)
        for step in range(4):
            bar(345_120 + 100 * step, note="a note [b]that[/b] is much longer than what is left of the line")
            time.sleep(0.15)
    assert never is not None
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, frames)) <= 80 and not any("unstarted" in frame for frame in frames)
    assert re.search(r"fine-tune .* 345,420/1,000,000 +\d+/s +\d[\d:]+ +a note \[b\]", frames[-1])


def test_a_warning_is_seen_above_the_bars_and_leaves_them_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    file = capture(monkeypatch, terminal=True)
    with console.progress() as bars:
        bars.add("pretrain", 10)(3)
        console.say("restart: collector-000 ended [/b] with exit code -9", "warning")
    said, _, after = file.getvalue().partition("restart: collector-000 ended [/b] with exit code -9")
    assert said.endswith("\x1b[1mwarning: ") and after.startswith("\x1b[0m\n")
    assert "\x1b[1m" not in after, "the bars are bold"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_users_text_is_printed_as_it_is_and_on_one_line(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = capture(monkeypatch, terminal=terminal)
    text = "runs/a[seed1]/[b]x[/i]:smile: " + "very/" * 40 + "long.zarr"
    console.messages.print(f"{text}: verified")
    console.messages.print(console.table(text[:20], [text[:12]], [[text[7:30]]]))
    first, *rest = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
    assert first == f"{text}: verified"
    shown = "\n".join(rest)
    assert text[:20] in shown and text[7:30] in shown and max(map(len, rest)) <= 80


@pytest.mark.parametrize(
    ("value", "expected"), [(-1171.26, "-1,171.3"), (25_000.0, "25,000.0"), (812.34, "812.3"), (0.98765, "0.9877")]
)
def test_figures_keep_the_digits_that_tell_them_apart(value: float, expected: str) -> None:
    assert console.figure(value) == expected


def test_one_of_a_thing_is_no_plural() -> None:
    assert [console.plural(n, "step") for n in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["why", "on the way", "warning: odd"]),
        ("info", ["on the way", "warning: odd"]),
        ("warning", ["warning: odd"]),
        ("error", []),
    ],
)
def test_levels_are_kept(level: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file, clock = capture(monkeypatch, terminal=False), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    console.set_level(level)
    console.say("why", "debug")
    console.say("on the way")
    console.say("odd", "warning")
    with console.progress() as bars, console.working("a while"):
        bar = bars.add("collect", 10)
        bar(1)
        clock[0] = 9.0
        bar(2)
    lines = [text for text in file.getvalue().splitlines() if not text.startswith("collect:")]
    assert lines == expected
    assert ("collect:" in file.getvalue()) == (level in ("debug", "info"))


def test_the_level_may_stand_anywhere_and_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert log_level(["a", "--log-level", "debug", "--b"]) == ("debug", ["a", "--b"])
    assert log_level(["--log-level=error"]) == ("error", [])
    for wrong in (["--log-level", "loud"], ["--log-level"]):
        with pytest.raises(ConfigError, match="give debug, info, warning or error"):
            log_level(wrong)
    assert main(["status", "nowhere", "--log-level", "loud"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for before in (["--log-level", "loud"], ["--log-level=loud"]):
        assert main([*before, "status", "nowhere"]) == 2
        assert capsys.readouterr().err.startswith("slipway status: --log-level is 'loud'")


def test_debugging_shows_where_a_refusal_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "nowhere", "--log-level", "debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("slipway status: nowhere ")
