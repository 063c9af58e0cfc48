"""What every test gets: no stray threads or child processes, and a loop whose time can be made up."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.kits.forked import SERVER

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ["tests.kits.accounts"]

# The fast suite tries the same few examples each time; `make test-slow` many others, found anew.
QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.register_profile("fast", QUIET, max_examples=25, derandomize=True)
settings.register_profile("slow", QUIET, max_examples=1000, print_blob=True)
settings.load_profile("fast")

UPLINK = (
    "uplink "  # its threads are daemons, so that no network holds up the agent's end; in a test they end all the same
)
ENDED_S = 30.0  # for threads and processes that were told to end
SCENARIOS = ("tests/fault/", "tests/service/test_run_")  # the first test of a file waits until its scenarios have ended
WAITS = (
    *SCENARIOS,
    "tests/service/test_reload_refused",
    "tests/cli/test_watch_screen",
    "tests/control/test_control_lease",
    "tests/web/test_server",
)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what goes on in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # so nohup starts it; what tests start would inherit it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    pin_surroundings()
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    missing = [place for place in ("/usr/sbin", "/sbin") if place not in places]  # Debian keeps mosquitto there
    os.environ["PATH"] = os.pathsep.join([*places, *missing])
    if sys.dont_write_bytecode:
        keep_bytecode()


# With these, commands would say more than the tests expect, in other lines or in another language, or would take the
# configuration and folders of an agent that is installed on this machine.
FOREIGN = re.compile(
    "PYTHONDEVMODE|PYTHONASYNCIODEBUG|COLUMNS|LINES|LANGUAGE|LC_.*|XDG_.*|MH_CONFIG|MH_DEBUG|MH_LOG|.*_DIRECTORY"
    "|NOTIFY_SOCKET|WATCHDOG_USEC|JOURNAL_STREAM"
)


def pin_surroundings() -> None:
    """Give all tests the same language, time zone, umask and folders, whoever runs them on whatever machine."""
    for name in filter(FOREIGN.fullmatch, list(os.environ)):
        del os.environ[name]
    os.environ |= {"LANG": "C.UTF-8", "TZ": "UTC"}
    time.tzset()
    os.umask(0o022)  # tests compare modes of files, and systemd complains of files that everybody may change


def keep_bytecode() -> None:
    """Who wants no bytecode beside the sources finds it in build/. Without any, each agent that a test starts would be
    compiled anew: that doubles what its start costs, and the tests start more than a hundred.
    """
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(ROOT / "build" / "pycache")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix  # for the workers, and for what tests start


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make test-process` imports only the files that have such tests, once for each of its workers."""
    if not config.option.markexpr.startswith("process") or collection_path.suffix != ".py":
        return None
    is_scenario = collection_path.relative_to(ROOT).as_posix().startswith(SCENARIOS)
    return None if is_scenario or "mark.process" in collection_path.read_text("utf-8") else True


@pytest.hookimpl(tryfirst=True)  # before -m selects by the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files = list(dict.fromkeys(item.path for item in items))
    waiting = [file for file in files if file.relative_to(ROOT).as_posix().startswith(WAITS)]
    working = [file for file in files if file not in waiting]
    # one that waits beside three that work: so neither all workers wait, nor is a long wait what is left at the end
    place = {file: 4 * n for n, file in enumerate(waiting)} | {file: n * 4 / 3 for n, file in enumerate(working)}
    items.sort(key=lambda item: place[item.path])
    for item in items:
        if item.nodeid.startswith(SCENARIOS):
            item.add_marker(pytest.mark.timeout(600))
            item.add_marker(pytest.mark.process)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # eight thousand tests that stay: looking through them for garbage is a tenth of a run


def children() -> set[int]:
    """Process ids of our children, by the kernel's own list."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            found |= {int(pid) for pid in Path(f"/proc/self/task/{task}/children").read_text().split()}
        except FileNotFoundError:
            continue
    return found - {SERVER.pid or 0}  # that one ends with the session


def pytest_sessionfinish() -> None:
    SERVER.stop()


@pytest.fixture(autouse=True)
def no_log_setting_left() -> Iterator[None]:
    """A command that ran in this process may log to a stream that is closed by now, and lets more be logged: the next
    test would see that.
    """
    loggers = [logging.getLogger(), logging.getLogger("meterhouse")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = [one for one in logger.handlers if one in handlers]
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """A test ends what it started; what fixtures of a wider scope run was there before it, and is theirs to end."""
    threads, processes = set(threading.enumerate()), children()
    interrupt = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, interrupt)  # a uvloop that handled signals leaves its handler behind
    deadline = time.monotonic() + ENDED_S
    while time.monotonic() < deadline:
        stray = [t for t in threading.enumerate() if t not in threads and (not t.daemon or t.name.startswith(UPLINK))]
        left = children() - processes
        if not stray and not left:
            return
        threading.Event().wait(0.02)
    assert not stray, f"threads left running: {stray}"
    assert not left, f"processes left running: {left}"


class MadeUpTime(asyncio.SelectorEventLoop):
    """An event loop that jumps to its next timer instead of waiting for it."""

    def __init__(self, began: float = 1_000_000.0) -> None:
        super().__init__()
        self._now = began
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> object:
            ready = select(0 if timeout is not None else 0.001)
            if timeout and not ready:  # what was said on a socket is heard before the time goes on
                self._now += timeout
            return ready

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now

    def mono_ns(self) -> int:
        """The loop's time as a monotonic clock."""
        return round(self._now * 1e9)


@pytest.fixture
def made_up_time() -> Iterator[MadeUpTime]:
    """A loop to run a coroutine in with ``run_until_complete``; hours pass in no time."""
    loop = MadeUpTime()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
