"""A line lent over the control socket: lent while the connection is open, at most 15 minutes, and then ours again."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli.lease import BorrowedLine, borrow_line
from agent.service.control import running as running_requests
from agent.service.control.peer import Caller
from agent.service.control.protocol import LONGEST_LEASE_S, Lease
from agent.verify.files import read_paths
from drivers.line import LineConfig, open_line
from drivers.modbus.requests import read_request
from drivers.model import Limits, LineDown, LineLent
from tests.kits.control import Served, service
from tests.kits.house import ROOT, Agent, Field, House, Meter, until

Mh = Callable[..., tuple[int, str, str]]
HOLDER = """
import sys
from pathlib import Path
from agent.cli.lease import BorrowedLine
with BorrowedLine(Path(sys.argv[1]), sys.argv[2], "read", 60):
    print("lent", flush=True)
    sys.stdin.read()
"""


class Lending(Served):
    """A control server with one line, "l0"."""

    def __init__(self, folder: Path, url: str) -> None:
        self.line = open_line(LineConfig("l0", url))
        super().__init__(folder, service(lines={"l0": self.line}))

    def borrow(self, seconds: float = 60) -> BorrowedLine:
        return BorrowedLine(self.runtime, "l0", "read", seconds)


@pytest.fixture
def lending(tmp_path: Path) -> Iterator[Lending]:
    with Lending(tmp_path, "modbus-tcp://127.0.0.1:1") as running:
        yield running


def holder(runtime: Path, line: str) -> subprocess.Popen[bytes]:
    """A tool in a process of its own that has the line now."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(runtime), line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == b"lent\n"
    return process


def test_a_lease_lasts_as_long_as_its_connection(lending: Lending) -> None:
    with lending.borrow():
        assert lending.line.lent.startswith("read by ") and "uid" in lending.line.lent
    until(lambda: lending.line.lent == "")
    with lending.borrow():
        assert lending.line.lent


@pytest.mark.process
def test_a_lease_ends_with_its_process(lending: Lending) -> None:
    """kill -9, and nothing has to be cleaned up by anybody."""
    process = holder(lending.runtime, "l0")
    assert lending.line.lent
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: lending.line.lent == "")


def test_a_second_tool_hears_who_has_the_line(lending: Lending) -> None:
    with lending.borrow():
        with pytest.raises(LineLent, match=r"for this command\. the line is lent to read by .*uid"), lending.borrow():
            pass
        assert lending.line.lent
    with (
        pytest.raises(LineDown, match=r"no \[\[line\]\] is named 'x'.*Lines: l0"),
        BorrowedLine(lending.runtime, "x", "read", 60),
    ):
        pass


def test_no_lease_is_longer_than_15_minutes(made_up_time: Any) -> None:
    """By a clock that is made up; the request cannot ask for more."""
    line, parts, rested = open_line(LineConfig("l0", "modbus-tcp://127.0.0.1:1")), list[Any](), []

    class Reply:
        async def part(self, data: bytes) -> None:
            parts.append((made_up_time.time(), json.loads(data), line.lent))

        def progress(self, done: int, total: int) -> None: ...

        def rest(self) -> None:
            rested.append(len(parts))

    class Access:
        service, caller, config = service(lines={"l0": line}), Caller(1002, "anna"), None

    async def run() -> Any:
        request = Lease(line="l0", purpose="scan")
        return await running_requests.answer(Access(), request, Reply())  # type: ignore[arg-type]

    result = made_up_time.run_until_complete(run())
    assert result == {"ended": f"the requested lease of {LONGEST_LEASE_S} s has ended"} and LONGEST_LEASE_S == 900
    ((began, said, lent),) = parts
    assert made_up_time.time() - began == pytest.approx(900, abs=0.1)
    assert said == {"line": "l0", "url": "modbus-tcp://127.0.0.1:1"} and lent == "scan by anna (uid 1002)"
    assert rested == [0] and line.lent == "", "the line is ours again; and no beat filled the socket meanwhile"


def test_a_line_that_does_not_come_free_is_not_lent(made_up_time: Any) -> None:
    """Its device takes a minute for an answer that never comes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"modbus-tcp://127.0.0.1:{silent.getsockname()[1]}"
        line = open_line(LineConfig("l0", url, limits=Limits(timeout_s=60.0)))

        class Access:
            service, caller, config = service(lines={"l0": line}), Caller(1002, "anna"), None

        async def run() -> None:
            asking = asyncio.create_task(line.exchange(read_request(1, 3, 0, 1, "asked")))
            while not line.stats.sent:  # noqa: ASYNC110 - a line has no event for it
                await asyncio.sleep(0.001)
            try:
                await running_requests.answer(Access(), Lease(line="l0", purpose="scan"), None)  # type: ignore[arg-type]
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                await line.close()

        with pytest.raises(LineLent, match="did not finish within 30 s"):
            made_up_time.run_until_complete(run())
        assert line.lent == ""


def test_a_lease_whose_time_is_over_ends_the_tools_work(lending: Lending) -> None:
    with lending.borrow(0.05) as owner, pytest.raises(LineLent, match="the agent has taken back the line"):
        owner.run(asyncio.sleep(60))
    assert lending.line.lent == ""


def test_an_agent_that_stops_takes_its_line_back(tmp_path: Path) -> None:
    """Another agent opens the port soon: nobody else may talk there then."""
    with Lending(tmp_path, "modbus-tcp://127.0.0.1:1") as lending, lending.borrow() as owner:
        lending.stop()
        with pytest.raises(LineLent, match="the agent has taken back the line"):
            owner.run(asyncio.sleep(60))


def test_a_line_that_a_reload_exchanges_is_taken_back(lending: Lending) -> None:
    with lending.borrow() as owner:
        lending.do(lending.line.close())
        with pytest.raises(LineLent, match="the agent has taken back the line"):
            owner.run(asyncio.sleep(60))


def test_work_with_a_borrowed_line_is_work(lending: Lending) -> None:
    async def work(error: Exception | None = None) -> str:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return "done"

    with lending.borrow() as owner:
        assert owner.run(work()) == "done"
        with pytest.raises(ZeroDivisionError):
            owner.run(work(ZeroDivisionError()))
        assert owner.run(work()) == "done" and lending.line.lent and owner.limit_s == 60


KILLED = {"pid": 1 << 30, "time": 1.0, "ring": "ring.0", "lines": {"roof": {"url": "tcp://h:1"}}}


def test_where_no_agent_runs_there_is_nobody_to_ask(tmp_path: Path) -> None:
    """No folder, no snapshot of this line, or the snapshot of one that was killed."""
    (tmp_path / "snapshot.json").write_text(json.dumps(KILLED))
    for folder, url in ((tmp_path / "none", "tcp://h:1"), (tmp_path, "tcp://other:1"), (tmp_path, "tcp://h:1")):
        with borrow_line(folder, url, "read", 60) as owner:
            assert owner.run(asyncio.sleep(0, "free")) == "free" and owner.limit_s is None


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.symlink_to("other.json"), "cannot be read"),  # as for a user outside the group
        (lambda path: path.write_text("[]"), "not a snapshot of an agent"),
    ],
)
def test_a_port_is_not_opened_if_it_is_unknown_whose_it_is(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    """Such a snapshot counted as "no agent runs", and tools opened lines that the agent was polling."""
    spoil(tmp_path / "snapshot.json")
    with pytest.raises(LineDown, match=f"cannot borrow the line from the running agent: .*{says}"):
        borrow_line(tmp_path, "tcp://h:1", "read", 60)


# --- a real agent


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as made:
        yield made


def one_line(house: House, field: Field | None = None) -> tuple[Agent, str]:
    bus = house.field.serial(house.folder / "tty", Meter(1))
    agent = house.agent(None, {"cabinet": bus}, {"m1": ("cabinet", 1)})
    agent.start()
    until(lambda: agent.snapshot()["devices"]["m1"]["readings"] > 0, 20, lambda: agent.said)
    return agent, bus.url


@pytest.mark.process
def test_tools_borrow_the_port_of_a_running_agent(house: House, mh: Mh) -> None:
    # field pain 19: exactly one owner a port
    agent, url = one_line(house)
    code, out, err = mh("read", "m1", "-c", agent.config, "--json")
    assert code == 0 and len(out.splitlines()) > 2, err
    assert "lent to read by " in agent.said
    line = ("--line", url, "--serial", "38400 8N1", "--runtime-dir", agent.runtime)
    for device in (("m1", "-c", agent.config), (*line, "--address", "1")):
        code, out, err = mh("read", *device, "--registers", "3:0+2,4:0+2", "--repeat=2", "--pause=10ms", "--json")
        assert '"word":' in out, err
    code, out, err = mh("scan", *line, "--protocol", "modbus", "--addresses", "1", "--no-identify", "--quick", "--json",
                        "--listen", "0.1")  # fmt: skip
    assert code == 0 and json.loads(out)["address"] == "1", err
    assert "lent to scan by " in agent.said
    mh("identify", *line[:4], "--address", "1", "--runtime-dir", agent.runtime, "--json")
    assert "lent to identify by " in agent.said
    before = agent.snapshot()["devices"]["m1"]["readings"]
    until(lambda: agent.snapshot()["devices"]["m1"]["readings"] > before, 20, lambda: agent.said)
    assert agent.said.count("lease ended") == 5
    assert agent.stop() == 0


@pytest.mark.process
def test_what_was_due_while_a_line_was_lent_is_a_gap_lent(house: House, mh: Mh, tmp_path: Path) -> None:
    """A tool that is killed, an agent that is stopped and one that is killed while its line is lent: each is stated."""
    agent, _ = one_line(house)

    def lent_for_a_while() -> subprocess.Popen[bytes]:
        process = holder(agent.runtime, "cabinet")
        assert agent.process
        until(lambda: agent.snapshot()["lines"]["cabinet"]["lent"], 20, lambda: agent.said)
        lent = agent.snapshot()["time"]
        until(lambda: agent.snapshot()["time"] > lent + 1.5, 20, "three ticks passed")
        return process

    def end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.communicate()

    process = lent_for_a_while()
    end(process)
    before = agent.snapshot()["devices"]["m1"]["readings"]
    until(lambda: agent.snapshot()["devices"]["m1"]["readings"] > before, 20, lambda: agent.said)
    process = lent_for_a_while()
    assert agent.stop() == 0
    end(process)
    agent.start()
    process = lent_for_a_while()
    agent.kill()
    end(process)
    agent.start()
    until(lambda: agent.snapshot()["devices"]["m1"]["readings"] > 0, 20, lambda: agent.said)
    assert agent.stop() == 0
    code, _, err = mh("export", tmp_path / "out", "-c", agent.config)
    assert code == 0, err
    from agent.verify import Verdict, Verifier

    verifier = Verifier([agent.kid])
    read_paths(verifier, [tmp_path / "out"])
    report = verifier.finish()
    assert report.verdict is Verdict.VERIFIED, report.reasons
    packs = [json.loads(line) for line in (tmp_path / "out/packs/m1.packs.jsonl").read_text().splitlines()]
    boots = {pack["boot"] for pack in packs if any(gap["reason"] == "lent" for gap in pack.get("gaps", ()))}
    assert packs[0]["boot"] in boots and len(boots) >= 2, "what the ring held at the kill is sealed by the next start"
    assert len({pack["boot"] for pack in packs}) == 3
