"""The agent's clock beside a wall clock that is corrected, and the boot of the kernel that packs and heads name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from agent.clock import SteadyClock, kernel_boot
from agent.store.heads import boot_bytes

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
