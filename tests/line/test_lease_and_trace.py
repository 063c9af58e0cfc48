"""Lending a line to a tool of another process, and the frames of a line as others see them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from drivers.line import FrameTrace, LineConfig, SerialSetting, frames_each
from drivers.line.config import Target
from drivers.line.port import Port
from drivers.line.stats import AnswerCounts
from drivers.line.trace import BROKEN, NOISE, RECEIVED, SENT, read_trace
from drivers.model import DeviceException, LineDown, LineLent, LineTimeout
from tests.kits.lines import Field, Ports, ask, sim_device, words


async def test_who_borrows_a_line_gets_its_port(ports: Ports) -> None:
    """The line finishes its request, closes its port, says ``lent``, and is ours again when the lease ends."""
    sim = await ports.pty(sim_device())
    line = ports.line(sim)
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    lease = await line.lend("read by anna")
    assert not line.is_open and line.lent == "read by anna"
    (error,) = await line.burst([ask()], line.request_options())
    assert isinstance(error, LineLent) and "read by anna" in str(error)
    tool = ports.line(sim)  # the port is free: it locks its users out
    assert (await tool.exchange(ask(5, 1))).payload == words(5)
    await tool.close()
    lease.end()
    lease.end()
    assert line.lent == "" and lease.over.is_set()
    assert (await line.exchange(ask(2, 1))).payload == words(2)


async def test_a_request_under_way_is_finished_first(field: Field) -> None:
    """What came is kept; what waits for its turn is not asked any more."""
    device = sim_device()
    device.faults.set("late=0.1")
    line = field.line(await field.tcp(device))
    first = asyncio.ensure_future(line.burst([ask(1, 1)], line.request_options()))
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(line.burst([ask(2, 1)], line.request_options()))
    await asyncio.sleep(0)
    lease = await line.lend("scan by anna")
    (answer,) = await first
    assert not isinstance(answer, LineLent) and answer.payload == words(1)  # type: ignore[union-attr]
    assert isinstance((await waiting)[0], LineLent)
    lease.end()


async def test_a_silent_device_is_not_asked_again_when_the_line_is_wanted(field: Field) -> None:
    """Retries would keep whoever borrows it waiting."""
    device = sim_device()
    device.faults.set("silence")
    sim = await field.tcp(device)
    line = field.line(sim, timeout_s=0.05, retries=200)
    busy = asyncio.ensure_future(line.burst([ask(1, 1)], line.request_options()))
    async with asyncio.timeout(10):
        while not line.stats.timeouts:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        lease = await line.lend("read by anna")
    assert isinstance((await busy)[-1], LineLent) and line.stats.timeouts < 100
    lease.end()


async def test_a_second_borrower_is_refused(field: Field) -> None:
    line = field.line(await field.tcp(sim_device()))
    lease = await line.lend("read by anna")
    with pytest.raises(LineLent, match="lent to read by anna"):
        await line.lend("scan by li")
    lease.end()
    (await line.lend("scan by li")).end()


async def test_closing_a_line_ends_its_lease(field: Field) -> None:
    """A reload that exchanges the line, or the agent's stop: the one who has it is told."""
    line = field.line(await field.tcp(sim_device()))
    lease = await line.lend("read by anna")
    await line.close()
    assert lease.over.is_set() and line.lent == ""


@pytest.mark.parametrize("kind", ["tcp", "pty"])
async def test_a_line_that_is_closed_during_a_request_stays_closed(field: Field, kind: str) -> None:
    """The request that was under way opened the port again, and nobody closed it: the next owner of the port, such as
    the line of a new configuration, then shared it.
    """
    device = sim_device()
    line = field.line(await (field.tcp(device) if kind == "tcp" else field.pty(device)))
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    device.faults.set("late=0.8*1")
    under_way = asyncio.ensure_future(line.burst([ask(1, 1)], line.request_options()))
    waiting = asyncio.ensure_future(line.burst([ask(2, 1)], line.request_options()))
    await asyncio.sleep(0.2)
    await line.close()
    for burst in (under_way, waiting):
        (error,) = await burst
        assert isinstance(error, LineDown) and error.what == "closed"
    assert not line.is_open
    assert (await line.exchange(ask(3, 1))).payload == words(3), "a later request opens it again"


async def test_a_port_that_opens_after_its_line_was_closed_is_closed(field: Field) -> None:
    sim = await field.tcp(sim_device())
    opened: list[Port] = []

    async def slow(config: LineConfig, target: Target, setting: SerialSetting | None) -> Port:
        await asyncio.sleep(1)
        opened.append(await sim.open_port(config, target, setting))
        return opened[0]

    line = field.line("modbus-tcp://meter.test:502", opener=slow)
    opening = asyncio.ensure_future(line.burst([ask(1, 1)], line.request_options()))
    await asyncio.sleep(0.5)
    await line.close()
    (error,) = await opening
    assert isinstance(error, LineDown) and not line.is_open and opened[0].fd == -1


async def test_who_stops_waiting_for_a_line_leaves_it_as_it_was(field: Field) -> None:
    device = sim_device()
    device.faults.set("late=0.2*1")
    line = field.line(await field.tcp(device))
    first = asyncio.ensure_future(line.burst([ask(1, 1)], line.request_options()))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await line.lend("read by anna")
    assert line.lent == "" and not isinstance((await first)[0], LineLent)


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


async def test_a_broken_answer_is_marked_and_counted_for_its_device(field: Field, tmp_path: Path) -> None:
    """Asked again, it is no gap: without this nobody would hear of a bad wire before readings are lost."""
    path = tmp_path / "frames"
    bad, good = sim_device(), sim_device(2)
    line = field.line(await field.pty(bad, good), trace=FrameTrace(path), timeout_s=0.2)
    bad.faults.set("crc*1")
    await line.exchange(ask(1, 2))
    bad.faults.set("cut=4*1")
    await line.exchange(ask(1, 2))
    bad.faults.set("unit*1")
    await line.exchange(ask(1, 2))
    bad.faults.clear()
    bad.faults.set("exception=02*1")
    with pytest.raises(DeviceException):
        await line.exchange(ask(1, 2))
    await line.exchange(ask(2, 2, unit=2))
    marks = [frame.data.decode() for frame in read_trace(path) if frame.direction == BROKEN]
    assert marks[0] == "the answer of 9 bytes has a wrong CRC"
    assert "4 bytes, but no frame" in marks[1] and len(marks) == 3
    first, other = line.stats.devices[ask(1, 2).where], line.stats.devices["unit 2"]
    assert (first.sound, first.broken + first.mismatches) == (4, 3)
    assert (other.sound, other.broken, other.mismatches) == (1, 0, 0)


def test_counts_of_answers_forget_what_is_older_than_ten_minutes() -> None:
    counts, minute = AnswerCounts(), 60 * 10**9
    assert counts.recent(0) == (0, 0, 0)
    for n in range(40):
        counts.sound += 10
        counts.broken += n < 5
        counts.mismatches += n == 0
        sound, broken, mismatches = counts.recent((n + 1) * minute)
        assert sound == 10 * min(n + 1, 10) and broken <= 5
    assert (broken, mismatches) == (0, 0)


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
