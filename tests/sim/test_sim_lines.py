"""The lines of the simulator as a raw client sees them: TCP, raw TCP, and a pty with byte times."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from drivers.framing import crc16
from drivers.model import LineDown, UsageError
from drivers.sim.bus import Bus, quiet_s
from drivers.sim.device import SimDevice
from drivers.sim.framing import MbapFraming, RtuFraming
from drivers.sim.image import Image
from drivers.sim.rtu import SerialLine
from drivers.sim.tcp import TcpLine
from tests.kits.lines import came
from tests.kits.raw_client import PtyClient, TcpClient, mbap, rtu, rtu_answer
from tests.kits.simulated import exchange_s, writes

TEN = bytes([3, 20]) + b"".join(n.to_bytes(2, "big") for n in range(10))


def device(unit: int = 1, **more: object) -> SimDevice:
    image = Image()
    image.put_words(0, range(100))
    return SimDevice(unit, image, **more)  # type: ignore[arg-type]


def there(link: Path) -> bool:
    return os.path.lexists(link)


def test_the_crc_is_the_standards() -> None:
    assert crc16(b"123456789") == 0x4B37
    assert rtu(1, 3, 0, 10) == bytes.fromhex("01030000000ac5cd")


async def test_modbus_tcp_answers_by_unit_and_stays_silent_for_strangers() -> None:
    line = TcpLine(Bus([device(1), device(7)]))
    await line.start()
    client = await TcpClient.connect(line.port)
    for tag, unit in ((5, 1), (6, 7)):
        assert await client.ask(mbap(tag, unit, 3, 0, 10), 29) == bytes([0, tag, 0, 0, 0, 23, unit]) + TEN
    assert await client.ask(mbap(7, 9, 3, 0, 10), 1, 0.05) == b""
    assert line.bus.strangers == 1
    assert (await client.ask(mbap(8, 1, 3, 0, 10), 29))[1] == 8  # and the line lives on
    await client.close()
    await line.stop()


async def test_a_gateway_answers_for_absent_units_if_told_to() -> None:
    line = TcpLine(Bus([device(1)], absent=0x0B))
    await line.start()
    client = await TcpClient.connect(line.port)
    assert await client.ask(mbap(1, 2, 3, 0, 1), 9) == bytes([0, 1, 0, 0, 0, 3, 2, 0x83, 0x0B])
    await client.close()
    await line.stop()


async def test_requests_arriving_in_pieces_and_in_one_piece() -> None:
    line = TcpLine(Bus([device(1)]))
    await line.start()
    client = await TcpClient.connect(line.port)
    request = mbap(1, 1, 3, 0, 10)
    for n in range(len(request) - 1):
        client.writer.write(request[n : n + 1])
        await client.writer.drain()
    assert len(await client.ask(request[-1:] + mbap(2, 1, 3, 0, 10), 58)) == 58
    await client.close()
    await line.stop()


async def test_raw_tcp_speaks_rtu_and_finds_the_next_request_after_noise() -> None:
    line = TcpLine(Bus([device(1)]), framing="rtu")
    await line.start()
    assert line.url == f"tcp://127.0.0.1:{line.port}"
    client = await TcpClient.connect(line.port)
    assert await client.ask(b"\x00\xfe\x01" + rtu(1, 3, 0, 10), 25) == rtu_answer(1, TEN)
    await client.close()
    await line.stop()


async def test_a_bus_behind_a_gateway_takes_its_byte_times(made_up: None) -> None:
    line = TcpLine(Bus([device(1, turnaround_s=0.005)]), baud=19200)
    client, loop = await TcpClient.wired(line), asyncio.get_running_loop()
    began = loop.time()
    await client.ask(mbap(1, 1, 3, 0, 10) + mbap(2, 1, 3, 0, 10), 58)
    assert loop.time() - began == pytest.approx(2 * (0.005 + (8 + 25) * 11 / 19200) + quiet_s(19200))
    await client.close()
    await line.stop()


async def test_only_so_many_clients_get_in() -> None:
    """An inverter's dongle takes one client."""  # field pain 43
    line = TcpLine(Bus([device(1)]), max_clients=1)
    await line.start()
    first = await TcpClient.connect(line.port)
    assert await first.ask(mbap(1, 1, 3, 0, 10), 29)
    second = await TcpClient.connect(line.port)
    with pytest.raises(OSError):  # reset or broken pipe, as the kernel's timing has it
        assert await second.ask(mbap(1, 1, 3, 0, 10), 29) == b""
        raise ConnectionResetError
    assert line.refused == 1
    await first.close()
    await second.close()
    await line.stop()


async def test_unplugged_tcp_refuses_and_returns_on_the_same_port() -> None:
    line = TcpLine(Bus([device(1)]))
    await line.start()
    client, port = await TcpClient.connect(line.port), line.port
    await line.unplug()
    with pytest.raises(ConnectionResetError):
        await client.read(1)
    with pytest.raises(ConnectionRefusedError):
        await TcpClient.connect(port)
    await line.plug()
    again = await TcpClient.connect(port)
    assert await again.ask(mbap(1, 1, 3, 0, 10), 29)
    await client.close()
    await again.close()
    await line.stop()


async def test_a_taken_port_is_named() -> None:
    line = TcpLine(Bus([device(1)]))
    await line.start()
    with pytest.raises(LineDown, match=f"127.0.0.1:{line.port}: .*in use"):
        await TcpLine(Bus(), port=line.port).start()
    await line.stop()


def test_two_devices_cannot_have_one_unit() -> None:
    with pytest.raises(UsageError, match="unit id 1 is already on this line"):
        Bus([device(1), device(1)])


def test_writes_are_refused_and_counted() -> None:
    """The read-only promise is checked on this side."""
    sim = device(1)
    frame = RtuFraming()
    body = bytes([1, 6, 0, 0, 0, 9])
    (request,) = frame.feed(body + crc16(body).to_bytes(2, "little"))
    answer = sim.answer(request, frame)
    assert answer is not None and answer.frame[1:3] == bytes([0x86, 1])
    assert writes(sim) == 1 and sim.image.words(0) == (0,)


def test_identification_comes_in_as_many_answers_as_it_needs() -> None:
    sim = device(1, objects={0: b"ACME", 1: b"MTR-3", 2: b"1.4", 0x80: b"x" * 230})
    assert sim.pdu(bytes([43, 14, 1, 0])).hex() == "2b0e0183000003" + "000441434d45" + "01054d54522d33" + "0203312e34"
    first = sim.pdu(bytes([43, 14, 3, 0]))
    assert first[4:7] == bytes([0xFF, 0x80, 3])
    assert sim.pdu(bytes([43, 14, 3, 0x80]))[4:9] == bytes([0, 0, 1, 0x80, 230])
    assert sim.pdu(bytes([43, 14, 4, 2]))[5:] == b"\0\1\2\0031.4"
    assert sim.pdu(bytes([43, 14, 4, 9])) == bytes([0xAB, 2])
    assert device(2).pdu(bytes([43, 14, 1, 0])) == bytes([0xAB, 1])


def test_requests_are_found_between_noise() -> None:
    frame = RtuFraming()
    wrong = bytearray(rtu(1, 3, 0, 10))
    wrong[-1] ^= 1
    found = frame.feed(bytes(wrong) + rtu(2, 4, 5, 6)[:3])
    found += frame.feed(rtu(2, 4, 5, 6)[3:] + b"\x11\x6a\x01")
    assert [(r.unit, r.pdu) for r in found] == [(2, bytes([4, 0, 5, 0, 6]))]
    frame.silence()
    assert [r.unit for r in frame.feed(rtu(3, 3, 0, 1))] == [3]
    assert MbapFraming().feed(b"\0\1\0\7\0\6\1\3\0\0\0\1") == []


async def test_the_pty_keeps_byte_times_and_the_quiet_time(tmp_path: Path) -> None:
    """A busy machine may make it late, nothing makes it early."""
    line = SerialLine(Bus([device(1, turnaround_s=0.008)]), tmp_path / "tty", baud=9600)
    await line.start()
    ideal = exchange_s(line, 8, 25, 0.008) - quiet_s(9600)

    def talk() -> list[float]:
        client, took = PtyClient(line.link), []
        for _ in range(3):
            began = time.monotonic()
            assert client.ask(rtu(1, 3, 0, 10), 25) == rtu_answer(1, TEN)
            took.append(client.arrivals[-1][0] - began)
            time.sleep(quiet_s(9600))
        client.close()
        return took

    assert min(await asyncio.to_thread(talk)) >= ideal
    assert line.quiet_min_s >= quiet_s(9600) and line.collisions == 0
    await line.stop()


async def test_the_pty_is_silent_for_strangers_and_for_another_baud_rate(tmp_path: Path) -> None:
    line = SerialLine(Bus([device(1)]), tmp_path / "tty", baud=115200)
    await line.start()
    client = PtyClient(line.link)
    os.write(client.fd, rtu(9, 3, 0, 10))
    await came(lambda: line.bus.strangers, "a stranger")
    import termios

    mode = termios.tcgetattr(client.fd)
    mode[4] = mode[5] = termios.B9600
    termios.tcsetattr(client.fd, termios.TCSANOW, mode)
    os.write(client.fd, rtu(1, 3, 0, 10))
    await came(lambda: line.wrong_baud, "a request at another speed")
    mode[4] = mode[5] = termios.B115200
    termios.tcsetattr(client.fd, termios.TCSANOW, mode)
    assert await asyncio.to_thread(client.ask, rtu(1, 3, 0, 10), 25) == rtu_answer(1, TEN), "and nothing before it"
    client.close()
    await line.stop()


async def test_talking_into_an_answer_is_a_collision(tmp_path: Path) -> None:
    line = SerialLine(Bus([device(1)]), tmp_path / "tty", baud=2400)
    await line.start()
    client = PtyClient(line.link)
    for _ in range(20):  # a machine that is too slow talks after the answer, not into it
        assert await asyncio.to_thread(client.ask, rtu(1, 3, 0, 10), 5) == rtu_answer(1, TEN)[:5]
        assert await asyncio.to_thread(client.ask, rtu(1, 3, 0, 10), 20) == rtu_answer(1, TEN)[5:]
        if line.collisions:
            break
        assert await asyncio.to_thread(client.read, 25) == rtu_answer(1, TEN)
    assert line.collisions == 1
    assert await asyncio.to_thread(client.ask, rtu(1, 3, 0, 10), 25) == rtu_answer(1, TEN), (
        "the lost one is not answered"
    )
    client.close()
    await line.stop()


async def test_replugging_keeps_the_link_name(tmp_path: Path) -> None:
    """The pty closes under the client; another one comes back where the first was."""  # field pains 16, 17
    line = SerialLine(Bus([device(1)]), tmp_path / "by-id" / "adapter", baud=115200)
    await line.start()
    first, client = os.readlink(line.link), PtyClient(line.link)
    assert await asyncio.to_thread(client.ask, rtu(1, 3, 0, 10), 25) == rtu_answer(1, TEN)
    await line.unplug()
    assert not there(line.link)
    assert client.read(1) == b""
    with pytest.raises(OSError):  # EIO from a hung-up tty
        os.write(client.fd, b"x")
    hold = os.open("/dev/null", os.O_RDONLY)
    await line.plug()
    again = PtyClient(line.link)
    assert os.readlink(line.link) != first  # the client still holds the first: as with ttyUSB1
    assert await asyncio.to_thread(again.ask, rtu(1, 3, 0, 10), 25) == rtu_answer(1, TEN)
    for fd in (hold, client.fd, again.fd):
        os.close(fd)
    await line.stop()
    assert not there(line.link)


async def test_a_file_in_the_links_place_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tty").write_text("mine")
    with pytest.raises(LineDown, match="exists and is not a link"):
        await SerialLine(Bus(), tmp_path / "tty").start()
    assert (tmp_path / "tty").read_text() == "mine"


async def test_a_thousand_requests_in_one_piece_are_all_answered() -> None:
    line = TcpLine(Bus([device(1)]))
    await line.start()
    client = await TcpClient.connect(line.port)
    requests = b"".join(mbap(n, 1, 3, 0, 100) for n in range(1000))
    answers = await client.ask(requests, 1000 * 209)
    assert [int.from_bytes(answers[at : at + 2], "big") for at in range(0, len(answers), 209)] == list(range(1000))
    await client.close()
    await line.stop()
