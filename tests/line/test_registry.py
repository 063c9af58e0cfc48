"""Drivers by protocol, and what each may send."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from drivers import registry
from drivers.explain import Explainer
from drivers.model import ConfigError
from drivers.protocol import Protocol
from drivers.scan.device_search import DeviceSearch


def test_our_protocols_are_found_and_say_what_they_send() -> None:
    for name in registry.PACKAGES:
        protocol = registry.protocol_of(name)
        assert protocol.name == name == registry.driver_class(name).protocol
        assert protocol.frames and protocol.title
    frames = registry.protocol_of("modbus").frames
    assert set(frames) == {f"function {n}" for n in (1, 2, 3, 4, 43)}
    assert all("read" in what for what in frames.values())


@pytest.mark.parametrize("name", registry.PACKAGES)
def test_whatever_a_descriptor_names_exists(name: str) -> None:
    """They are names in texts, so that a descriptor imports nothing: only here are they all followed."""
    protocol = registry.protocol_of(name)
    parser, search, simulate = protocol.new_parser(), protocol.search_class(), protocol.simulation()
    assert parser is None or parser.feed(b"") == []
    assert search is None or issubclass(search, DeviceSearch)
    assert simulate is None or callable(simulate)
    assert all(isinstance(one, Explainer) for one in protocol.all_explainers())
    assert protocol.wire_name in registry.PACKAGES


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


class Whole:
    protocol = "snail"
    poll = probe = read_points = read_sample = plan_summary = use_ring = None


class Older:
    """Written before a gateway could move to another ring."""

    protocol = "snail"
    poll = probe = read_points = read_sample = plan_summary = None


class Half:
    protocol = "snail"


def described(driver: str = "Whole", name: str = "snail", says: str = "asks how it is") -> Protocol:
    frames = {"hello": says} if says else {}
    return Protocol(name, "Snail", f"{__name__}:{driver}", frames, lambda address, scheme: None)


HONEST, SILENT, OTHER = described(), described(says=""), described(name="slug")
NO_EXPLAINERS = replace(HONEST, explainers=f"{__name__}:Missing")
NO_PATH = replace(HONEST, parser="snail")
NO_PARSER = replace(HONEST, request_parser=f"{__name__}:Whole")
HALF, OLDER, LOST = described("Half"), described("Older"), described("Missing")


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
    third_party(monkeypatch, tmp_path, "HONEST")
    assert registry.driver_class("snail") is Whole
    assert registry.protocol_of("snail") is HONEST
    assert registry.protocols()[-1] == "snail"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SILENT", "does not list the frames that the driver sends"),
        ("OTHER", "the descriptor is for the protocol 'slug'"),
        ("HALF", "the driver lacks the members poll"),
        ("OLDER", "the driver lacks the members use_ring"),
        ("MISSING", "cannot be loaded"),
        ("LOST", "cannot be loaded"),
        ("Whole", "is not the descriptor of a protocol"),
    ],
)
def test_a_third_partys_driver_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, says: str
) -> None:
    third_party(monkeypatch, tmp_path, name)
    with pytest.raises(ConfigError, match=says):
        registry.driver_class("snail")


BROKEN_MODULES = {
    "raises": "raise RuntimeError('needs a licence\\nfile')",
    "field": "from drivers.protocol import Protocol\nPROTOCOL = Protocol(name='snail')",
    "syntax": "this is not Python",
    "exits": "def f():\n    raise KeyError('no')\nf()",
}


@pytest.mark.parametrize("kind", BROKEN_MODULES)
def test_a_broken_package_is_left_out_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    (tmp_path / f"snail_{kind}.py").write_text(BROKEN_MODULES[kind])
    third_party(monkeypatch, tmp_path, "HONEST")
    (tmp_path / "snail-1.0.dist-info" / "entry_points.txt").write_text(
        f"[{registry.GROUP}]\nsnail = snail_{kind}:PROTOCOL\n"
    )
    left_out(caplog, f"driver snail (snail_{kind}:PROTOCOL): cannot be loaded: ")


@pytest.mark.parametrize("name", ["NO_EXPLAINERS", "NO_PATH", "NO_PARSER"])
def test_a_path_that_leads_nowhere_leaves_its_protocol_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    third_party(monkeypatch, tmp_path, name)
    left_out(caplog, f"driver snail ({__name__}:{name}): ")


def left_out(caplog: pytest.LogCaptureFixture, says: str) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert [one.name for one in registry.all_protocols()] == list(registry.PACKAGES)
    (record,) = caplog.records
    assert record.getMessage().startswith(says) and "\n" not in record.getMessage()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        registry.protocol_of("snail")
