"""Lending a line to a tool of another process, and the frames of a line as others see them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from linekit import Field, ask, ask_while, sim_device, words

from drivers.line import FrameTrace, Lease, LeaseDesk, frames_each, read_trace
from drivers.line.trace import NOISE, RECEIVED, SENT
from drivers.model import LineLent, LineTimeout, UsageError

HOLDER = """
import sys, time
from pathlib import Path
from drivers.line import Lease
with Lease(Path(sys.argv[1]), "l0", 60, "read by test"):
    print("lent", flush=True)
    sys.stdin.read()
"""


async def test_a_tool_gets_the_port_and_the_agent_yields(field: Field, tmp_path: Path) -> None:
    """The agent finishes its request, closes its port, says ``lent``, and takes the line back by itself."""
    sim = await field.pty(sim_device())
    line = field.line(sim, desk=LeaseDesk(tmp_path / "leases"))
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    lease = Lease(tmp_path / "leases", line.name, 60, "read by anna", wait_s=5)
    taking = asyncio.ensure_future(asyncio.to_thread(lease.__enter__))
    async with asyncio.timeout(5):
        while not taking.done():
            await line.burst([ask()], line.manners())
            await asyncio.sleep(0.01)
    (error,) = await line.burst([ask()], line.manners())
    assert isinstance(error, LineLent) and "read by anna" in str(error) and line.lent == "read by anna"
    tool = field.line(sim)  # the port is free: it locks its users out
    assert (await tool.exchange(ask(5, 1))).payload == words(5)
    await tool.close()
    lease.__exit__(None, None, None)
    assert (await ask_while(line, ask(2, 1), LineLent)).payload == words(2)
    assert line.lent == "" and not list((tmp_path / "leases").glob("*.lent"))


async def test_a_lease_ends_with_its_process(field: Field, tmp_path: Path) -> None:
    line = field.line(await field.tcp(sim_device()), desk=LeaseDesk(tmp_path / "leases"))
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    holder = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", HOLDER, str(tmp_path / "leases")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert holder.stdout is not None
    granted = asyncio.ensure_future(asyncio.to_thread(holder.stdout.readline))
    async with asyncio.timeout(10):
        while not granted.done():
            await line.burst([ask()], line.manners())
            await asyncio.sleep(0.01)
    assert isinstance((await line.burst([ask()], line.manners()))[0], LineLent)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (await ask_while(line, ask(3, 1), LineLent)).payload == words(3)


async def test_a_lease_ends_when_its_time_is_over(field: Field, tmp_path: Path) -> None:
    line = field.line(await field.tcp(sim_device()), desk=LeaseDesk(tmp_path / "leases"))
    lease = Lease(tmp_path / "leases", line.name, 0.4, "short", wait_s=5)
    taking = asyncio.ensure_future(asyncio.to_thread(lease.__enter__))
    began = time.monotonic()
    lent = 0
    async with asyncio.timeout(5):
        while True:
            (answer,) = await line.burst([ask()], line.manners())
            lent += isinstance(answer, LineLent)
            if lent and not isinstance(answer, LineLent):
                break
            await asyncio.sleep(0.01)
    await taking
    assert time.monotonic() - began >= 0.35
    lease.__exit__(None, None, None)


def test_a_second_tool_is_refused(tmp_path: Path) -> None:
    desk = LeaseDesk(tmp_path)
    stop = threading.Event()

    def agent() -> None:
        while not stop.wait(0.01):
            if desk.holder("a"):
                desk.grant("a")

    thread = threading.Thread(target=agent)
    thread.start()
    with Lease(tmp_path, "a", 60, "first", wait_s=5):
        with pytest.raises(LineLent), Lease(tmp_path, "a", 60, "second", wait_s=5):
            pass
        assert desk.holder("b") == ""
    with Lease(tmp_path, "a", 60, "third", wait_s=5):
        pass
    stop.set()
    thread.join()


def test_without_an_agent_a_lease_is_not_granted(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="is one running"), Lease(tmp_path, "a", 60, "x", wait_s=0.1):
        pass
    assert not list(tmp_path.iterdir())
    for seconds in (0, 901):
        with pytest.raises(UsageError, match="lease of"):
            Lease(tmp_path, "a", seconds, "x")


def test_the_desk_survives_what_it_finds(tmp_path: Path) -> None:
    (tmp_path / "a.ask").write_text("{half")
    (tmp_path / "b.ask").write_text('{"until": 1e12, "who": "nobody holds it"}')
    (tmp_path / "c.lent").write_text("{}")
    desk = LeaseDesk(tmp_path)
    assert desk.holder("a") == desk.holder("b") == ""
    assert not (tmp_path / "b.ask").exists() and not (tmp_path / "c.lent").exists()


async def test_frames_are_seen_by_others(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "frames"
    sim = await field.tcp(sim_device())
    line = field.line(sim, trace=FrameTrace(path, 50))
    began = time.time_ns()
    await line.exchange(ask(1, 2))
    request, answer = read_trace(path)
    assert request.direction == SENT and request.data == bytes.fromhex("0001 0000 0006 01 03 0001 0002")
    assert answer.direction == RECEIVED and answer.data == bytes.fromhex("0001 0000 0007 01 03 04 0001 0002")
    assert began <= request.time_ns <= answer.time_ns <= time.time_ns()
    sim.say(bytes.fromhex("7777 0000 0005 01 03 02 0009"))
    await line.exchange(ask(1, 2))
    assert len(list(read_trace(path, after=2))) == 3


async def test_serial_frames_and_noise_are_seen(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "frames"
    device = sim_device()
    sim = await field.pty(device)
    line = field.line(sim, trace=FrameTrace(path), timeout_s=0.03)
    await line.exchange(ask(1, 2))
    device.faults.set("late=0.05*1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask(1, 2))
    await asyncio.sleep(0.05)
    frames = list(read_trace(path))
    assert b"".join(f.data for f in frames if f.direction == SENT) == ask(1, 2).frame * 2
    assert len(b"".join(f.data for f in frames if f.direction == RECEIVED)) == 9
    assert len(b"".join(f.data for f in frames if f.direction == NOISE)) == 9


def test_the_trace_keeps_the_last_frames_and_tears_none(tmp_path: Path) -> None:
    """A reader in another thread beside a busy writer sees each frame whole, in order, and only once."""
    path = tmp_path / "frames"
    trace = FrameTrace(path, 20)
    stop = threading.Event()
    wrong: list[str] = []

    def look() -> None:
        after = 0
        while not stop.is_set():
            for frame in read_trace(path, after):
                if frame.number <= after or len(set(frame.data)) > 1 or frame.data[:1] != bytes((frame.number % 256,)):
                    wrong.append(f"{frame.number} after {after}: {frame.data[:4].hex()}")
                after = frame.number

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 20_000):
        trace.put(SENT, bytes((number % 256,)) * (1 + number % 300), number)
    stop.set()
    thread.join()
    trace.close()
    assert not wrong
    frames = list(read_trace(path))
    assert [f.number for f in frames] == list(range(19_981, 20_000))
    assert max(len(f.data) for f in frames) <= 268


def test_a_trace_is_bounded_and_checked(tmp_path: Path) -> None:
    assert frames_each(1) == 2000 and frames_each(100) * 100 * 288 <= 8 << 20 and frames_each(10_000) == 50
    FrameTrace(tmp_path / "t", 10).close()
    assert (tmp_path / "t").stat().st_size == 4096 + 10 * 288 and os.stat(tmp_path / "t").st_mode & 0o777 == 0o640
    assert list(read_trace(tmp_path / "t")) == []
    (tmp_path / "other").write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="not a frame trace"):
        list(read_trace(tmp_path / "other"))
