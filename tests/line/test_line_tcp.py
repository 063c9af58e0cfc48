"""Modbus TCP lines against the simulator and its faults: what is about time on wires, the rest on real sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time

import pytest

from drivers.line import LineConfig, SerialSetting, open_line
from drivers.line.config import Target
from drivers.line.deadlines import STEP_S
from drivers.line.port import Port
from drivers.model import ConfigError, DeviceException, FrameError, Limits, LineDown, LineTimeout, MismatchError
from drivers.sim.framing import RtuFraming
from tests.kits.lines import Field, Ports, ask, ask_while, hasty, sim_device, words
from tests.kits.wires import mono_ns


async def test_answers_come_as_raw_bytes_with_their_time(field: Field) -> None:
    line = field.line(await field.tcp(sim_device()))
    utc, mono = time.time_ns(), mono_ns()
    answer = await line.exchange(ask(10, 3))
    assert answer.payload == words(10, 11, 12) and not answer.suspect
    assert utc <= answer.time_ns <= time.time_ns() and mono <= answer.mono_ns <= mono_ns()
    assert line.stats.sent == {3: 1} and line.stats.answers == 1


async def test_a_burst_is_asked_one_by_one_on_one_connection(ports: Ports) -> None:
    sim = await ports.tcp(sim_device())
    line = ports.line(sim)
    answers = await line.burst([ask(n, 1) for n in range(20)], line.request_options())
    assert [a.payload for a in answers] == [words(n) for n in range(20)]
    sides = [traced.sent for traced in sim.bus.trace]
    assert sides == [False, True] * 20 and sim.accepted == 1


async def test_tools_get_their_turn_in_order_and_never_at_once(ports: Ports) -> None:
    """field pain 19: exactly one owner."""
    sim = await ports.tcp(sim_device(turnaround_s=0.002))
    line = ports.line(sim)
    answers = await asyncio.gather(*(line.exchange(ask(n, 1)) for n in range(30)))
    assert [a.payload for a in answers] == [words(n) for n in range(30)]
    assert [traced.sent for traced in sim.bus.trace] == [False, True] * 30


async def test_a_late_answer_is_dropped_by_its_number(field: Field) -> None:
    """field pains 10 and 12: no late answer is ever taken for another, nor leaves the line one step behind."""
    device = sim_device()
    line = field.line(await field.tcp(device), timeout_s=0.05)
    device.faults.set("late=0.08*1")
    with pytest.raises(LineTimeout):
        await line.exchange(ask(100, 2))
    for n in range(40):
        answer = await line.exchange(ask(n, 2))
        assert answer.payload == words(n, n + 1)
        await asyncio.sleep(0.002)
    assert line.stats.stale == 1 and line.stats.foreign == 0


@pytest.mark.parametrize("fault", ["unit=9", "short=1"])
async def test_an_answer_that_does_not_fit_is_never_taken(field: Field, fault: str) -> None:
    """field pain 10: unit, function and byte count are compared."""
    device = sim_device()
    line = field.line(await field.tcp(device), timeout_s=0.2)
    device.faults.set(fault)
    with pytest.raises(MismatchError):
        await line.exchange(ask(0, 4))
    device.faults.clear()
    assert (await line.exchange(ask(0, 4))).payload == words(0, 1, 2, 3)
    assert line.stats.mismatches == 2  # it was asked once more


async def test_foreign_transaction_numbers_are_noticed(field: Field, caplog: pytest.LogCaptureFixture) -> None:
    """field pain 15: two series of transaction ids on one link; said once."""
    sim = await field.tcp(sim_device())
    line = field.line(sim)
    for n in range(20):
        sim.say(bytes((0x77, n, 0, 0, 0, 5, 1, 3, 2, 0, 9)))
        assert (await line.exchange(ask(n, 1))).payload == words(n)
    assert line.stats.foreign >= 19 and line.stats.stale == 0
    assert [r.message for r in caplog.records if "second master" in r.message] == [
        "line l0: 5 unsolicited frames. Is there a second master, or noise?"
    ]


async def test_a_gateway_that_misses_one_unit_keeps_its_connection(field: Field) -> None:
    """field pains 7 and 67: exceptions 0A and 0B are that device's silence and no fault of the line."""
    sim = await field.tcp(sim_device(1), absent=0x0B)
    line = field.line(sim)
    for n in range(10):
        with pytest.raises(LineTimeout, match="0Bh"):
            await line.exchange(ask(unit=2))
        assert (await line.exchange(ask(n, 1))).payload == words(n)
    assert sim.accepted == 1 and line.stats.timeouts == 10


async def test_silence_of_one_unit_keeps_the_connection_of_the_others(field: Field) -> None:
    """field pains 6 and 7."""
    sim = await field.tcp(sim_device(1))
    line = field.line(sim, timeout_s=0.02)
    for n in range(6):
        with pytest.raises(LineTimeout):
            await line.exchange(ask(unit=2))
        assert (await line.exchange(ask(n, 1))).payload == words(n)
    assert sim.accepted == 1


async def test_a_peer_that_vanished_is_connected_to_anew(field: Field) -> None:
    """Timeouts of everybody, without a single byte: the other end may have been restarted without a word."""
    device = sim_device(1)
    sim = await field.tcp(device)
    line = field.line(sim, timeout_s=0.02)
    device.faults.set("silence*3")
    for _ in range(3):
        with pytest.raises(LineTimeout):
            await line.exchange(ask())
    assert (await line.exchange(ask())).payload == words(0, 1)
    assert sim.accepted == 2


async def test_busy_is_waited_for_and_no_error(field: Field) -> None:
    """field pain 43."""
    device = sim_device()
    line = field.line(await field.tcp(device))
    device.faults.set("busy*3")
    assert (await line.exchange(ask(5, 1))).payload == words(5)
    assert device.requests[3] == 4


async def test_busy_for_ever_ends_as_an_exception(field: Field) -> None:
    device = sim_device()
    line = field.line(await field.tcp(device))
    device.faults.set("busy")
    with pytest.raises(DeviceException) as caught:
        await line.exchange(ask())
    assert caught.value.code == 6 and device.requests[3] == 5


async def test_pauses_that_a_device_wants_are_kept(field: Field) -> None:
    """field pain 43: a dongle wants time between requests and after the connect."""
    sim = await field.tcp(sim_device())
    line = field.line(sim, quiet_s=0.03, connect_delay_s=0.06)
    began = mono_ns()
    answers = await line.burst([ask(n, 1) for n in range(3)], line.request_options())
    answers += await line.burst([ask(3, 1)], line.request_options())
    assert [a.payload for a in answers] == [words(n) for n in range(4)]
    asked = [(traced.mono_ns - began) / 1e9 for traced in sim.bus.trace if not traced.sent]
    assert asked == pytest.approx([0.06, 0.09, 0.12, 0.15]), "who answers at once"


async def test_a_reset_is_followed_by_a_new_connection_at_once(ports: Ports) -> None:
    """field pain 43: EOF and resets are everyday life with dongles."""
    device = sim_device()
    sim = await ports.tcp(device)
    line = ports.line(sim)
    for fault in ("reset*1", "close*1"):
        assert (await line.exchange(ask(1, 1))).payload == words(1)
        device.faults.set(fault)
        assert (await line.exchange(ask(2, 1))).payload == words(2)
    assert sim.accepted == 3 and line.stats.lost == 2


async def test_a_device_that_takes_one_client_is_left_alone_for_a_growing_while(field: Field) -> None:
    """field pains 3 and 43: a connection that is of no use is as good as none."""
    sim = await field.tcp(sim_device(), max_clients=1)
    first, second = field.line(sim), field.line(sim)
    assert (await first.exchange(ask(1, 1))).payload == words(1)
    refused = []
    for _ in range(20):
        (error,) = await second.burst([ask()], second.request_options())
        assert isinstance(error, LineDown)
        refused.append(sim.refused)
        await asyncio.sleep(0.25)
    assert refused == [1] * 2 + [2] * 4 + [3] * 8 + [4] * 6, "no storm of connections: 0.5, 1, 2, 4 s"
    assert (await first.exchange(ask(2, 1))).payload == words(2)


async def test_an_answer_ends_the_long_pauses_of_an_earlier_outage(field: Field) -> None:
    """Also where we closed the connection ourselves: one failed open would cost half a minute, hours after the
    outage.
    """
    sim = await field.tcp(sim_device())
    line = field.line(sim)
    await sim.stop()
    for _ in range(100):
        await line.burst([ask()], line.request_options())
        await asyncio.sleep(1)
    await sim.start()
    assert (await ask_while(line, ask(1, 1), LineDown)).payload == words(1)
    line.release_if_idle()  # another line of this host takes its turn
    await sim.stop()
    await line.burst([ask()], line.request_options())
    await sim.start()
    await asyncio.sleep(0.6)
    assert (await line.exchange(ask(2, 1))).payload == words(2)


async def test_a_port_that_nobody_listens_on(ports: Ports) -> None:
    sim = await ports.tcp(sim_device())
    await sim.stop()
    line = ports.line(sim)
    with pytest.raises(LineDown, match="refused") as caught:
        await line.exchange(ask())
    assert "port number" in caught.value.hint
    await sim.start()
    assert (await ask_while(line, ask(3, 1), LineDown)).payload == words(3)


async def test_every_address_of_a_host_name_is_tried(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name often has an IPv6 address first, although the device listens on IPv4 only."""
    sim = await ports.tcp(sim_device())
    served = [sim.host]

    async def resolved(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", *served)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    line = ports.line(f"modbus-tcp://meter.test:{sim.port}")
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    served[:] = ["127.0.0.3"]
    with pytest.raises(LineDown, match="refused"):
        await ports.line(f"modbus-tcp://meter.test:{sim.port}").exchange(ask(1, 1))


async def test_an_address_that_drops_all_packets_does_not_hide_the_next_one(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall may drop all packets to the first address of a host name. The connection to it then took all the time
    for opening the port, at every attempt, so that the next address was never tried.
    """
    sim = await field.tcp(sim_device())
    tried: list[str] = []

    async def resolved(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("10.0.0.1", "10.0.0.2")]

    async def connect(_where: str, _kind: int, _family: int, address: tuple[str, int]) -> Port:
        tried.append(address[0])
        if address[0] == "10.0.0.1":
            await asyncio.get_running_loop().create_future()
        return await sim.open_port(line.config, line.target, None)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    monkeypatch.setattr("drivers.line.port._connect", connect)
    line = field.line("modbus-tcp://meter.test:502")
    began = mono_ns()
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    assert tried == ["10.0.0.1", "10.0.0.2"] and 2.5e9 <= mono_ns() - began < 3e9
    # each time that the device closed an idle connection, the wait of 2.5 s delayed all devices of the line
    await line.close()
    began = mono_ns()
    assert (await line.exchange(ask(2, 1))).payload == words(2)
    assert tried[2:] == ["10.0.0.2"] and mono_ns() - began < 5e8


@pytest.mark.parametrize("framing", ["mbap", "rtu"])
async def test_a_full_output_buffer_is_not_blamed_on_another_program(field: Field, framing: str) -> None:
    """The system reports it with the same number as a port that another program has locked."""
    sim = await field.tcp(sim_device(), framing=framing)

    async def full(config: LineConfig, target: Target, setting: SerialSetting | None) -> Port:
        def write(_frame: bytes) -> int:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        port = await sim.open_port(config, target, setting)
        port.write = write
        return port

    scheme = "modbus-tcp" if framing == "mbap" else "tcp"
    line = field.line(f"{scheme}://meter.test:502", opener=full)
    with pytest.raises(LineDown, match=r"sending failed: the (connection|port) accepts no more bytes") as caught:
        await line.exchange(ask(1, 1))
    assert "Another program" not in caught.value.hint


async def test_a_silent_address_of_a_host_name_is_left_for_the_next_one(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection by UDP can always be opened. So the second address of a name was never used."""
    silent, good = sim_device(), sim_device()
    silent.faults.set("silence")
    sims = {"10.0.0.1": await field.tcp(silent, framing="rtu"), "10.0.0.2": await field.tcp(good, framing="rtu")}
    tried: list[str] = []

    async def resolved(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, port)) for host in sims]

    async def connect(_where: str, _kind: int, _family: int, address: tuple[str, int]) -> Port:
        tried.append(address[0])
        return await sims[address[0]].open_port(line.config, line.target, None)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    monkeypatch.setattr("drivers.line.port._connect", connect)
    line = field.line("udp://meter.test:502", late_s=0.0)
    for _ in range(3):
        with pytest.raises(LineTimeout):
            await line.exchange(ask(1, 1))
    assert (await line.exchange(ask(1, 1))).payload == words(1)
    assert tried == ["10.0.0.1", "10.0.0.2"]
    good.faults.set("silence*3")
    for _ in range(3):
        with pytest.raises(LineTimeout):
            await line.exchange(ask(1, 1))
    assert (await line.exchange(ask(2, 1))).payload == words(2)
    assert tried == ["10.0.0.1", "10.0.0.2", "10.0.0.2"], "an address that has answered is tried again"


async def test_a_slow_connect_delays_no_other_line(field: Field) -> None:
    """field pain 2: no lock is held over a connect."""

    async def never(config: LineConfig, target: Target, setting: SerialSetting | None) -> Port:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    slow = field.line("modbus-tcp://127.0.0.1:9", opener=never)
    quick = field.line(await field.tcp(sim_device()))
    began = mono_ns()
    connecting = asyncio.ensure_future(slow.exchange(ask()))
    for n in range(50):
        assert (await quick.exchange(ask(n, 1))).payload == words(n)
    assert mono_ns() == began and not connecting.done()
    with pytest.raises(LineDown, match="no connection within 5 s"):
        await connecting
    assert mono_ns() - began == pytest.approx(5e9)


async def test_every_wait_has_a_deadline(field: Field) -> None:
    """field pain 73: a peer that accepts and says nothing, and one that stops within an answer."""
    device = sim_device()
    line = field.line(await field.tcp(device), timeout_s=0.05)
    for fault in ("silence", "cut=3"):
        device.faults.set(fault)
        began = mono_ns()
        with pytest.raises(LineTimeout):
            await line.exchange(ask())
        assert 0.05e9 <= mono_ns() - began <= (0.05 + STEP_S) * 1e9
        device.faults.clear()
        await line.close()
    assert (await line.exchange(ask(4, 1))).payload == words(4)


async def test_answers_in_pieces_are_put_together(ports: Ports) -> None:
    device = sim_device()
    line = ports.line(await ports.tcp(device))
    device.faults.set("bytewise=0.001")
    assert (await line.exchange(ask(7, 3))).payload == words(7, 8, 9)


async def test_bytes_that_are_not_modbus_tcp_end_the_connection_with_a_hint(field: Field) -> None:
    device = sim_device()
    sim = await field.tcp(device)
    line = field.line(sim)
    device.faults.set("crc*1")  # over TCP: a wrong protocol identifier
    (error,) = await line.burst([ask()], line.request_options())
    assert "not Modbus TCP" in str(error) and "tcp://" in str(error)


@pytest.mark.parametrize(
    ("scheme", "says", "wanted"),
    [
        ("tcp", None, "needs modbus-tcp:// instead of tcp://"),  # it reads our frame as a header, and closes
        ("tcp", "0103 0000 0003 01 83 02", "needs modbus-tcp:// instead of tcp://"),
        ("modbus-tcp", "01 83 02 C0 F1", "needs tcp:// instead of modbus-tcp://"),
        ("modbus-tcp", "01 03 04 00 00 00 01 3B F3", "needs tcp:// instead of modbus-tcp://"),
    ],
)
async def test_the_other_protocol_is_named_where_the_bytes_show_it(
    ports: Ports, scheme: str, says: str | None, wanted: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(64) and says is not None:
            writer.write(bytes.fromhex(says))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        line = ports.line(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.5, late_s=0.0)
        (error,) = await line.burst([ask()], line.request_options())
        await line.close()
    assert isinstance(error, LineDown | FrameError) and wanted in str(error), error


async def test_an_asker_that_is_cancelled_leaves_a_clean_line(field: Field) -> None:
    device = sim_device()
    line = field.line(await field.tcp(device))
    device.faults.set("late=0.03*1")
    asking = asyncio.ensure_future(line.exchange(ask(100, 2)))
    await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    for n in range(30):
        assert (await line.exchange(ask(n, 2))).payload == words(n, n + 1)
        await asyncio.sleep(0.001)
    assert line.stats.stale == 1


class UdpEnd:
    """A dongle that takes RTU frames by UDP and puts a header before its answers; some of them get lost."""

    def __init__(self, header: bytes) -> None:
        self.header, self.device, self.lose = header, sim_device(), 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        asyncio.get_running_loop().add_reader(self.socket, self._heard)

    def _heard(self) -> None:
        data, peer = self.socket.recvfrom(300)
        framing = RtuFraming()
        for request in framing.feed(data):
            said = self.device.answer(request, framing)
            if self.lose:
                self.lose -= 1
            elif said is not None:
                self.socket.sendto(self.header + said.frame, peer)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()


@pytest.mark.parametrize("header", [b"", b"\xaa\x55"], ids=["plain", "AA 55 in front, as GoodWe sends it"])
async def test_udp_carries_rtu_frames(ports: Ports, header: bytes) -> None:
    end = UdpEnd(header)
    line = ports.line(f"udp://127.0.0.1:{end.port}", late_s=0.0)
    for n in range(5):
        assert (await line.exchange(ask(20 + n, 2))).payload == words(20 + n, 21 + n)
    end.lose = 1  # datagrams get lost: that costs one timeout, and not the line
    with pytest.raises(LineTimeout):
        await line.exchange(ask(), hasty(line))
    assert (await line.exchange(ask(3, 1))).payload == words(3)
    assert line.stats.opened == 1
    end.lose = 1
    again = line.request_options(Limits(timeout_s=0.1, late_s=0.0, retries=300))
    assert (await line.exchange(ask(4, 1), again)).payload == words(4), "a profile may say that it asks again"
    assert line.stats.timeouts >= 2
    end.close()


async def test_a_udp_port_where_nobody_listens_is_said(ports: Ports) -> None:
    end = UdpEnd(b"")
    end.close()
    line = ports.line(f"udp://127.0.0.1:{end.port}")
    with pytest.raises(LineDown, match="is the port number right"):
        await line.exchange(ask())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("modbustcp://host:502", "not the url of a line"),
        ("tcp://host", "no port"),
        ("tcp://host:99999", "99999|range"),
        ("serial:ttyUSB0", "no device path"),
        ("modbus-tcp://host:502/path", "not the url of a line"),
    ],
)
def test_wrong_addresses_are_refused_with_what_would_be_right(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_line(LineConfig("roof", url))
    assert "line roof" in str(caught.value) and "serial:" in caught.value.hint
