"""A park with two days of history, the running agent, the page behind TLS and a password, and a browser."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import outcome
from tests.kits.broker import Broker, free_port, until
from tests.kits.house import Agent, House, Meter
from tests.kits.metered_days import MINUTE, MeteredDays, packs
from tests.web.test_server import answers

ROOT = Path(__file__).resolve().parents[2]
AXE = Path(sys.prefix) / "node/node_modules/axe-core/axe.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
PASSWORD = "a long enough password"


def lacking() -> str:
    """Why the walk cannot be made here; "" if it can."""
    if not CHROMIUM:
        return "no chromium here (apt: chromium)"
    if importlib.util.find_spec("playwright") is None:
        return "no playwright here (pip: playwright)"
    return "" if AXE.exists() else "no axe-core here (npm: axe-core)"


@dataclass
class Scene:
    """All that the walk needs."""

    url: str
    agent: Agent
    broker: Broker
    meters: tuple[Meter, ...]
    page: subprocess.Popen[bytes]
    browser: Any
    day: str  # with history and gaps
    cookie: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if why := lacking():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("walk")
    with contextlib.ExitStack() as stack:
        day = made_history(folder)
        house = stack.enter_context(House(folder, forked=False))
        broker, meters = house.broker(), (Meter(1), Meter(2))
        house.listen(broker)
        line = house.field.tcp(*meters)
        agent = house.agent(broker, {"roof": line}, {"m1": ("roof", 1), "m2": ("roof", 2)})
        agent.start(seconds=60)
        port = free_port()
        password = folder / "first"
        password.write_text(PASSWORD)
        listen = f"127.0.0.1:{port}"
        arguments = ("--folder", str(folder / "secret"), "--password-file", str(password), "--listen", listen, "--yes")
        assert outcome(["web", "--setup", "-c", str(agent.config), *arguments]) == 0
        with (folder / "page.log").open("wb") as log:
            command = [sys.executable, "-m", "agent.cli.main", "web", "-c", str(agent.config)]
            page = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(ended, page, folder / "page.log")
        until(lambda: answers(port) or page.poll() is not None, what=(folder / "page.log").read_text)
        until(lambda: agent.life("m1") == agent.life("m2") == "alive", what=lambda: agent.said)
        play = stack.enter_context(sync_playwright())
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        stack.callback(browser.close)
        yield Scene(f"https://localhost:{port}", agent, broker, meters, page, browser, day)


def made_history(folder: Path) -> str:
    """Two days of packs that ended a while ago, with a silence and a refused point; the first of the days."""
    made = MeteredDays(folder)
    first = date.fromtimestamp(time.time()) - timedelta(days=2)
    start = made.calendar.midnight(first)
    gaps = [(120, 190, "timeout", "*"), (190, 200, "exception", "ac.energy.import.l1"), (1500, 1530, "crc", "*")]
    made.commit(packs(start, min(48 * 60, int((time.time() * 1000 - start) / MINUTE) // 5 * 5 - 60), gaps))
    made.close()
    return str(first)


def ended(page: subprocess.Popen[bytes], log: Path) -> None:
    """SIGTERM ends the page, and nothing went wrong in it."""
    if page.poll() is None:
        page.send_signal(signal.SIGTERM)
    assert page.wait(60) == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="session")
def shots() -> Path | None:
    """Where screenshots go, if PAGE_SHOTS names a folder."""
    folder = os.environ.get("PAGE_SHOTS", "")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) if folder else None


@pytest.fixture(autouse=True)
def nothing_left_running() -> None:
    """In place of the check after each test: browser and park belong to the scene, which ends them itself."""
