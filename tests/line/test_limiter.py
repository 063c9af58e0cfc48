"""Hosts that take few connections, and devices that want a pause after one was made. field pain 43"""

from __future__ import annotations

import asyncio

import pytest

from drivers.line import Line
from drivers.line.limiter import ConnectionLimiter
from drivers.modbus.device import ModbusDevice
from drivers.model import Limits, LineDown
from ext.ring import Ring
from tests.kits.lines import Field, ask, ask_while, gauge, sim_device, spec_of, words
from tests.kits.wires import mono_ns


async def both(field: Field, **limits: object) -> tuple[Line, Line]:
    """Two lines to one host, by two ports."""
    first, second = await field.tcp(sim_device(1)), await field.tcp(sim_device(1, range(500, 700)))
    return field.line(first, **limits), field.line(second, **limits)


async def test_lines_to_one_host_take_turns(field: Field) -> None:
    a, b = await both(field, connections=1)
    for n in range(5):
        assert (await a.exchange(ask(n, 1))).payload == words(n)
        assert a.is_open and not b.is_open
        assert (await b.exchange(ask(n, 1))).payload == words(500 + n)
        assert b.is_open and not a.is_open
    assert (a.stats.opened, b.stats.opened) == (5, 5) and not a.stats.lost


async def test_both_at_once_are_served_and_nobody_starves(field: Field) -> None:
    a, b = await both(field, connections=1)
    open_at_once = 0

    async def ask_often(line: Line, first: int) -> int:
        nonlocal open_at_once
        for n in range(20):
            assert (await line.exchange(ask(n, 1))).payload == words(first + n)
            open_at_once = max(open_at_once, a.is_open + b.is_open)
        return 20

    assert await asyncio.gather(ask_often(a, 0), ask_often(b, 500)) == [20, 20]
    assert open_at_once == 1


async def test_without_a_cap_both_stay_open(field: Field) -> None:
    a, b = await both(field)
    for _ in range(3):
        await a.exchange(ask(0, 1))
        await b.exchange(ask(0, 1))
    assert a.is_open and b.is_open and (a.stats.opened, b.stats.opened) == (1, 1)


async def test_a_profile_says_it_for_its_line(field: Field, ring: Ring) -> None:
    """What a device's limits say of the connection reaches the line: the cap, and the delay after connecting."""
    a, b = await both(field)
    device = ModbusDevice(spec_of([gauge(0)], connections=1, connect_delay_s=0.2), a, ring, 1)
    began = mono_ns()
    result = await device.poll(0, 1)
    assert result.answered == 1 and mono_ns() - began == 200_000_000
    await b.exchange(ask(0, 1))
    assert b.is_open and not a.is_open
    began = mono_ns()
    await b.exchange(ask(0, 1))
    assert mono_ns() == began, "no delay where nobody asked for one"


async def test_a_host_that_stays_full_is_a_line_that_is_down(field: Field) -> None:
    """The wait is bounded, the message says why, and the place is free again afterwards."""
    a, b = await both(field, connections=1, timeout_s=60.0)
    field.bus(0).devices[1].faults.set("late=20*1")
    slow = asyncio.ensure_future(a.exchange(ask(0, 1)))
    await asyncio.sleep(0.05)
    began = mono_ns()
    with pytest.raises(LineDown, match="other lines use all connections that 127"):
        await b.exchange(ask(0, 1))
    assert mono_ns() - began == pytest.approx(5e9)
    assert (await slow).payload == words(0)
    assert (await ask_while(b, ask(0, 1), LineDown)).payload == words(500)


class Connection:
    """A line as its host sees it: idle ones close when asked to."""

    def __init__(self, host: ConnectionLimiter, *, idle: bool = False) -> None:
        self.host, self.idle = host, idle

    def release_if_idle(self) -> None:
        if self.idle:
            self.host.release(self)


async def test_the_lowest_cap_of_those_connected_holds() -> None:
    host = ConnectionLimiter("h")
    a, b, c = (Connection(host) for _ in range(3))
    await host.acquire(a)
    await host.acquire(b, 4)
    assert (host.lowest_limit(), host.lowest_limit(8), host.lowest_limit(2)) == (4, 4, 2)
    host.set_limit(a, 2)
    host.set_limit(c, 1)  # not connected: says it when it comes
    assert host.lowest_limit() == 2
    third = asyncio.ensure_future(host.acquire(c))
    await asyncio.sleep(0)
    assert host.is_contended
    host.release(a)
    await third
    assert host.lowest_limit() == 4, "who has left has taken its cap along"
    host.release(b)
    host.release(c)
    assert host.lowest_limit() is None


async def test_places_go_to_those_who_wait_in_their_order() -> None:
    """A newcomer in the very moment of a place that becomes free stands at the end."""
    host, came = ConnectionLimiter("h"), []
    first, *others = (Connection(host) for _ in range(6))
    await host.acquire(first, 1)

    async def go(n: int, connection: Connection) -> None:
        await host.acquire(connection, 1)
        came.append(n)
        await asyncio.sleep(0)
        host.release(connection)

    waiting = [asyncio.ensure_future(go(n, connection)) for n, connection in enumerate(others[:4])]
    await asyncio.sleep(0)
    host.release(first)
    waiting.append(asyncio.ensure_future(go(4, others[4])))
    await asyncio.gather(*waiting)
    assert came == [0, 1, 2, 3, 4] and host.lowest_limit() is None


@pytest.mark.parametrize("given", [False, True], ids=["still waits", "in the very moment of its place"])
async def test_who_gives_up_waiting_blocks_nobody(given: bool) -> None:
    host = ConnectionLimiter("h")
    a, b, c = (Connection(host) for _ in range(3))
    await host.acquire(a, 1)
    gives_up, stays = asyncio.ensure_future(host.acquire(b, 1)), asyncio.ensure_future(host.acquire(c, 1))
    await asyncio.sleep(0)
    if given:
        host.release(a)
    gives_up.cancel()
    await asyncio.wait([gives_up])
    assert gives_up.cancelled()
    host.release(a)
    await stays
    assert not host.is_contended and host.lowest_limit() == 1


async def test_idle_lines_make_room_at_once_and_no_more_than_needed() -> None:
    host = ConnectionLimiter("h")
    guests = [Connection(host, idle=True) for _ in range(3)]
    for connection in guests:
        await host.acquire(connection, 3)
    await host.acquire(Connection(host), 3)
    assert host.lowest_limit() == 3 and not host.is_contended
    await host.acquire(guests[1], 3)  # is still there
    host.release(guests[0])  # is not: the one connected longest made room


async def test_a_line_that_is_removed_takes_its_cap_along(field: Field) -> None:
    """A reload without the line that named it: the others stay open beside each other. So do those of another loop."""
    first, second = await both(field)
    capped = field.line(field.url(0), connections=1)
    await first.exchange(ask(0, 1))
    await capped.exchange(ask(0, 1))
    assert capped.is_open and not first.is_open
    await second.exchange(ask(0, 1))
    assert second.is_open and not capped.is_open, "its cap holds while anybody beside it would break it"
    await capped.close()
    for _ in range(2):
        await first.exchange(ask(0, 1))
        await second.exchange(ask(0, 1))
    assert first.is_open and second.is_open


async def test_who_listens_lets_go_afterwards(field: Field) -> None:
    a, b = await both(field, connections=1)
    listens = asyncio.ensure_future(a.listen(0.05))
    await asyncio.sleep(0.01)
    assert (await b.exchange(ask(0, 1))).payload == words(500)
    await listens
    assert b.is_open and not a.is_open


def test_limits_of_a_device_beat_those_of_its_line() -> None:
    assert Limits(connections=2).over(Limits(connections=1)).connections == 2


async def test_who_listens_does_so_for_as_long_as_asked(field: Field) -> None:
    line, _ = await both(field, connections=1)
    loop = asyncio.get_running_loop()
    began = loop.time()

    await line.listen(3600)

    assert loop.time() - began >= 3600
