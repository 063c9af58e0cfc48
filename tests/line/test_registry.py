"""Drivers by protocol, and what each may send."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from drivers import registry
from drivers.model import ConfigError


def test_our_drivers_are_found_and_say_what_they_send() -> None:
    for protocol in registry.DRIVERS:
        driver = registry.driver_class(protocol)
        assert driver.protocol == protocol
        assert driver.FRAMES
    frames = registry.driver_class("modbus").FRAMES
    assert set(frames) == {f"function {n}" for n in (1, 2, 3, 4, 43)}
    assert all("read" in what for what in frames.values())


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no driver for protocol") as caught:
        registry.driver_class("modbuss")
    assert "modbus" in caught.value.hint


def test_importing_the_table_imports_no_driver() -> None:
    code = "import sys, drivers.registry; print([m for m in sys.modules if m.startswith(('drivers.modbus', 'serial'))])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


class Honest:
    protocol = "snail"
    FRAMES: ClassVar[dict[str, str]] = {"hello": "asks how it is"}

    poll = probe = read_points = plan_summary = use_ring = None


class Silent(Honest):
    FRAMES: ClassVar[dict[str, str]] = {}


class Other(Honest):
    protocol = "slug"


class Older:
    """Written before a gateway could move to another ring."""

    protocol = "snail"
    FRAMES: ClassVar[dict[str, str]] = {"hello": "asks how it is"}

    poll = probe = read_points = plan_summary = None


class Half:
    protocol = "snail"
    FRAMES: ClassVar[dict[str, str]] = {"hello": "asks how it is"}


def third_party(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """Install a distribution with a driver, as pip would."""
    installed = folder / "snail-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: snail\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{registry.GROUP}]\nsnail = {__name__}:{name}\n")
    monkeypatch.syspath_prepend(folder)


def test_a_third_partys_driver_is_taken_if_it_states_its_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    third_party(monkeypatch, tmp_path, "Honest")
    assert registry.driver_class("snail") is Honest
    assert registry.protocols()[-1] == "snail"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Silent", "does not state"),
        ("Other", "speaks 'slug'"),
        ("Half", "has no poll"),
        ("Older", "has no use_ring"),
        ("Missing", "cannot be loaded"),
    ],
)
def test_a_third_partys_driver_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, says: str
) -> None:
    third_party(monkeypatch, tmp_path, name)
    with pytest.raises(ConfigError, match=says):
        registry.driver_class("snail")
