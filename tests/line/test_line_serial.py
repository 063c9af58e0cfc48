"""Serial lines over real pseudo-terminals with byte times, and raw TCP, which carries the same bytes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import tty
from pathlib import Path

import pytest

from drivers.line import LineConfig, SerialSetting, crc16, open_line, warnings
from drivers.model import ConfigError, DeviceException, FrameError, LineDown, LineTimeout, MismatchError
from tests.kits.lines import Field, ask, ask_while, open_files, sim_device, words


def rtu(unit: int, *pdu: int) -> bytes:
    body = bytes((unit, *pdu))
    return body + crc16(body).to_bytes(2, "little")


async def test_answers_come_at_their_byte_times_and_the_quiet_time_is_kept(field: Field) -> None:
    sim = await field.pty(sim_device(), baud=9600)
    line = field.line(sim)
    for n in range(3):
        answer = await line.exchange(ask(n, 2))
        assert answer.payload == words(n, n + 1) and not answer.suspect
    assert sim.quiet_min_s >= 3.5 * 11 / 9600 * 0.98 and sim.collisions == 0


async def test_a_line_is_used_to_what_the_wire_allows(field: Field) -> None:
    """Five healthy devices at 9600 baud: at least 0.95 of what bytes, t3.5 and turnaround leave."""
    sim = await field.pty(*(sim_device(unit, turnaround_s=0.005) for unit in range(1, 6)), baud=9600)
    line = field.line(sim)
    requests = [ask(0, 20, unit=unit) for unit in range(1, 6)]
    await line.exchange(requests[0])
    best = 0.0
    for _ in range(5):  # a busy machine may spoil a round, not all of them
        began = time.monotonic()
        for request in requests:
            await line.exchange(request)
        best = max(best, 5 * sim.exchange_s(8, 45, 0.005) / (time.monotonic() - began))
        if best >= 0.95:
            break
    assert best >= 0.95


async def test_a_dead_unit_costs_its_timeout_and_spoils_nobody_elses_answer(field: Field) -> None:
    """field pains 1 and 9."""
    sim = await field.pty(sim_device(1), sim_device(3))
    line = field.line(sim, timeout_s=0.03)
    for n in range(5):
        for unit in (1, 2, 3):
            if unit == 2:
                with pytest.raises(LineTimeout):
                    await line.exchange(ask(unit=2))
            else:
                answer = await line.exchange(ask(n, 1, unit=unit))
                assert answer.payload == words(n) and not answer.suspect
    assert line.stats.timeouts == 5 and line.stats.broken == 0


async def test_after_a_timeout_the_next_value_of_that_device_is_suspect(field: Field) -> None:
    """field pain 11: RTU has no number to tell a late answer by."""
    device, other = sim_device(1), sim_device(2)
    line = field.line(await field.pty(device, other), timeout_s=0.03)
    device.faults.set("silence*1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask())
    assert not (await line.exchange(ask(unit=2))).suspect, "another address cannot be mistaken"
    assert (await line.exchange(ask())).suspect
    assert not (await line.exchange(ask())).suspect


async def test_a_late_answer_between_requests_is_thrown_away(field: Field) -> None:
    """field pains 10 to 12: asked 100, late; asked 0: never gets the registers of 100."""
    device = sim_device(1)
    line = field.line(await field.pty(device), timeout_s=0.03)
    device.faults.set("late=0.06*1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask(100, 2))
    await asyncio.sleep(0.06)
    for n in range(10):
        assert (await line.exchange(ask(n, 2))).payload == words(n, n + 1)
    assert line.stats.stale == 1


async def test_a_late_answer_of_another_length_is_not_taken(field: Field) -> None:
    """field pain 10: byte count is compared, and the right answer behind it still found."""
    device = sim_device(1)
    line = field.line(await field.pty(device), timeout_s=0.05)
    device.faults.set("late=0.055*1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask(100, 7))
    answer = await line.exchange(ask(0, 2))
    assert answer.payload == words(0, 1) and answer.suspect


async def test_a_panels_broadcast_is_skipped(field: Field) -> None:
    """field pain 13: frames that nobody asked for, between and within exchanges."""
    device = sim_device(1)
    sim = await field.pty(device)
    line = field.line(sim)
    await line.exchange(ask())
    device.faults.set("late=0.01")
    for n in range(5):
        asking = asyncio.ensure_future(line.exchange(ask(n, 2)))
        await asyncio.sleep(0.003)
        sim.say(rtu(0, 16, 0, 1, 0, 1, 2, 1, 3) + b"\x01\x03")
        assert (await asking).payload == words(n, n + 1)
    assert line.stats.lost == 0


async def test_another_master_is_heard_and_counted(field: Field) -> None:
    """field pain 15."""
    sim = await field.pty(sim_device())
    line = field.line(sim)
    await line.exchange(ask())
    sim.say(rtu(9, 3, 0, 0, 0, 2))
    await asyncio.sleep(0.02)
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    assert line.stats.foreign >= 1


async def test_a_line_that_is_never_silent_is_not_talked_on(field: Field) -> None:
    """field pain 15, and no wait without an end (73)."""
    master, slave = os.openpty()
    tty.setraw(slave)
    line = field.line(f"serial:{os.ttyname(slave)}", serial="9600 8N1", quiet_s=0.3)
    loop = asyncio.get_running_loop()
    asked: list[bytes] = []
    loop.add_reader(master, lambda: asked.append(os.read(master, 100)))

    def babble() -> None:
        nonlocal timer
        os.write(master, b"\x55")
        timer = loop.call_later(0.005, babble)

    timer = loop.call_later(0, babble)
    await asyncio.sleep(0.02)
    (error,) = await line.burst([ask()], line.manners())
    assert isinstance(error, FrameError) and "not been silent" in str(error)
    timer.cancel()
    loop.remove_reader(master)
    await line.close()
    os.close(master)
    os.close(slave)
    assert not asked


@pytest.mark.parametrize("fault", ["crc*1", "cut=4*1", "short=1*1", "unit=2*1"])
async def test_a_broken_or_wrong_answer_is_asked_for_once_more(field: Field, fault: str) -> None:
    device = sim_device()
    line = field.line(await field.pty(device), timeout_s=0.03)
    device.faults.set(fault)
    assert (await line.exchange(ask(5, 2))).payload == words(5, 6)
    assert line.stats.broken + line.stats.mismatches == 1 and device.requests[3] == 2


async def test_a_broken_answer_is_not_waited_for_to_the_end(field: Field) -> None:
    """On a noisy line a wrong CRC costs a tenth of a second and not the timeout."""
    device = sim_device()
    line = field.line(await field.pty(device), timeout_s=5.0)
    device.faults.set("crc*1")
    began = time.monotonic()
    answer = await line.exchange(ask(5, 2))
    assert answer.payload == words(5, 6) and not answer.suspect
    assert time.monotonic() - began < 1.0


async def test_a_line_that_is_closed_lets_nobody_wait(field: Field) -> None:
    device = sim_device()
    device.faults.set("silence")
    for sim in (await field.pty(device), await field.tcp(device)):
        line = field.line(sim, timeout_s=5.0)
        asking = asyncio.ensure_future(line.burst([ask()], line.manners()))
        await asyncio.sleep(0.02)
        await line.close()
        async with asyncio.timeout(1):
            (error,) = await asking
        assert isinstance(error, LineDown)


@pytest.mark.parametrize(("fault", "error"), [("crc", FrameError), ("short=1", MismatchError), ("unit=2", FrameError)])
async def test_what_stays_wrong_is_an_error_of_its_kind(field: Field, fault: str, error: type) -> None:
    device = sim_device()
    line = field.line(await field.pty(device), timeout_s=0.03)
    device.faults.set(fault)
    with pytest.raises(error):
        await line.exchange(ask(5, 2))


async def test_noise_before_and_answers_byte_by_byte(field: Field) -> None:
    device = sim_device()
    line = field.line(await field.pty(device), timeout_s=0.3)
    device.faults.set("stray=00FF0103")
    device.faults.set("bytewise=0.002")
    for n in range(3):
        assert (await line.exchange(ask(n, 2))).payload == words(n, n + 1)


async def test_an_answer_under_way_at_the_deadline_is_heard_to_its_end(field: Field) -> None:
    device = sim_device()
    line = field.line(await field.pty(device), timeout_s=0.02)
    device.faults.set("bytewise=0.004")
    answer = await line.exchange(ask(3, 5))
    assert answer.payload == words(3, 4, 5, 6, 7) and not answer.suspect


async def test_an_exception_behind_the_begin_of_an_answer_is_still_heard(field: Field) -> None:
    device = sim_device()
    line = field.line(await field.pty(device), timeout_s=0.05)
    device.faults.set("stray=010304")
    device.faults.set("exception=02")
    with pytest.raises(DeviceException) as caught:
        await line.exchange(ask())
    assert caught.value.code == 2


async def test_an_echo_is_taken_off_by_its_bytes(field: Field) -> None:
    """field pain 20."""
    device = sim_device()
    device.faults.set("echo")
    line = field.line(await field.pty(device), echo=True, timeout_s=0.1)
    for n in range(5):
        assert (await line.exchange(ask(n, 2))).payload == words(n, n + 1)
    assert line.stats.broken == 0 and line.stats.foreign == 0


class AnyEightBytes:
    """A question of another protocol, which cannot tell our own bytes from an answer."""

    frame, function, unit, where, expect = ask().frame, 3, 1, "unit 1", 9

    def find(self, heard: bytes, final: bool) -> bytes | None:
        return heard if len(heard) >= 8 else None


async def test_an_echo_is_taken_off_for_every_protocol(field: Field) -> None:
    """field pains 20 and 22: what looks like an answer to itself needs the count."""
    device = sim_device()
    device.faults.set("echo")
    sim = await field.pty(device)
    assert (await field.line(sim, echo=True).exchange(AnyEightBytes())).payload[:3] == bytes((1, 3, 4))


async def test_an_echo_that_nobody_announced_does_no_harm(field: Field) -> None:
    """field pain 20: the parser does not take our own request for an answer."""
    device = sim_device()
    device.faults.set("echo")
    line = field.line(await field.pty(device), timeout_s=0.1)
    for n in range(5):
        assert (await line.exchange(ask(n, 2))).payload == words(n, n + 1)


async def test_an_adapter_that_is_pulled_is_closed_and_found_again_by_its_name(field: Field) -> None:
    """field pains 16 and 17: a dead descriptor is not kept, the stable path is opened anew with a growing pause."""
    sim = await field.pty(sim_device())
    line = field.line(sim)
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    before = os.readlink(sim.link)
    await sim.unplug()
    (error,) = await line.burst([ask()], line.manners())
    assert isinstance(error, LineDown) and not line.is_open
    assert before not in open_files() and f"{before} (deleted)" not in open_files()
    for _ in range(20):
        assert isinstance((await line.burst([ask()], line.manners()))[0], LineDown)
    assert line.stats.open_failures <= 2, "a growing pause"
    await sim.plug()
    assert (await ask_while(line, ask(3, 1), LineDown)).payload == words(3)


async def test_a_pull_within_an_exchange_ends_it_at_once(field: Field) -> None:
    device = sim_device()
    device.faults.set("silence")
    sim = await field.pty(device)
    line = field.line(sim, timeout_s=5.0)
    asking = asyncio.ensure_future(line.burst([ask()], line.manners()))
    await asyncio.sleep(0.02)
    began = time.monotonic()
    await sim.unplug()
    (error,) = await asking
    assert isinstance(error, LineDown) and time.monotonic() - began < 1.0


async def test_a_port_has_one_owner(field: Field) -> None:
    """field pain 19: a second opener is refused and told why."""
    sim = await field.pty(sim_device())
    first, second = field.line(sim), field.line(sim)
    await first.exchange(ask())
    with pytest.raises(LineDown) as caught:
        await second.exchange(ask())
    assert "Another program" in caught.value.hint
    assert (await first.exchange(ask(1, 1))).payload == words(1)


async def test_a_missing_port_says_where_to_look(field: Field, tmp_path: Path) -> None:
    line = field.line(f"serial:{tmp_path / 'no-such-port'}")
    with pytest.raises(LineDown, match="No such file") as caught:
        await line.exchange(ask())
    assert "/dev/serial/by-id" in caught.value.hint


def test_an_unstable_name_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """field pain 17."""
    config = LineConfig("cabinet-2", "serial:/dev/ttyUSB1")
    assert "by-id" in warnings(config)[0]
    with caplog.at_level(logging.WARNING):
        open_line(config)
    assert "ttyUSB1" in caplog.text
    assert not warnings(LineConfig("a", "serial:/dev/serial/by-id/usb-FTDI-port0"))


async def test_devices_of_other_speeds_share_a_line(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch of the setting keeps the quiet time of the slower one; parity is asked for, though a pty has none."""
    sim = await field.pty(sim_device(), baud=2400)
    line = field.line(sim, serial="19200 8N1", timeout_s=0.02)
    slow = line.manners(serial="2400 8E1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask(0, 1))
    assert sim.wrong_baud == 1
    assert (await line.exchange(ask(0, 1), slow)).payload == words(0)
    assert line.stats.notes == {} or "8E" in line.stats.notes["serial"]


async def test_a_switch_waits_for_the_slower_of_both_speeds(field: Field) -> None:
    sim = await field.pty(sim_device(), baud=2400)
    line = field.line(sim, timeout_s=0.02)
    assert (await line.exchange(ask(0, 1))).payload == words(0)
    with pytest.raises(LineTimeout):
        await line.exchange(ask(0, 1), line.manners(serial="19200 8N1"))
    assert sim.wrong_baud == 1 and sim.quiet_min_s >= 3.5 * 11 / 2400 * 0.98


def test_a_port_that_stays_away_is_looked_for_less_and_less(made_up_time: asyncio.AbstractEventLoop) -> None:
    """field pain 3: a growing pause, half a minute at most."""

    async def a_quarter_of_an_hour() -> int:
        line = open_line(LineConfig("a", "serial:/nowhere/at/all"))
        for _ in range(900):
            assert isinstance((await line.burst([ask()], line.manners()))[0], LineDown)
            await asyncio.sleep(1)
        return line.stats.open_failures

    assert 30 <= made_up_time.run_until_complete(a_quarter_of_an_hour()) <= 36


async def test_raw_tcp_refuses_a_speed_of_its_own(field: Field) -> None:
    line = field.line("tcp://127.0.0.1:4196")
    with pytest.raises(ConfigError, match="cannot be switched") as caught:
        line.manners(serial="2400 8E1")
    assert "a line of their own" in caught.value.hint


async def test_raw_tcp_waits_out_a_late_answer_before_it_asks_that_device_again(field: Field) -> None:
    """field pains 7, 11 and 12: the connection stays, others are asked at once, the late answer harms nobody."""
    device, other = sim_device(1), sim_device(2)
    sim = await field.tcp(device, other, framing="rtu")
    line = field.line(sim, timeout_s=0.03, late_s=0.15)
    device.faults.set("late=0.1*1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask(100, 2))
    began = time.monotonic()
    assert (await line.exchange(ask(0, 2, unit=2))).payload == words(0, 1)
    assert time.monotonic() - began < 0.05, "the other device is not held up"
    answer = await line.exchange(ask(0, 2))
    assert answer.payload == words(0, 1) and answer.suspect
    assert time.monotonic() - began >= 0.1 and line.stats.stale == 1 and sim.accepted == 1


def test_serial_settings() -> None:
    setting = SerialSetting.parse("2400 8e1", "line a")
    assert (setting.baud, setting.bits, setting.parity, setting.stop) == (2400, 8, "E", 1)
    assert setting.char_s == pytest.approx(11 / 2400)
    assert setting.quiet_s == pytest.approx(0.016042, rel=1e-3)
    assert SerialSetting.parse("115200 8N1", "").quiet_s == 0.00175
    for wrong in ("9600", "9600 8X1", "9601 8N1", "", "9600-8-N-1"):
        with pytest.raises(ConfigError, match="not understood"):
            SerialSetting.parse(wrong, "line a")


async def test_rs485_says_what_the_kernel_answered(field: Field) -> None:
    """field pain 21: a pty has no such ioctl; the line goes on and the result is a fact of its status."""
    line = field.line(await field.pty(sim_device()), rs485=True)
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    assert line.stats.notes["rs485"].startswith("refused")


async def test_an_asker_that_is_cancelled_leaves_a_clean_serial_line(field: Field) -> None:
    device = sim_device()
    line = field.line(await field.pty(device))
    device.faults.set("late=0.03*1")
    asking = asyncio.ensure_future(line.exchange(ask(100, 2)))
    await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0.04)
    answer = await line.exchange(ask(0, 2))
    assert answer.payload == words(0, 1) and answer.suspect
