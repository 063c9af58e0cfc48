"""`watch` in an 80x24 terminal through a real SSH server, against an agent that reads 100 simulated devices."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.kits.broker import until
from tests.kits.house import Agent, House, Meter
from tests.kits.sshd import Ssh, lacking, sshd
from tests.kits.terminal import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking()), reason=lacking())]
TERMINALS = [("zh_CN.UTF-8", "xterm-256color"), ("C", "vt100"), ("C.UTF-8", "linux"), ("zh_CN.UTF-8", "linux")]
WORDS = {  # English, Chinese
    "answer": ("99 of 100 devices answer", "100 台设备，99 台应答"),
    "keys": ("q quit", "q 退出"),
    "trouble": ("trouble only", "仅看异常"),
    "never": ("has not answered since the start", "以来从未应答"),
    "energy": ("ac.energy.import", "正向有功电能"),
}


@pytest.fixture(scope="module")
def park(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """100 devices on four lines; one of them never answers."""
    with House(tmp_path_factory.mktemp("park"), forked=False) as house:
        halls = [[Meter(unit) for unit in range(1, 26)] for _ in range(4)]
        halls[1][3].fault("silence")
        lines = {f"hall-{n}": house.field.tcp(*meters) for n, meters in enumerate(halls)}
        devices = {
            f"{'inv' if n < 2 else 'meter-workshop'}-{n}-{unit:02}": (f"hall-{n}", unit)
            for n in range(4)
            for unit in range(1, 26)
        }
        agent = house.agent(None, lines, devices, every='{ fast = "1 s", normal = "2 s", slow = "10 s" }')
        agent.start(seconds=120)
        until(lambda: sum(agent.life(name) == "alive" for name in devices) == 99, 120, lambda: agent.said)
        yield agent


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    with sshd(tmp_path_factory.mktemp("ssh")) as one:
        yield one


@pytest.fixture
def login(ssh: Ssh, park: Agent) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def run(language: str, term: str) -> Terminal:
        command = ssh.command("watch", "--runtime-dir", park.runtime, LC_ALL=language)
        opened.append(Terminal((), 80, 24, program=command, TERM=term))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


def rows(one: Terminal) -> list[str]:
    """Rows of the list: without head, names of pages and columns, detail and keys."""
    return [line for line in one.text.splitlines()[3:22] if line]


@pytest.mark.parametrize(("language", "term"), TERMINALS)
def test_all_pages_of_a_hundred_devices(login: Callable[..., Terminal], language: str, term: str) -> None:
    at = int(language.startswith("zh"))
    said = {name: texts[at] for name, texts in WORDS.items()}
    one = login(language, term)
    one.until(lambda: said["answer"] in one.text and said["keys"] in one.text and len(rows(one)) == 19)
    assert rows(one)[0].startswith("inv-0-01 ") and "1/100" in one.text, "in the order of the file"
    one.type("\x1b[F")  # End
    one.until(lambda: "100/100" in one.text and rows(one)[-1].startswith("meter-workshop-3-25"))
    one.type("\x1b[5~\x1b[5~")  # twice Page Up
    one.until(lambda: "62/100" in one.text)
    one.type("/shop-3\r")
    one.until(lambda: "25/25" in one.text and all("workshop-3" in row for row in rows(one)))
    one.type("\x1b")
    one.until(lambda: "/100" in one.text)
    one.type("t\x1b[H")  # Home, because on a busy machine the other devices of the line have gaps too
    one.until(lambda: any(row.startswith("inv-1-04 ") for row in rows(one)) and said["trouble"] in one.text)
    assert said["keys"] in one.text, "with a filter, too"
    one.type("t2")
    one.until(lambda: "1/500" in one.text and said["energy"] in one.text and re.search("[▁▂▃▄▅▆▇█]{3}", one.text))
    one.type("\x1b[B" * 40)
    one.until(lambda: "41/500" in one.text)
    one.type("\r")
    one.until(lambda: "1/5" in one.text and "› inv-0-09" in one.text)
    one.type("3\x1b[B\r")
    one.until(lambda: "› hall-1" in one.text and len(rows(one)) == 19 and "->" in one.text)
    one.type("5/inv-1-04\r")
    one.until(lambda: said["never"] in one.text and "inv-1-04" in one.text)
    one.type("\x1b")
    one.until(lambda: "inv-1-04" not in one.text.splitlines()[-1])
    for columns, lines in ((60, 15), (132, 43), (80, 24)):
        one.resize(columns, lines)
        one.type("1")
        one.until(lambda lines=lines: len([row for row in one.text.splitlines() if row]) == lines)
        assert all(cell_len(row) <= columns for row in one.text.splitlines())
    one.type("\x03")
    assert one.wait() == 130 and one.is_reset() and not one.text.strip()


def watching(runtime: Path) -> list[int]:
    """Process ids of `watch` on the other side."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:4] == [b"-m", b"agent.cli.main", b"watch"] and str(runtime).encode() in words:
            found.append(int(entry.name))
    return found


def test_a_connection_that_drops_leaves_nothing_running(login: Callable[..., Terminal], park: Agent) -> None:
    one = login("C.UTF-8", "xterm-256color")
    one.until(lambda: WORDS["answer"][0] in one.text)
    assert len(watching(park.runtime)) == 1
    os.kill(one.pid, signal.SIGKILL)
    until(lambda: not watching(park.runtime), 60)
    again = login("C.UTF-8", "xterm-256color")
    again.until(lambda: WORDS["answer"][0] in again.text)
    again.type("q")
    assert again.wait() == 0 and again.is_reset()
