"""The real agent with ``confirm = "platform"`` before a worker and a keeper: what it sealed is what they have."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from receiver.database import boot_text, connect, create_tables
from receiver.private_postgres import PrivatePostgres
from receiver.trust import Enrolment, enrol
from tests.kits.broker import Broker, Name, until
from tests.kits.house import SECONDLY, SITE, Agent, House, Meter

pytestmark = pytest.mark.broker
STARTED = "gateways trusted"  # in the line that workers and keepers log at their start


class Platform:
    """Worker and keeper as processes, over one database."""

    def __init__(self, server: PrivatePostgres, broker: Broker, folder: Path) -> None:
        self.server, self.broker, self.folder = server, broker, folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str) -> None:
        command = {
            "work": ["work", "--from", self.broker.url, "--name", "w1"],
            "keep": ["keep", "--broker", self.broker.url, "--name", "k1"],
        }[role]
        file = self.folder / f"{role}.log"
        before = file.read_text().count(STARTED) if file.exists() else 0
        with file.open("ab") as log:
            self.running[role] = subprocess.Popen(
                [sys.executable, "-m", "agent.cli.main", "platform", *command, "--db", self.server.dsn],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until(lambda: file.read_text().count(STARTED) > before, what=self.said)  # without a database it would end

    def kill(self, role: str) -> None:
        self.running[role].send_signal(signal.SIGKILL)
        self.running.pop(role).wait()

    def stored(self) -> set[Name]:
        with connect(self.server.dsn) as connection:
            rows = connection.execute("SELECT s.name, p.boot, p.seq FROM packs p JOIN streams s ON s.id = p.stream")
            return {(name, boot_text(boot), seq) for name, boot, seq in rows}

    def count(self, query: str) -> int:
        with connect(self.server.dsn) as connection:
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            return int(row[0])

    def said(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            assert process.wait(60) == 0, self.said()
        assert "Traceback" not in self.said(), self.said()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as made:
        yield made


@pytest.fixture
def platform(house: House, tmp_path: Path) -> Iterator[Platform]:
    server = PrivatePostgres(Path(mkdtemp(prefix="mh-platform-")))
    server.start()
    try:
        create_tables(server.dsn)
        folder = tmp_path / "platform"
        folder.mkdir()
        made = Platform(server, house.broker(), folder)
        yield made
        made.close()
    finally:
        server.stop()


def started(house: House, platform: Platform) -> Agent:
    agent = house.agent(
        platform.broker, {"roof": house.field.tcp(Meter(1), Meter(2))}, {"m1": ("roof", 1), "m2": ("roof", 2)},
        every=SECONDLY, uplink='confirm = "platform"',
    )  # fmt: skip
    with connect(platform.server.dsn) as connection:
        enrol(connection, [Enrolment(SITE, [agent.kid])])
    platform.start("work")
    platform.start("keep")
    agent.start()
    return agent


def waiting(agent: Agent) -> int:
    """Packs that no ack has confirmed yet, by the agent's own snapshot."""
    return int(agent.snapshot()["uplinks"]["platform"]["waiting"])


def test_what_was_sealed_is_what_was_stored_and_acks_empty_the_outbox(house: House, platform: Platform) -> None:
    agent = started(house, platform)
    until(lambda: len(platform.stored()) >= 12, what=platform.said)
    until(lambda: platform.count("SELECT count(*) FROM statuses WHERE ack_lists") == 1, what=platform.said)
    until(lambda: platform.count("SELECT count(*) FROM acked") >= 2, what=platform.said)
    agent.stop()
    sealed, _ = agent.sealed()
    agent.start()  # what was sealed at the stop goes out now, and the acks of what was sent last reach it
    until(lambda: sealed <= platform.stored(), what=lambda: (sealed - platform.stored(), platform.said()))
    until(lambda: waiting(agent) <= 8, what=lambda: agent.snapshot()["uplinks"])
    assert platform.count("SELECT count(*) FROM all_findings") == 0
    agent.stop()
    assert "ack rejected" not in agent.said


@pytest.mark.slow
def test_everything_is_killed_and_nothing_differs(house: House, platform: Platform) -> None:
    """A broker without memory, worker, keeper and database (as a power cut), each in the middle of things."""
    agent = started(house, platform)
    until(lambda: len(platform.stored()) >= 8, what=platform.said)
    for _ in range(2):
        platform.broker.stop(kill=True)
        platform.broker.start()
        grows(platform)
        platform.kill("work")
        platform.kill("keep")
        platform.start("work")
        platform.start("keep")
        platform.server.stop("immediate")
        platform.server.start()
        grows(platform)
    until(lambda: waiting(agent) <= 8, 300, lambda: agent.snapshot()["uplinks"])  # lost ones are sent again in minutes
    agent.stop()
    sealed, _ = agent.sealed()
    missing = sealed - platform.stored()
    if missing:  # sent last, and not acknowledged any more
        agent.start()
        until(lambda: not missing - platform.stored(), 300, platform.said)
        agent.stop()
        sealed, _ = agent.sealed()
    until(lambda: platform.stored() >= sealed, 300, platform.said)
    assert platform.stored() == sealed
    assert platform.count("SELECT count(*) FROM all_findings") == 0


def grows(platform: Platform) -> None:
    before = len(platform.stored())
    until(lambda: len(platform.stored()) > before, what=platform.said)
