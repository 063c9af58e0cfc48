"""Serial lines, and raw TCP with the same bytes: what is about time runs on wires, what is about ports on real ones."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from drivers.framing import crc16
from drivers.line import LineConfig, SerialSetting, open_line
from drivers.line.bytelink import LATE_NS
from drivers.model import ConfigError, DeviceException, FrameError, Limits, LineDown, LineTimeout, MismatchError
from drivers.sim.bus import quiet_s
from tests.kits.lines import Field, Ports, ask, ask_while, came, hasty, open_files, sim_device, words
from tests.kits.wires import mono_ns


def rtu(unit: int, *pdu: int) -> bytes:
    body = bytes((unit, *pdu))
    return body + crc16(body).to_bytes(2, "little")


async def test_answers_come_at_their_byte_times_and_the_quiet_time_is_kept(ports: Ports) -> None:
    sim = await ports.pty(sim_device(), baud=9600)
    line = ports.line(sim)
    for n in range(3):
        answer = await line.exchange(ask(n, 2))
        assert answer.payload == words(n, n + 1) and not answer.suspect
    assert sim.quiet_min_s >= 3.5 * 11 / 9600 * 0.98 and sim.collisions == 0


async def test_a_line_is_used_to_what_the_wire_allows(field: Field) -> None:
    """Five healthy devices at 9600 baud: at least 0.95 of what bytes, t3.5 and turnaround leave."""
    line = field.line(await field.pty(*(sim_device(unit, turnaround_s=0.005) for unit in range(1, 6)), baud=9600))
    requests = [ask(0, 20, unit=unit) for unit in range(1, 6)]
    await line.exchange(requests[0])
    began = mono_ns()
    for request in requests:
        await line.exchange(request)
    ideal_s = 5 * ((8 + 45) * 11 / 9600 + 0.005 + quiet_s(9600))
    assert 0.95 <= ideal_s / ((mono_ns() - began) / 1e9) <= 1.001


async def test_the_time_on_the_wire_is_not_the_devices(field: Field) -> None:
    """A timeout counts from the end of the request to the begin of the answer, whatever the speed."""
    line = field.line(await field.pty(sim_device(), baud=2400), timeout_s=0.05)
    began = mono_ns()
    assert (await line.exchange(ask(0, 20))).payload == words(*range(20))
    assert mono_ns() - began > 0.2e9, "53 characters at 2400 baud"


async def test_a_device_is_asked_after_the_quiet_time_of_the_line(field: Field) -> None:
    sim = await field.pty(sim_device(), baud=9600)
    line = field.line(sim)
    for n in range(3):
        await line.exchange(ask(n, 2))
    told = [traced.mono_ns for traced in sim.bus.trace if traced.sent]
    asked = [traced.mono_ns for traced in sim.bus.trace if not traced.sent]
    quiet = [(after - before) / 1e9 for before, after in zip(told, asked[1:], strict=False)]
    assert quiet == pytest.approx([3.5 * 11 / 9600] * 2, rel=1e-3)


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


async def test_a_dead_device_does_not_hide_another_master(field: Field, caplog: pytest.LogCaptureFixture) -> None:
    """field pain 15: it may never answer again, so its late answer is not waited for without end."""
    sim = await field.pty(sim_device())
    line = field.line(sim, timeout_s=0.03)
    with pytest.raises(LineTimeout):
        await line.exchange(ask(unit=2))
    await asyncio.sleep(LATE_NS / 1e9)
    for n in range(6):
        sim.say(rtu(9, 3, 0, 0, 0, 2))
        await asyncio.sleep(0.1)
        assert (await line.exchange(ask(n, 1))).payload == words(n)
    assert (line.stats.foreign, line.stats.stale) == (6, 0)
    assert "second master" in caplog.text


async def test_a_line_that_is_never_silent_is_not_talked_on(field: Field) -> None:
    """field pain 15, and no wait without an end (73)."""
    sim = await field.pty(sim_device())
    line = field.line(sim, quiet_s=0.3)
    await line.exchange(ask())

    async def babble() -> None:
        while True:
            sim.say(b"\x55")
            await asyncio.sleep(0.005)

    talks = asyncio.ensure_future(babble())
    await asyncio.sleep(0.02)
    (error,) = await line.burst([ask()], line.request_options())
    talks.cancel()
    assert isinstance(error, FrameError) and "without a pause" in str(error)
    assert sim.bus.devices[1].requests[3] == 1


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
    began = mono_ns()
    answer = await line.exchange(ask(5, 2))
    assert answer.payload == words(5, 6) and not answer.suspect
    assert mono_ns() - began < 0.2e9


async def test_noise_before_a_good_answer_does_not_prolong_the_next_broken_one(field: Field) -> None:
    """The noise begins the wait of a tenth of a second. The good answer ends it, and the next request has its own."""
    device = sim_device()
    sim = await field.pty(device)
    line = field.line(sim, timeout_s=5.0)
    device.faults.set("late=0.01*1")
    asking = asyncio.ensure_future(line.exchange(ask(1, 2)))
    await asyncio.sleep(0.003)
    sim.say(b"\x55" * 12)
    assert (await asking).payload == words(1, 2)
    device.faults.set("crc*1")
    began = mono_ns()
    assert (await line.exchange(ask(5, 2))).payload == words(5, 6)
    assert mono_ns() - began < 0.2e9


async def test_a_line_that_is_closed_lets_nobody_wait(field: Field) -> None:
    device = sim_device()
    device.faults.set("silence")
    for sim in (await field.pty(device), await field.tcp(device)):
        line = field.line(sim, timeout_s=5.0)
        asking = asyncio.ensure_future(line.burst([ask()], line.request_options()))
        await asyncio.sleep(0.02)
        closed = mono_ns()
        await line.close()
        (error,) = await asking
        assert isinstance(error, LineDown) and mono_ns() == closed


@pytest.mark.parametrize(("fault", "error"), [("crc", FrameError), ("short=1", MismatchError), ("unit=2", FrameError)])
async def test_what_stays_wrong_is_an_error_of_its_kind(field: Field, fault: str, error: type) -> None:
    device = sim_device()
    line = field.line(await field.pty(device), timeout_s=0.03)
    device.faults.set(fault)
    with pytest.raises(error):
        await line.exchange(ask(5, 2))


async def test_noise_before_and_answers_byte_by_byte(ports: Ports) -> None:
    device = sim_device()
    line = ports.line(await ports.pty(device))
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


async def test_an_answer_that_never_ends_is_given_up(field: Field) -> None:
    """field pain 73: bytes that keep coming prolong the wait by half a second at most."""
    device = sim_device()
    device.faults.set("silence")
    sim = await field.pty(device)
    line = field.line(sim, timeout_s=0.05)
    began = mono_ns()
    asking = asyncio.ensure_future(line.burst([ask()], line.request_options()))
    while not asking.done() and mono_ns() - began < 5e9:
        await asyncio.sleep(0.005)
        sim.say(b"\x55")
    (error,) = await asking
    assert isinstance(error, FrameError) and mono_ns() - began < 1.3e9, "it is asked twice"


async def test_an_exception_behind_the_begin_of_an_answer_is_still_heard(field: Field) -> None:
    device = sim_device()
    line = field.line(await field.pty(device), timeout_s=0.05)
    device.faults.set("stray=010304")
    device.faults.set("exception=02")
    with pytest.raises(DeviceException) as caught:
        await line.exchange(ask())
    assert caught.value.code == 2


async def test_an_echo_is_taken_off_by_its_bytes(ports: Ports) -> None:
    """field pain 20."""
    device = sim_device()
    device.faults.set("echo")
    line = ports.line(await ports.pty(device), echo=True)
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


async def test_an_adapter_that_is_pulled_is_closed_and_found_again_by_its_name(ports: Ports) -> None:
    """field pains 16 and 17: a dead descriptor is not kept, the stable path is opened anew."""
    sim = await ports.pty(sim_device())
    line = ports.line(sim)
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    before = os.readlink(sim.link)
    await sim.unplug()
    (error,) = await line.burst([ask()], line.request_options())
    assert isinstance(error, LineDown) and not line.is_open
    assert before not in open_files() and f"{before} (deleted)" not in open_files()
    assert isinstance((await line.burst([ask()], line.request_options()))[0], LineDown)
    await sim.plug()
    assert (await ask_while(line, ask(3, 1), LineDown)).payload == words(3)


async def test_a_pull_within_an_exchange_ends_it(ports: Ports) -> None:
    """The deadline of the request is an hour away: the pull alone can end it."""
    device = sim_device()
    device.faults.set("silence")
    sim = await ports.pty(device)
    line = ports.line(sim, timeout_s=3600.0)
    asking = asyncio.ensure_future(line.burst([ask()], line.request_options()))
    await came(lambda: device.requests[3], "the request")
    await sim.unplug()
    (error,) = await asking
    assert isinstance(error, LineDown)


async def test_a_port_has_one_owner(ports: Ports) -> None:
    """field pain 19: a second opener is refused and told why."""
    sim = await ports.pty(sim_device())
    first, second = ports.line(sim), ports.line(sim)
    await first.exchange(ask())
    with pytest.raises(LineDown) as caught:
        await second.exchange(ask())
    assert "Another program" in caught.value.hint
    assert (await first.exchange(ask(1, 1))).payload == words(1)


async def test_a_missing_port_says_where_to_look(ports: Ports, tmp_path: Path) -> None:
    line = ports.line(f"serial:{tmp_path / 'no-such-port'}")
    with pytest.raises(LineDown, match="No such file") as caught:
        await line.exchange(ask())
    assert "/dev/serial/by-id" in caught.value.hint


async def test_devices_of_other_speeds_share_a_line(ports: Ports) -> None:
    """A switch of the setting keeps the quiet time of the slower one; parity is asked for, though a pty has none."""
    sim = await ports.pty(sim_device(), baud=2400)
    line = ports.line(sim, serial="19200 8N1")
    slow = line.request_options(serial="2400 8E1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask(0, 1), hasty(line))
    await came(lambda: sim.wrong_baud, "the request at the wrong speed")
    assert sim.wrong_baud == 1
    assert (await line.exchange(ask(0, 1), slow)).payload == words(0)
    assert line.stats.notes == {} or "8E" in line.stats.notes["serial"]


async def test_a_switch_waits_for_the_slower_of_both_speeds(ports: Ports) -> None:
    sim = await ports.pty(sim_device(), baud=2400)
    line = ports.line(sim)
    assert (await line.exchange(ask(0, 1))).payload == words(0)
    with pytest.raises(LineTimeout):
        await line.exchange(ask(0, 1), line.request_options(Limits(timeout_s=0.03), serial="19200 8N1"))
    await came(lambda: sim.wrong_baud, "the request at the wrong speed")
    assert sim.quiet_min_s >= 3.5 * 11 / 2400 * 0.98


def test_a_port_that_stays_away_is_looked_for_less_and_less(made_up_time: asyncio.AbstractEventLoop) -> None:
    """field pain 3: a growing pause, half a minute at most."""

    async def a_quarter_of_an_hour() -> int:
        line = open_line(LineConfig("a", "serial:/nowhere/at/all"))
        for _ in range(900):
            assert isinstance((await line.burst([ask()], line.request_options()))[0], LineDown)
            await asyncio.sleep(1)
        return line.stats.open_failures

    assert 30 <= made_up_time.run_until_complete(a_quarter_of_an_hour()) <= 36


async def test_raw_tcp_refuses_a_speed_of_its_own(field: Field) -> None:
    line = field.line("tcp://127.0.0.1:4196")
    with pytest.raises(ConfigError, match="cannot be set over") as caught:
        line.request_options(serial="2400 8E1")
    assert "a separate line" in caught.value.hint


@pytest.mark.parametrize("serial", ["2400 8E1", "2400 8e1", " 2400  8E1"])
async def test_raw_tcp_accepts_the_setting_of_its_line_in_any_spelling(field: Field, serial: str) -> None:
    """A setting that differed only in the case of its letter was refused as another speed."""
    line = field.line("tcp://127.0.0.1:4196", serial="2400 8E1")
    assert line.request_options(serial=serial) == line.request_options()


async def test_raw_tcp_waits_out_a_late_answer_before_it_asks_that_device_again(field: Field) -> None:
    """field pains 7, 11 and 12: the connection stays, others are asked at once, the late answer harms nobody."""
    device, other = sim_device(1), sim_device(2)
    sim = await field.tcp(device, other, framing="rtu")
    line = field.line(sim, timeout_s=0.03, late_s=0.15)
    device.faults.set("late=0.1*1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask(100, 2))
    began = mono_ns()
    assert (await line.exchange(ask(0, 2, unit=2))).payload == words(0, 1)
    assert mono_ns() == began, "the other device is not held up"
    answer = await line.exchange(ask(0, 2))
    assert answer.payload == words(0, 1) and answer.suspect
    assert mono_ns() - began == pytest.approx(0.15e9, rel=0.01) and line.stats.stale == 1 and sim.accepted == 1


def test_serial_settings() -> None:
    setting = SerialSetting.parse("2400 8e1", "line a")
    assert (setting.baud, setting.bits, setting.parity, setting.stop) == (2400, 8, "E", 1)
    assert setting.char_s == pytest.approx(11 / 2400)
    assert setting.quiet_s == pytest.approx(0.016042, rel=1e-3)
    assert SerialSetting.parse("115200 8N1", "").quiet_s == 0.00175
    for wrong in ("9600", "9600 8X1", "9601 8N1", "", "9600-8-N-1"):
        with pytest.raises(ConfigError, match="invalid serial setting"):
            SerialSetting.parse(wrong, "line a")


async def test_rs485_says_what_the_kernel_answered(ports: Ports) -> None:
    """field pain 21: a pty has no such ioctl; the line goes on and the result is a fact of its status."""
    line = ports.line(await ports.pty(sim_device()), rs485=True)
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
