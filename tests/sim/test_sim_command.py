"""`meterhouse simulate` as its user meets it: a process that serves, obeys and ends cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.cli.main import outcome
from drivers.dlt645.frames import Parser, build_read
from drivers.sim.park import DEMO
from tests.kits.raw_client import PtyClient, mbap, rtu, rtu_answer

pytestmark = pytest.mark.process

COMMAND = [sys.executable, "-m", "agent.cli.main", "simulate"]
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(
    *args: str, lines: int = 1, stdin: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command once it has said what it serves; ended with SIGTERM, which must be clean."""
    process = subprocess.Popen(
        [*COMMAND, *args], cwd=ROOT, text=True, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    try:
        yield process, [process.stdout.readline() for _ in range(lines)]
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        complaints = process.stderr.read()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
    assert (code, complaints) == (0, "")


def ask_tcp(port: int, request: bytes, size: int, seconds: float = 30.0) -> bytes:
    got = b""
    with socket.create_connection(("127.0.0.1", port), seconds) as link:
        link.settimeout(seconds)
        link.sendall(request)
        try:
            while len(got) < size and (chunk := link.recv(size - len(got))):
                got += chunk
        except TimeoutError:
            pass
    return got


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"protocol": "modbus", "address": 3, "holding": {"10": 7, "11": 8}}))
    return path


def test_a_dump_on_tcp_with_a_fault_from_the_start(dump: Path) -> None:
    with running("--dump", str(dump), "--fault", "busy*1", "--json") as (_, said):
        facts = json.loads(said[0])
        port = int(facts["url"].rpartition(":")[2])
        assert facts == {"device": "device", "line": "line", "url": f"modbus-tcp://127.0.0.1:{port}", "serial": None,
                         "address": "3", "profile": str(dump)}  # fmt: skip
        assert ask_tcp(port, mbap(1, 3, 3, 10, 2), 9)[-2:] == b"\x83\x06"
        assert ask_tcp(port, mbap(2, 3, 3, 10, 2), 13)[-4:] == b"\0\7\0\x08"


def test_a_profile_on_a_pty_and_commands_through_a_pipe(dump: Path, tmp_path: Path) -> None:
    link, control = tmp_path / "tty", tmp_path / "control"
    args = ("--dump", str(dump), "--pty", str(link), "--baud", "115200", "--control", str(control))
    with running(*args) as (process, said):
        assert re.search(rf"unit 3 +serial:{link} 115200 8N1", said[0])
        client = PtyClient(link)
        good = rtu_answer(3, b"\3\4\0\7\0\x08")
        assert client.ask(rtu(3, 3, 10, 2), len(good)) == good
        assert process.stdout
        control.write_text("device silence*1\n")
        assert process.stdout.readline() == "device: silence*1\n"
        assert client.ask(rtu(3, 3, 10, 2), 1, 0.05) == b""
        assert client.ask(rtu(3, 3, 10, 2), len(good)) == good
        control.write_text("line unplug 0.05\n")
        assert process.stdout.readline() == "line: unplugged for 0.05 s\n"
        assert client.read(1) == b""
        client.close()
    assert not os.path.lexists(link) and not control.exists()


def test_meters_on_a_pty_at_their_own_speed(tmp_path: Path) -> None:
    """A meter that is no Modbus is simulated as any other: it answers, and takes faults."""
    link, control = tmp_path / "tty", tmp_path / "control"
    args = ("--profile", "dlt645/2007", "--address", "161", "--address", "162", "--pty", str(link),
            "--control", str(control), "--json")  # fmt: skip
    with running(*args, lines=2) as (process, said):
        assert [(json.loads(line)["address"], json.loads(line)["serial"]) for line in said] == [
            ("000000000161", "2400 8E1"),
            ("000000000162", "2400 8E1"),
        ]
        client = PtyClient(link)
        asked = build_read("000000000162", "00010000")
        answer = client.ask(asked, 20)
        assert Parser().feed(answer)[0].address == "000000000162"
        assert process.stdout
        control.write_text("device2 silence*1\n")
        assert process.stdout.readline() == "device2: silence*1\n"
        assert client.ask(asked, 1, 0.3) == b""
        client.close()


def test_the_park_lists_all_that_it_serves(here: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, said, complaints = here("--park", str(tmp_path), "--fault", "tower silence", "--json", "--for", "0.1s")
    assert (code, complaints) == (0, "")
    *devices, config = [json.loads(line) for line in said.splitlines()]
    assert [facts["device"] for facts in devices] == [slot.name for slot in DEMO]
    assert {facts["serial"] for facts in devices} == {None, "9600 8N1", "2400 8E1"}
    assert config == {"config": str(tmp_path / "agent.toml")}


def test_commands_from_standard_input_and_their_complaints(dump: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--dump", str(dump), "--stdin", "--for", "10s"], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdout.readline()
    for command, said in (
        ("status", "device: asked nothing; answered 0; no faults"),
        ("* late=0.5 # a comment", "device: late=0.5"),
        ("device clear", "device: no faults"),
        ("line say 00 FF", "line: sent 2 bytes"),
        ("line unplug", "line: unplugged"),
        ("line plug", "line: plugged"),
    ):
        process.stdin.write(command + "\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == said
    for command, complaint in (
        ("device silense", 'Did you mean "silence"'),
        ("inv1 silence", "no device 'inv1'. Here: device"),
        ("device", "the target is not followed by a command"),
        ("line say me", "'me' is not hex"),
        ("line unplug soon", "'soon' is not a number of seconds"),
        ("device silence now", "'now' is unexpected"),
    ):
        process.stdin.write(command + "\n")
        process.stdin.flush()
        assert complaint in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()
    process.stderr.close()


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: code, output, complaints."""

    def run(*args: str) -> tuple[int, str, str]:
        code = outcome(["simulate", *args])
        return code, *capsys.readouterr()

    return run


def test_it_ends_by_itself(here: Callable[..., tuple[int, str, str]]) -> None:
    code, said, complaints = here("--profile", "eastron/sdm630", "--unit", "1", "--unit", "9", "--for", "0.1s")
    assert (code, complaints) == (0, "")
    assert [line.split()[:4] for line in said.splitlines()] == [
        ["device1", "eastron/sdm630", "unit", "1"],
        ["device2", "eastron/sdm630", "unit", "9"],
    ]


@pytest.mark.parametrize(
    ("args", "code", "complaint"),
    [
        ((), 2, "give one of --profile, --dump and --park"),
        (("--profile", "eastron/sdm360"), 3, 'Did you mean "eastron/sdm630"'),
        (("--profile", "eastron/sdm630", "--listen", "here"), 2, "'here' is not HOST:PORT"),
        (("--profile", "eastron/sdm630", "--fault", "gone"), 2, 'unknown fault "gone"'),
        (("--profile", "eastron/sdm630", "--unit", "1", "--unit", "1"), 2, "unit id 1 is already on this line"),
        (("--profile", "eastron/sdm630", "--role", "sun"), 2, "has no role 'sun'"),
        (("--profile", "eastron/sdm630", "--param", "racks"), 2, '"racks" is not NAME=VALUE'),
        (("--dump", "/nowhere.json"), 3, "/nowhere.json: cannot be read: No such file"),
        (("--profile", "dlt645/2007", "--unit", "1"), 2, "of this kind needs --address"),
        (("--profile", "eastron/sdm630", "--address", "1"), 2, "of this kind needs --unit"),
        (("--profile", "mbus/heat", "--address", "x"), 2, "'x'"),
        (("--park", "/nowhere/x", "--pty", "/nowhere/y"), 2, "the park has its own lines"),
    ],
)
def test_wrong_usage_is_explained(
    here: Callable[..., tuple[int, str, str]], args: tuple[str, ...], code: int, complaint: str
) -> None:
    got, said, complaints = here(*args)
    assert (got, said) == (code, "") and complaint in complaints and "Traceback" not in complaints


def test_a_taken_port_is_named(here: Callable[..., tuple[int, str, str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, complaints = here("--profile", "eastron/sdm630", "--listen", place)
    assert code == 4 and place in complaints and "Traceback" not in complaints


def test_an_agent_runs_against_the_park_as_the_page_says(tmp_path: Path) -> None:
    """The commands of docs/simulator.md: without the key in between `run` ends at once. The folder is one that a user
    may have: its lines were once refused for their spaces.
    """
    folder = str(tmp_path / "my park 园区")
    page = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    found = re.search(r"```console\n\$ meterhouse simulate --park /tmp/park &\n(.*?)```", page, re.DOTALL)
    assert found
    lines = [line.removeprefix("$ ").split() for line in found[1].splitlines()]
    lines = [[word.replace("/tmp/park", folder) for word in words] for words in lines]
    assert [words[0] for words in lines] == ["mkdir", "meterhouse", "meterhouse"]
    assert lines[1][1:3] == ["keys", "create"]
    ours = [sys.executable, "-m", "agent.cli.main"]
    commands = [[*ours, *words[1:]] if words[0] == "meterhouse" else words for words in lines]
    with running("--park", folder, "--json", lines=12):
        for command in commands[:2]:
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=200)
        agent = subprocess.Popen(commands[2], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert agent.stderr
        for line in agent.stderr:
            if "serving 11 devices" in line or line.startswith("error"):
                break
        agent.send_signal(signal.SIGTERM)
        agent.stderr.read()
        agent.stderr.close()
        assert agent.wait(60) == 0 and "serving 11 devices" in line, line
