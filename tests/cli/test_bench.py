"""`meterhouse bench`: what a machine carries follows from what a device costs, and from its memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.cli.bench_agent import DELIVERY, capacity_of

GIB = 1 << 30


@pytest.mark.parametrize(
    ("core_per_device", "machine_bytes", "devices", "limit"),
    [
        (0.0004, 8 * GIB, 1000, "the processor"),
        (0.00004, 1 * GIB, 4500, "the memory"),
        (0.02, 256 << 20, 21, "the processor"),
        (0.0001, 100 << 20, 0, "the memory"),
    ],
)
def test_the_scarcer_of_processor_and_memory_decides(
    core_per_device: float, machine_bytes: int, devices: int, limit: str
) -> None:
    found = capacity_of(core_per_device, machine_bytes, runtime_bytes=machine_bytes // 2)
    assert found.devices == devices
    assert found.by_processor == int(0.5 / core_per_device / DELIVERY)
    assert str(found).endswith(f"using half a core; the limiting resource is {limit}")


@pytest.mark.slow
def test_the_agent_is_run_and_a_number_comes_out(mh: Callable[..., Any], tmp_path: Path) -> None:
    done = mh("bench", "--dir", str(tmp_path), "--json")
    found = json.loads(done.out)
    assert done.code == 0 and found["devices"] > 0 and found["core_per_device"] > 0
    assert not list(tmp_path.iterdir()), "nothing is left"
