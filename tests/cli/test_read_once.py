"""``drivers.read_once``: one device, once, from Python. The same device, profile and values as `meterhouse read`."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import drivers
from drivers import (
    ConfigError,
    GatewayError,
    LineError,
    ProfileError,
    Quality,
    Reason,
    UsageError,
    read_once,
    read_once_async,
)
from tests.kits.simulated import punch, writes


def test_it_gives_values_units_and_qualities(served: Any, box: Path, mh: Any) -> None:
    found = read_once(served.url, box, 1)
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1", "--json")
    assert {line["point"]: line["unit"] for line in said.lines} == {name: one.unit for name, one in found.items()}
    assert found["ac.voltage.l1"].value == Decimal("230.1") and found["ac.voltage.l1"].unit == "V"
    assert found["ac.power.active"].quality == Quality.GOOD and found["device.firmware"].value == "2"
    assert writes(served.device) == 0


def test_the_device_selects_its_variant(served: Any, box: Path) -> None:
    served.image.put_words(20, [0x3320, 0x2020])
    found = read_once(served.url, str(box), "1", points=["ac.energy.*"])
    assert {name: one.value for name, one in found.items()} == {
        "ac.energy.import": Decimal("42.42"), "ac.energy.export": Decimal("43.43"),
    }  # fmt: skip


def test_what_is_missing_says_why(served: Any, box: Path) -> None:
    served.image.put_words(3, [0xFFFF])
    punch(served.image, 2)
    found = read_once(served.url, box, 1)
    assert (found["ac.frequency"].value, found["ac.frequency"].quality) == (None, Reason.SENTINEL)
    assert (found["ac.voltage.l1"].value, found["ac.voltage.l1"].quality) == (None, Reason.EXCEPTION)
    assert found["ac.power.active"].value is not None


async def test_its_twin_is_for_those_who_have_a_loop(served: Any, box: Path) -> None:
    found = await read_once_async(served.url, box, 1, points="ac.voltage.l1")
    assert list(found) == ["ac.voltage.l1"]
    with pytest.raises(RuntimeError, match="await read_once_async"):
        read_once(served.url, box, 1)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"url": "/dev/ttyUSB0"}, ConfigError, "Write serial:/dev/serial/by-id/..., "),
        ({"url": "tcp://127.0.0.1"}, ConfigError, "has no port"),
        ({"url": "modbus-tcp://[::1"}, ConfigError, "Invalid IPv6 URL. Write serial:"),
        ({"url": None}, UsageError, "url: None is not the url of a line. Write serial:"),
        *(({"timeout_s": wrong}, UsageError, "Seconds above 0") for wrong in (float("nan"), 0, -1, "1 s", True, 1e9)),
        ({"zone": "Asia/Shanghia"}, UsageError, "zone: 'Asia/Shanghia' is not a time zone. An IANA name"),
        ({"zone": "../etc"}, UsageError, "is not a time zone"),
        ({"zone": 8}, UsageError, "is not a time zone"),
        ({"dirs": "/profiles"}, UsageError, "dirs: '/profiles' is one folder"),
        ({"address": 256}, ConfigError, "Allowed: 0 to 255"),
        ({"serial": "fast"}, ConfigError, 'Write the setting like "9600 8N1"'),
        ({"ct": 0}, ConfigError, "not a ratio above 0"),
        ({"ct": "x"}, ConfigError, "not a ratio above 0"),
        ({"pt": 10}, ConfigError, "has no effect"),
        ({"profile": "eastron/sdm63"}, ProfileError, 'Did you mean "eastron/sdm630"?'),
        ({"profile": "nowhere.toml"}, ConfigError, "does not exist"),
        ({"points": "ac.volt.l1"}, ProfileError, "no point matches"),
        ({"params": {"racks": 3}}, ProfileError, "racks"),
        ({"url": "serial:/dev/nowhere"}, LineError, "No such file"),
        ({"url": "modbus-tcp://127.0.0.1:1"}, LineError, "Connection refused"),
    ],
)
def test_an_error_says_what_to_do_and_leaves_nothing(
    change: dict[str, Any], error: type[GatewayError], text: str, box: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = {"url": "modbus-tcp://127.0.0.1:1", "profile": box, "address": 1, **change}
    with caplog.at_level(logging.CRITICAL), pytest.raises(error) as told:
        read_once(**given)
    assert text in str(told.value) and "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_scan_of_a_url_that_is_none_is_no_internal_error(mh: Any) -> None:
    said = mh("scan", "--line", "modbus-tcp://[::1")
    assert said.code == 2
    assert "--line: the host or port of the url cannot be read. Write for example tcp://192.0.2.10:4196" in said.err


def test_a_silent_device_is_an_error(served: Any, box: Path) -> None:
    served.fault("silence")
    with pytest.raises(LineError, match=r"no answer within 0\.1 s") as told:
        read_once(served.url, box, 1, timeout_s=0.1)
    assert told.value.retry and told.value.where.startswith(served.url)


def test_the_door_has_what_it_names_and_opens_without_cost() -> None:
    """The agent imports ``drivers`` everywhere: the names come when they are used."""
    assert drivers.__all__ == sorted(drivers.__all__, key=lambda name: (name[0].islower(), name))
    for name in drivers.__all__:
        assert getattr(drivers, name).__module__ in ("drivers.model", "drivers.once")
    with pytest.raises(AttributeError, match="no attribute 'read_twice'"):
        _ = drivers.read_twice
    program = "import sys, drivers; print(*[name for name in sys.modules if name.startswith(('drivers', 'ext.'))])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["drivers"]


@pytest.mark.process
def test_the_example_of_the_page(served: Any, tmp_path: Path) -> None:
    """docs/api.md, with the port of the simulated meter and its profile in place of the page's."""
    page = (Path(__file__).parents[2] / "docs/api.md").read_text("utf-8")
    (program,) = [b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import read_once\n" in b]
    assert "modbus-tcp://192.0.2.10" in program and '"eastron/sdm630"' in program
    program = program.replace("modbus-tcp://192.0.2.10", served.url).replace(
        '"eastron/sdm630"', repr(str(Path(__file__).parent / "profiles/test/box.toml"))
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False, env={**os.environ}
    )
    assert done.returncode == 0 and done.stdout.splitlines() == ["ac.voltage.l1 230.1 V"], done.stderr
