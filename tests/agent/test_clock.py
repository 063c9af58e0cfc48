"""The agent's clock beside a wall clock that is corrected, and the boot of the kernel that packs and heads name."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SteadyClock, TickTimer, WakeableSleep, kernel_boot, sleep_to_multiple
from agent.store.heads import boot_bytes
from tests.conftest import MadeUpTime

SECOND_NS = 1_000_000_000
T0_NS = 1_795_876_440 * SECOND_NS


def test_a_correction_backwards_never_takes_back_a_tick() -> None:
    """Else a reading of a tick asked a moment ago lies in the future, and an agent that is stopped now drops it."""
    # field pain 62
    wall, mono = [T0_NS], [0]
    clock = SteadyClock(lambda: wall[0], lambda: mono[0])
    wall[0] -= SECOND_NS // 4
    seen = [clock.now_ms()]
    for n in range(1000):  # 10 s; a comparison each second
        wall[0] += SECOND_NS // 100
        mono[0] += SECOND_NS // 100
        seen.append(clock.now_ms())
        if n % 100 == 99:
            assert clock.check_step() is None
            seen.append(clock.now_ms())
    assert seen == sorted(seen)
    assert seen[-1] == wall[0] // 1_000_000, "it has come down to the wall clock"
    assert max(b - a for a, b in pairwise(seen)) <= 10, "without a leap"


def test_a_step_is_taken_from_where_the_clock_stood_still() -> None:
    wall, mono = [T0_NS], [0]
    clock = SteadyClock(lambda: wall[0], lambda: mono[0])
    wall[0] -= SECOND_NS // 4
    assert clock.check_step() is None
    stood_ms = clock.now_ms()
    wall[0] -= 3600 * SECOND_NS
    step = clock.check_step()
    assert step == (stood_ms, wall[0] // 1_000_000) and clock.now_ms() == stood_ms
    clock.take_step()
    assert clock.now_ms() == wall[0] // 1_000_000


def test_packs_and_heads_name_the_same_boot() -> None:
    boot = kernel_boot()
    assert boot and len(boot) == 36
    assert boot_bytes() == bytes.fromhex(boot.replace("-", ""))


@pytest.mark.parametrize("content", [None, b"", b"\n", b"not known\n", b"\xff\xfe"])
def test_a_boot_that_cannot_be_read_is_not_known(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "boot_id"
    if content is not None:
        file.write_bytes(content)
    assert kernel_boot(file) is None


def test_tasks_that_sleep_to_multiples_share_their_wake_ups(made_up_time: MadeUpTime) -> None:
    """They begin at different times, and wake together."""
    woken: dict[float, list[float]] = {1.0: [], 2.0: []}

    async def look(begin_s: float, every_s: float) -> None:
        await asyncio.sleep(begin_s)
        for _ in range(4):
            await sleep_to_multiple(every_s)
            woken[every_s].append(made_up_time.time())

    async def main() -> None:
        await asyncio.gather(look(0.3, 1.0), look(0.7, 2.0))

    began = made_up_time.time()
    made_up_time.run_until_complete(main())
    assert woken[1.0] == pytest.approx([began + n for n in (1, 2, 3, 4)])
    assert woken[2.0] == pytest.approx([began + n for n in (2, 4, 6, 8)])


def test_a_sleep_can_be_ended_early(made_up_time: MadeUpTime) -> None:
    """Only while it lasts: a wake before it does nothing."""
    rest = WakeableSleep()

    async def main() -> list[float]:
        rest.wake()
        times = [made_up_time.time()]
        for wake_s in (3.0, 20.0):
            waker = made_up_time.call_later(wake_s, rest.wake)
            await rest.sleep(10)
            times.append(made_up_time.time())
            waker.cancel()
        return times

    began, early, late = made_up_time.run_until_complete(main())
    assert (early - began, late - early) == pytest.approx((3, 10))


async def test_sleeps_that_end_together_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of a gateway wake at the same ticks."""
    loop, clock = asyncio.get_running_loop(), SteadyClock()
    timer, made = TickTimer(clock), list[float]()
    call_later = loop.call_later

    def counted(delay: float, *call: Any) -> Any:
        made.append(delay)
        return call_later(delay, *call)

    monkeypatch.setattr(loop, "call_later", counted)
    sleeps = [WakeableSleep() for _ in range(100)]
    due_ms = clock.now_ms() + 30
    tasks = [asyncio.ensure_future(sleep.until(due_ms, timer)) for sleep in sleeps]
    await asyncio.sleep(0)
    sleeps[0].wake()
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len([delay for delay in made if delay]) == 1 and tasks[1].cancelled()
    assert clock.now_ms() >= due_ms - 1
    await sleeps[0].until(due_ms, timer)  # a time that is past: the sleep ends in the next ms
    assert len([delay for delay in made if delay]) == 2
