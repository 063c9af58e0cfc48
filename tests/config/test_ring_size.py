"""The rule for the size of the ring, and what is said of sizes that are not as written or not enough."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.cli.line_load import plan_costs, ring_of
from agent.config import (
    Config,
    ReadingRate,
    RingConfig,
    file_system_bytes,
    line_config,
    load_profiles,
    memory_bytes,
    memory_notes,
    plan_ring,
    rate_of,
    reading_rate,
    ring_notes,
)
from agent.service.births import DeviceCatalog
from drivers.line import open_line
from drivers.model import PlanSummary
from ext.ring import Ring

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
AUTO = RingConfig()


def rate(slots: float) -> ReadingRate:
    return ReadingRate(slots, slots)


def exactly(size: int, held_s: float) -> float:
    """Slots a second that fill ``size`` in ``held_s``, with the margin of a quarter."""
    return size / 16 / held_s / 1.25


@pytest.mark.parametrize(
    ("config", "slots", "every_s", "file_system", "need", "size"),
    [
        # nothing or little to read: 16 MiB, as ever
        (AUTO, 0, 10, 8 * GIB, 64 * KIB, 16 * MIB),
        (AUTO, 10, 10, 8 * GIB, 64 * KIB, 16 * MIB),
        # 100, 400, 1,600 and 3,000 devices of 100 points in two requests, at 1 Hz
        (AUTO, 100 * 104, 10, 8 * GIB, 4 * MIB, 16 * MIB),
        (AUTO, 400 * 104, 10, 8 * GIB, 16 * MIB, 16 * MIB),
        (AUTO, 1600 * 104, 10, 8 * GIB, 64 * MIB, 64 * MIB),
        (AUTO, 3000 * 104, 10, 8 * GIB, 128 * MIB, 128 * MIB),
        # exactly a power of two, and a slot more
        (AUTO, exactly(32 * MIB, 20), 10, 8 * GIB, 32 * MIB, 32 * MIB),
        (AUTO, exactly(32 * MIB, 20) + 1, 10, 8 * GIB, 64 * MIB, 64 * MIB),
        # other intervals: with 10 s of stall, or two intervals where those are longer
        (AUTO, exactly(32 * MIB, 11), 1, 8 * GIB, 32 * MIB, 32 * MIB),
        (AUTO, exactly(32 * MIB, 120), 60, 8 * GIB, 32 * MIB, 32 * MIB),
        (AUTO, exactly(32 * MIB, 1800), 900, 8 * GIB, 32 * MIB, 32 * MIB),
        # capped by max, and by a quarter of the file system
        (AUTO, 300_000, 60, 8 * GIB, 1 * GIB, 256 * MIB),
        (RingConfig(None, 512 * MIB), 300_000, 60, 8 * GIB, 1 * GIB, 512 * MIB),
        (RingConfig(None, 300 * MIB), 300_000, 60, 8 * GIB, 1 * GIB, 256 * MIB),
        (AUTO, 300_000, 60, 400 * MIB, 1 * GIB, 64 * MIB),
        (AUTO, 0, 10, 50 * MIB, 64 * KIB, 8 * MIB),
        # a tiny /run, and one that is smaller than any ring
        (AUTO, 1000, 10, 1 * MIB, 512 * KIB, 256 * KIB),
        (AUTO, 1000, 10, 100 * KIB, 512 * KIB, 64 * KIB),
        # written: kept where it is enough, also above max and beyond a quarter of the file system
        (RingConfig(1 * MIB), 1000, 10, 8 * GIB, 512 * KIB, 1 * MIB),
        (RingConfig(512 * MIB), 1000, 10, 8 * GIB, 512 * KIB, 512 * MIB),
        (RingConfig(16 * MIB), 1000, 10, 32 * MIB, 512 * KIB, 16 * MIB),
        (RingConfig(100 * KIB), 0, 10, 8 * GIB, 64 * KIB, 64 * KIB),
        # written and not enough: raised, at most to the limit
        (RingConfig(64 * KIB), 1000, 10, 8 * GIB, 512 * KIB, 512 * KIB),
        (RingConfig(16 * MIB), 1600 * 104, 10, 8 * GIB, 64 * MIB, 64 * MIB),
        (RingConfig(16 * MIB, 32 * MIB), 1600 * 104, 10, 8 * GIB, 64 * MIB, 32 * MIB),
        (RingConfig(64 * KIB, 64 * KIB), 1000, 10, 8 * GIB, 512 * KIB, 64 * KIB),
    ],
)
def test_the_size(config: RingConfig, slots: float, every_s: int, file_system: int, need: int, size: int) -> None:
    plan = plan_ring(config, rate(slots), every_s * 1000, file_system)
    assert (plan.need_bytes, plan.size_bytes) == (need, size)
    assert size & (size - 1) == 0 and size >= 64 * KIB


@pytest.mark.parametrize("every_s", [1, 5, 10, 15, 60, 900])
@pytest.mark.parametrize("slots", [10, 999, 40_000, 166_400, 312_000])
def test_a_ring_that_is_large_enough_holds_interval_and_stall_and_is_not_sealed_early(
    slots: float, every_s: int
) -> None:
    plan = plan_ring(RingConfig(None, 64 * GIB), rate(slots), every_s * 1000, 1 << 50)
    assert plan.full_s >= 1.25 * (every_s + 10)
    assert plan.early_s is None and ring_notes(of(AUTO), plan) == []


def test_a_rate_is_the_sum_of_all_visits() -> None:
    found = rate_of([(PlanSummary(2, 200, 100, 0.1), 1000), (PlanSummary(1, 10, 5, 0.1), 5000)])
    assert found == ReadingRate(101, 104 + 7 / 5)


def test_the_agent_computes_the_rate_that_check_prints(site: Any, good: str, tmp_path: Path) -> None:
    """The one plans devices of a kind once, the other each of them."""
    box = '\n[[device]]\nname = "more{n}"\nline = "roof"\naddress = "{n}"\nprofile = "test/meter"\nevery = {every}\n'
    site.write(
        good
        + "".join(box.format(n=n, every='{ fast = "3 s" }' if n % 2 else '{ slow = "30 s" }') for n in range(60, 70))
    )
    config = site.load()
    catalog = DeviceCatalog(config)
    lines = {line.name: open_line(line_config(line)) for line in config.lines}
    ring = Ring.create(str(tmp_path / "ring"), 64 * KIB, 0, 0, bytes(32))
    found = reading_rate(config, ((device, catalog.spec(device)) for device in config.devices), lines, ring)
    ring.close()
    assert found.readings > 3
    told = ring_of(config, plan_costs(config, load_profiles(config))).rate
    assert (found.readings, found.slots) == pytest.approx((told.readings, told.slots))


def of(ring: RingConfig) -> Config:
    return cast(Config, SimpleNamespace(ring=ring, runtime_dir=Path("/run/x"), at=lambda key: key))


@pytest.mark.parametrize(
    ("ring", "slots", "every_s", "file_system", "notes"),
    [
        (AUTO, 1600 * 104, 10, 8 * GIB, []),
        (RingConfig(1 * MIB), 1000, 10, 8 * GIB, []),
        (
            RingConfig(100 * KIB), 0, 10, 8 * GIB,
            [
                "ring.size: the agent changes the size 100 KiB to 64 KiB. "
                "The size of the ring buffer must be a power of two, so the agent rounds it down"
            ],
        ),
        (
            RingConfig(16 * MIB), 1600 * 104, 10, 8 * GIB,
            [
                "ring.size: 16 MiB is less than the 64 MiB that the devices need; "
                "the agent raises the size to 64 MiB. "
                'Write size = "auto", or leave size out'
            ],
        ),
        (
            AUTO, 320_000, 60, 8 * GIB,
            [
                "ring: the devices need a ring buffer of 1 GiB, but at most 256 MiB are allowed (ring.max); if the "
                'store stalls, the ring buffer is full after 52.4 s, and later readings are lost (gap reason "ring"); '
                "the ring buffer is already half full after 26.2 s, so packs are sealed early. "
                'Raise ring.max to "1 GiB", seal packs more often (the key "every" in [pack]), or read the devices '
                "less often"
            ],
        ),
        (
            AUTO, 320_000, 10, 400 * MIB,
            [
                "ring: the devices need a ring buffer of 128 MiB, but at most 64 MiB are allowed (a quarter of the "
                "file system of /run/x); if the store stalls, the ring buffer is full after 13.1 s, and later readings "
                'are lost (gap reason "ring"); the ring buffer is already half full after 6.6 s, so packs are sealed '
                'early. Enlarge the file system, seal packs more often (the key "every" in [pack]), or read the '
                "devices less often"
            ],
        ),
        (RingConfig(64 * KIB, 64 * KIB), 100, 1, 8 * GIB, []),
    ],
)  # fmt: skip
def test_what_is_said(ring: RingConfig, slots: float, every_s: int, file_system: int, notes: list[str]) -> None:
    plan = plan_ring(ring, rate(slots), every_s * 1000, file_system)
    assert [str(note) for note in ring_notes(of(ring), plan)] == notes


def test_what_check_prints_of_it() -> None:
    plan = plan_ring(AUTO, ReadingRate(160_000, 1600 * 104), 10_000, 8 * GIB)
    assert str(plan) == (
        "160,000 readings per second need a ring buffer of 64 MiB if packs are sealed every 10 s and the store "
        "stalls for 10 s; the ring buffer has 64 MiB"
    )


@pytest.mark.parametrize(
    ("devices", "slots", "machine", "said"),
    [
        (20, 20 * 104, 256 * MIB, ""),
        (3000, 3000 * 104, 1 * GIB, ""),
        (
            3000, 3000 * 104, 512 * MIB,
            "memory: the agent needs about 473 MiB of memory, but its systemd unit allows only 307 MiB "
            "of the 512 MiB of this machine. "
            "Use a machine with more memory, fewer devices, or a smaller [ring] max",
        ),
    ],
)  # fmt: skip
def test_memory(devices: int, slots: float, machine: int, said: str) -> None:
    plan = plan_ring(AUTO, rate(slots), 10_000, 8 * GIB)
    assert memory_bytes(devices, plan) == 64 * MIB + devices * 96 * KIB + plan.size_bytes
    config = cast(Config, SimpleNamespace(devices=[None] * devices))
    assert [str(note) for note in memory_notes(config, plan, machine)] == ([said] if said else [])


def test_the_file_system_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert file_system_bytes(tmp_path / "a" / "b") == file_system_bytes(tmp_path) > 1 * MIB


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('size = "atuo"', '"atuo" is not a size. Write a number and a unit, such as "16 MiB"; or write "auto"'),
        ('size = "16 KiB"', '"16 KiB" is out of range. Allowed: 64 KiB to 4 GiB; or write "auto"'),
        ("size = 16", '16 has no unit. Write a size in quotes, such as "16 MiB"; or write "auto"'),
        ('max = "16 KiB"', '"16 KiB" is out of range. Allowed: 64 KiB to 4 GiB'),
        ('max_size = "1 MiB"', "max_size"),
    ],
)
def test_sizes_that_are_wrong(site: Any, text: str, said: str) -> None:
    site.write('[site]\nid = "p"\ngateway = "g"\ntimezone = "UTC"\n[ring]\n' + text)
    (one,) = site.complaints()
    assert said in one
