"""`watch` as a process in a real terminal: how it begins, and that it leaves the terminal as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.model import Reason
from tests.cli.conftest import Traces
from tests.kits.terminal import Terminal

pytestmark = pytest.mark.process

Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    opened: list[Terminal] = []

    def run(*args: str | Path, columns: int = 80, rows: int = 24, **environ: str) -> Terminal:
        opened.append(Terminal(args, columns, rows, **environ))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


def _is_as_before(one: Terminal) -> bool:
    return one.is_reset() and not one.text.strip()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda one: one.type("q"), 0),
        (lambda one: one.type("\x03"), 130),
        (lambda one: os.kill(one.pid, signal.SIGTERM), 143),
        (lambda one: os.kill(one.pid, signal.SIGHUP), 129),
    ],
    ids=["q", "Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_nothing_is_left_on_the_screen(
    traces: Traces, terminal: Open, end: Callable[[Terminal], None], code: int
) -> None:
    traces.values(2, (0, 15, -1, 0))
    one = terminal("watch", "--runtime-dir", traces.folder)
    one.until(lambda: "2 of 2 devices answer" in one.text and "q quit" in one.text)
    assert one.screen.behind is not None, "on the second screen"
    one.type("2")
    one.until(lambda: "1.5  W" in one.text)
    end(one)
    assert one.wait() == code
    assert _is_as_before(one), (one.text, one.screen.modes)


def test_a_small_window_that_is_pulled_about(traces: Traces, terminal: Open) -> None:
    one = terminal("watch", "inv1", "--runtime-dir", traces.folder, columns=20, rows=7, LC_ALL="zh_CN.UTF-8")
    one.until(lambda: "测点" in one.text)
    for columns, rows in ((1, 1), (10, 3), (200, 50), (80, 24)):
        one.resize(columns, rows)
    one.until(lambda: "2 台设备，2 台应答" in one.text and "q 退出" in one.text)
    one.type("q")
    assert one.wait() == 0 and _is_as_before(one)


def test_it_starts_without_an_agent_and_sees_one_come_and_go(traces: Traces, terminal: Open) -> None:
    snapshot = traces.folder / "snapshot.json"
    snapshot.unlink()
    one = terminal("watch", "--runtime-dir", traces.folder)
    one.until(lambda: "no agent is running in" in one.text)
    traces.write()
    one.until(lambda: "2 of 2 devices answer" in one.text)
    snapshot.unlink()
    one.until(lambda: "the agent has ended" in one.text)
    one.type("q")
    assert one.wait() == 0 and _is_as_before(one)


@pytest.mark.parametrize(
    ("args", "environ", "told"),
    [
        (("inv9",), {}, 'error: watch: the running agent has no device "inv9"'),
        (("--plain", "--for", "100ms"), {}, "park7/gw01  the agent's status"),
        (("--for", "100ms"), {"TERM": "dumb"}, "park7/gw01  the agent's status"),
        (("--for", "100ms"), {"PYTHONIOENCODING": "latin-1"}, "park7/gw01  the agent's status"),
    ],
    ids=["wrong device", "plain", "dumb", "no UTF-8"],
)
def test_where_the_screen_is_not_filled(
    traces: Traces, terminal: Open, args: tuple[str, ...], environ: dict[str, str], told: str
) -> None:
    traces.gap(2, Reason.TIMEOUT)
    one = terminal("watch", *args, "--runtime-dir", traces.folder, **environ)
    assert one.wait() == (2 if "error" in told else 0)
    assert told in one.text and 1049 not in one.screen.modes and one.screen.behind is None


def test_a_search_that_is_typed_or_pasted_in_one_go(traces: Traces, terminal: Open) -> None:
    one = terminal("watch", "--runtime-dir", traces.folder, LC_ALL="zh_CN.UTF-8")
    one.until(lambda: "2 台设备，2 台应答" in one.text)
    one.type("2/有功 inv2\r")
    one.until(lambda: "“有功 inv2”" in one.text and "1/2" in one.text)
    assert "正向有功电能" in one.text and "inv1 " not in one.text
    one.type("q")
    assert one.wait() == 0 and _is_as_before(one)


def test_it_ends_by_itself_after_the_given_time(traces: Traces, terminal: Open) -> None:
    one = terminal("watch", "--for", "100ms", "--runtime-dir", traces.folder)
    assert one.wait() == 0 and _is_as_before(one)
