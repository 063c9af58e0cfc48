"""Each fault as a raw client sees it, on Modbus TCP, on raw TCP and on a pty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.model import UsageError
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sim.faults import KINDS, parse_fault
from drivers.sim.framing import RtuFraming
from drivers.sim.image import Image
from drivers.sim.rtu import SerialLine
from drivers.sim.tcp import TcpLine
from tests.kits.raw_client import PATIENCE_S, PtyClient, TcpClient, mbap, rtu, rtu_answer

ASK = rtu(1, 3, 0, 4)
PDU = bytes([3, 8, 0, 0, 0, 1, 0, 2, 0, 3])
GOOD = rtu_answer(1, PDU)


def device(unit: int = 1) -> SimDevice:
    image = Image()
    image.put_words(0, range(100))
    return SimDevice(unit, image)


@pytest.fixture
async def raw() -> AsyncIterator[tuple[SimDevice, TcpClient]]:
    """A device behind raw TCP, which shows RTU frames byte for byte; on a wire, and on made-up time."""
    line = TcpLine(Bus([device()]), framing="rtu")
    client = await TcpClient.wired(line)
    yield line.bus.devices[1], client
    await client.close()
    await line.stop()


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("crc*1", GOOD[:-2] + bytes([GOOD[-2] ^ 0xFF, GOOD[-1] ^ 0xA5])),
        ("exception*1", rtu_answer(1, b"\x83\x04")),
        ("exception=02*1", rtu_answer(1, b"\x83\x02")),
        ("busy*1", rtu_answer(1, b"\x83\x06")),
        ("gateway*1", rtu_answer(1, b"\x83\x0b")),
        ("gateway=0A*1", rtu_answer(1, b"\x83\x0a")),
        ("echo*1", ASK + GOOD),
        ("bytewise=0.001*1", GOOD),
        ("short*1", rtu_answer(1, b"\x03\x02\x00\x00")),
        ("short=2*1", rtu_answer(1, b"\x03\x04\x00\x00\x00\x01")),
        ("cut=5*1", GOOD[:5]),
        ("unit*1", rtu_answer(2, PDU)),
        ("unit=9*1", rtu_answer(9, PDU)),
        ("stray*1", b"\x00" + GOOD),
        ("stray=FF*1", b"\xff" + GOOD),
        ("stray=00FFFE*1", b"\x00\xff\xfe" + GOOD),
        ("blank*1", rtu_answer(1, b"\x03\x08" + b"\xff" * 8)),
        ("zero*1", rtu_answer(1, b"\x03\x08" + bytes(8))),
        ("silence*1", b""),
    ],
)
async def test_what_a_raw_client_sees(raw: tuple[SimDevice, TcpClient], fault: str, seen: bytes) -> None:
    """One faulty answer, then a good one."""  # field pains 10, 12, 20, 23
    sim, client = raw
    sim.faults.set(fault)
    assert await client.ask(ASK, max(len(seen), 1), PATIENCE_S if seen else 0.05) == seen
    assert not sim.faults
    assert await client.ask(ASK, len(GOOD)) == GOOD
    assert sum(sim.faults.hits.values()) == 1


async def test_one_byte_at_a_time_takes_its_time(raw: tuple[SimDevice, TcpClient]) -> None:
    sim, client = raw
    sim.faults.set("bytewise=0.004")
    loop = asyncio.get_running_loop()
    began = loop.time()
    client.writer.write(ASK)
    first = await client.read(1)
    assert first == GOOD[:1] and await client.read(len(GOOD) - 1) == GOOD[1:]
    assert loop.time() - began == pytest.approx(0.004 * (len(GOOD) - 1))


async def test_a_late_answer_comes_after_the_next_one(raw: tuple[SimDevice, TcpClient]) -> None:
    """Two answers of one length, in the wrong order."""  # field pain 11
    sim, client = raw
    sim.faults.set("late=0.3*1")
    client.writer.write(ASK)
    assert await client.ask(rtu(1, 3, 8, 4), len(GOOD)) == rtu_answer(1, bytes([3, 8, 0, 8, 0, 9, 0, 10, 0, 11]))
    assert await client.read(len(GOOD)) == GOOD


async def test_a_bridge_replays_an_earlier_longer_answer(raw: tuple[SimDevice, TcpClient]) -> None:
    sim, client = raw
    await client.ask(ASK, len(GOOD))
    sim.faults.set("stale*1")
    assert await client.ask(rtu(1, 3, 50, 1), len(GOOD)) == GOOD


async def test_an_undefined_register_spoils_the_next_answer(raw: tuple[SimDevice, TcpClient]) -> None:
    sim, client = raw  # field pain 26
    sim.faults.set("spill")
    assert await client.ask(ASK, len(GOOD)) == GOOD
    assert await client.ask(rtu(1, 3, 100, 1), 5) == rtu_answer(1, b"\x83\x02")
    assert await client.ask(ASK, len(GOOD)) == rtu_answer(1, bytes([3, 8, 0, 1, 0, 2, 0, 3, 0, 0]))
    assert await client.ask(ASK, len(GOOD)) == GOOD


async def test_a_frozen_device_answers_old_values(raw: tuple[SimDevice, TcpClient]) -> None:
    sim, client = raw
    sim.before = lambda _function, address, _count: sim.image.put_words(address, [sim.image.words(address)[0] + 1])
    assert (await client.ask(ASK, len(GOOD)))[4] == 1
    sim.faults.set("freeze*2")
    assert [(await client.ask(ASK, len(GOOD)))[4] for _ in range(4)] == [1, 1, 2, 3]


@pytest.mark.parametrize("serial", [False, True])
async def test_foreign_frames_come_unasked(serial: bool, tmp_path: Path) -> None:
    """A panel's own broadcast on the bus."""  # field pain 13
    foreign = rtu_answer(0, bytes([16, 0, 1, 0, 2]))
    if serial:
        line = SerialLine(Bus([device()]), tmp_path / "tty", baud=115200)
        await line.start()
        master = PtyClient(line.link)
        line.say(foreign)
        assert await asyncio.to_thread(master.read, len(foreign)) == foreign
        assert await asyncio.to_thread(master.ask, ASK, len(GOOD)) == GOOD
        master.close()
        await line.stop()
        line.say(foreign)
        return
    server = TcpLine(Bus([device()]), framing="rtu")
    await server.start()
    client = await TcpClient.connect(server.port)
    await client.ask(ASK, len(GOOD))
    server.say(foreign)
    assert await client.read(len(foreign)) == foreign
    await client.close()
    await server.stop()


async def test_stray_late_and_crc_add_up(raw: tuple[SimDevice, TcpClient]) -> None:
    sim, client = raw
    for fault in ("stray=FEFE*1", "cut=4*1"):
        sim.faults.set(fault)
    assert await client.ask(ASK, 6) == b"\xfe\xfe" + GOOD[:4]


@pytest.mark.parametrize(("fault", "error"), [("reset*1", ConnectionResetError), ("close*1", None)])
async def test_the_connection_ends(fault: str, error: type[OSError] | None) -> None:
    line = TcpLine(Bus([device()]))
    await line.start()
    client = await TcpClient.connect(line.port)
    line.bus.devices[1].faults.set(fault)
    if error:
        with pytest.raises(error):
            await client.ask(mbap(1, 1, 3, 0, 1), 11)
    else:
        assert await client.ask(mbap(1, 1, 3, 0, 1), 11) == b""
    await client.close()
    again = await TcpClient.connect(line.port)
    assert len(await again.ask(mbap(1, 1, 3, 0, 1), 11)) == 11
    await again.close()
    await line.stop()


async def test_modbus_tcp_headers_can_be_wrong() -> None:
    """Another transaction id; another protocol identifier."""  # field pain 15
    line = TcpLine(Bus([device()]))
    await line.start()
    client = await TcpClient.connect(line.port)
    sim = line.bus.devices[1]
    sim.faults.set("tag=3*1")
    assert (await client.ask(mbap(7, 1, 3, 0, 1), 11))[:2] == b"\0\x0a"
    sim.faults.set("crc*1")
    assert (await client.ask(mbap(8, 1, 3, 0, 1), 11))[:4] == b"\0\x08\x5a\x5a"
    await client.close()
    await line.stop()


async def test_one_silent_unit_leaves_the_others_alone() -> None:
    line = TcpLine(Bus([device(1), device(2)]))  # field pain 7
    await line.start()
    client = await TcpClient.connect(line.port)
    line.bus.devices[1].faults.set("silence")
    client.writer.write(mbap(1, 1, 3, 0, 1))
    assert (await client.ask(mbap(2, 2, 3, 0, 1), 11))[:2] == b"\0\2"
    line.bus.devices[1].faults.clear()
    assert (await client.ask(mbap(3, 1, 3, 0, 1), 11))[:2] == b"\0\3"
    await client.close()
    await line.stop()


async def test_a_reboot_is_silent_for_a_while_and_counters_start_again(raw: tuple[SimDevice, TcpClient]) -> None:
    sim, client = raw  # field pain 34
    sim.monotonic = asyncio.get_running_loop().time
    sim.restart = lambda: sim.image.put_words(0, [0, 0, 0, 0])
    sim.faults.set("reboot=0.3")
    assert await client.ask(ASK, 1, 0.2) == b""
    assert await client.ask(ASK, 1, 0.09) == b""
    await asyncio.sleep(0.02)
    assert await client.ask(ASK, len(GOOD)) == rtu_answer(1, bytes([3, 8]) + bytes(8))


async def test_a_block_limit_is_the_devices_own(raw: tuple[SimDevice, TcpClient]) -> None:
    """Documented for more, fails above its limit."""  # field pain 27
    sim, client = raw
    sim.max_words = 3
    assert await client.ask(ASK, 5) == rtu_answer(1, b"\x83\x02")
    assert await client.ask(rtu(1, 3, 0, 3), 11) == rtu_answer(1, PDU[:1] + b"\x06" + PDU[2:8])


async def test_faults_on_a_pty(tmp_path: Path) -> None:
    line = SerialLine(Bus([device()]), tmp_path / "tty", baud=115200)
    await line.start()
    client, faults = PtyClient(line.link), line.bus.devices[1].faults

    def talk() -> None:
        for fault, seen in (
            ("echo*1", ASK + GOOD),
            ("stray=00FE*1", b"\x00\xfe" + GOOD),
            ("bytewise=0.002*1", GOOD),
            ("cut=2*1", GOOD[:2]),
            ("", GOOD),
        ):
            if fault:
                faults.set(fault)
            assert client.ask(ASK, len(seen)) == seen
            time.sleep(0.002)
        faults.set("late=0.05*1")
        other = rtu_answer(1, bytes([3, 2, 0, 9]))  # asked in one breath with the one that is late
        assert client.ask(ASK + rtu(1, 3, 9, 1), len(other) + len(GOOD)) == other + GOOD

    await asyncio.to_thread(talk)
    client.close()
    await line.stop()


def test_faults_count_skip_and_repeat() -> None:
    sim, framing = device(), RtuFraming()
    sim.faults.set("busy*2/3+1")  # after one, every third, twice
    answers = [sim.answer(framing.feed(ASK)[0], framing) for _ in range(12)]
    assert [n for n, answer in enumerate(answers) if answer and answer.frame[1] == 0x83] == [3, 6]
    assert sim.faults.hits == {"busy": 2}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("silense", 'Did you mean "silence"'),
        ("nothing-like-it", "Known: blank, busy"),
        ("late=soon", "'soon' is not a valid value: the answer is delayed by VALUE seconds"),
        ("exception=80", "out of range"),
        ("silence=3", "is not a valid value: no answer"),
        ("busy*0", 'after "[*]" must be a whole number above 0, not .0.'),
        ("busy/x", 'after "/" must be a whole number above 0, not .x.'),
        ("stray=0", "is not a valid value: the bytes VALUE"),
        ("late=-1", "out of range"),
    ],
)
def test_a_wrong_fault_is_explained(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse_fault(text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_back_as_written(kind: str) -> None:
    fault = parse_fault(f"{kind}*3/2+4")
    assert parse_fault(str(fault)) == fault
