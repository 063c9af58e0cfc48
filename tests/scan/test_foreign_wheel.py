"""A third party's protocol, in a wheel of its own, gets all that ours get: nothing here names it but the wheel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import load_config
from drivers import registry
from drivers.profile import find_profile, load_profile
from drivers.sim.families import meter_from_profile
from drivers.sim.meters import MixedBus
from tests.kits.scans import Park

pytestmark = pytest.mark.process

PROJECT = Path(__file__).parents[1] / "kits" / "snail"
FRAME = "02 30 30 34 32 41 4d 3d 47 31 3b 45 3d 37 2e 35 03"
QUESTION = "02 41 41 41 41 51 03 71"
MINE = ("--listen", "0", "--bus-is-mine")
SITE = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[[uplink]]
name = "platform"
url = "mqtt://127.0.0.1:1883"

[[line]]
name = "bus"
url = "{url}"
serial = "1200 8E1"

[[device]]
name = "snail1"
line = "bus"
address = "{address}"
profile = "snail/garden"
roles = {{ ac = "grid" }}
"""


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the wheel."""
    pytest.importorskip("setuptools", "80")
    folder = tmp_path_factory.mktemp("snail")
    quiet = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    source = folder / "source"
    source.mkdir()
    for path in (p for p in PROJECT.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        copy = source / path.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    offline = ("--no-build-isolation", "--no-deps", "--no-index")
    subprocess.run([*quiet, "wheel", *offline, "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("meterhouse_snail-*.whl")
    subprocess.run([*quiet, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.fixture(autouse=True)
def installed(site_packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that begins after pip: whatever has listed the protocols before is imported anew."""
    monkeypatch.syspath_prepend(site_packages)
    _forget()
    yield
    _forget()


def _forget() -> None:
    listing = ("meterhouse_snail", "agent.cli.scan", "agent.cli.identify", "agent.cli.adopt", "agent.cli.chinese")
    for name in [name for name in sys.modules if name.startswith(listing)]:
        del sys.modules[name]


def snail(address: str = "0042", seed: int = 1) -> Any:
    return meter_from_profile(load_profile(find_profile("snail/garden")), address=address, seed=seed)


def test_it_is_known_by_its_wheel_alone() -> None:
    assert registry.protocols()[-1] == "snail"
    assert registry.protocol_of("snail").frames == {"question": "asks for all values"}
    assert registry.driver_class("snail").__name__ == "SnailDevice"


def test_it_is_scanned_and_its_profile_is_found(mh: Callable[..., Any], field: Park) -> None:
    meter, _ = snail()
    line = field.pty(MixedBus([meter]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "snail", "--quick", "--json",
              "--snail-pace", "slower", *MINE)  # fmt: skip
    (found,) = said.lines
    assert (found["protocol"], found["address"]) == ("snail", "0042"), said.err
    assert [(fit["profile"], fit["fit"]) for fit in found["profiles"]] == [("snail/garden", "certain")]
    assert found["identity"]["device.model"] == "GARDEN-1"


def test_two_at_once_are_a_crowd_and_another_master_is_described(mh: Callable[..., Any], field: Park) -> None:
    line = field.pty(MixedBus([snail("0042", 1)[0], snail("0057", 2)[0]]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "snail", "--quick", *MINE)
    assert "snail any address: several meters answer at once" in said.err
    line = field.pty(MixedBus())
    line.says, line.says_every_s = lambda: bytes.fromhex(QUESTION), 0.05
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--listen", "0.5")
    assert said.code == 4 and "another master is active: a snail at AAAA" in said.err


def test_it_is_identified_and_read(mh: Callable[..., Any], field: Park) -> None:
    meter, display = snail()
    line = field.pty(MixedBus([meter]))
    to = ("--line", line.url, "--address", "42", "--serial", line.serial)
    said = mh("identify", *to, "--protocol", "snail", "--json")
    assert said.lines[0]["profiles"][0]["profile"] == "snail/garden"
    said = mh("read", *to, "--profile", "snail/garden", "--json")
    values = {reading["point"]: reading["value"] for reading in said.lines}
    shown = display.values()
    assert values["ac.energy.import"] == float(shown["ac.energy.import"]) > 0
    assert values["device.serial"] == shown["device.serial"]
    assert mh("read", *to[:3], "7", *to[4:], "--profile", "snail/garden").code == 4


def test_its_bytes_are_explained(mh: Callable[..., Any]) -> None:
    check = 0x20
    for byte in bytes.fromhex(FRAME)[1:-1]:
        check ^= byte
    said = mh("decode", "snail", f"{FRAME} {check:02x}", "--json")
    assert said.lines[0]["frame"]["address"] == "0042"
    assert [(one["name"], one["value"], one["unit"]) for one in said.lines[0]["readings"]] == [
        ("M", "G1", ""),
        ("E", 7.5, "kWh"),
    ]
    assert "a valid frame of Snail: try `meterhouse decode snail`" in mh("decode", "cjt188", QUESTION).err
    assert "snail" in mh("decode", "--help").out


def test_its_profile_is_listed_and_its_sample_replayed(mh: Callable[..., Any]) -> None:
    assert "snail/garden" in mh("profiles", "list").out
    assert mh("profiles", "check", find_profile("snail/garden")).code == 0
    assert "reads frames, not registers" in mh("decode", "profile", "snail/garden", "-").err


def test_its_configuration_is_checked(mh: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(SITE.format(url="serial:/dev/null", address="42"))
    (device,) = load_config(path).devices
    assert device.profile == "snail/garden"
    wrong = {
        ("serial:/dev/null", "shell"): '"shell" is not a Snail address. The digits on its shell, at most 4',
        ("modbus-tcp://192.0.2.1", "42"): "Snail cannot be used over modbus-tcp",
    }
    for (url, address), complaint in wrong.items():
        path.write_text(SITE.format(url=url, address=address))
        said = mh("check", "-c", path)
        assert said.code == 3 and "agent.toml:" in said.err and complaint in said.err
    path.write_text(SITE.format(url="serial:/dev/null", address="shell"))
    assert "壳上的数字，最多4位" in mh("check", "-c", path, "--lang", "zh").err


def test_it_is_simulated(mh: Callable[..., Any], tmp_path: Path) -> None:
    said = mh("simulate", "--profile", "snail/garden", "--pty", tmp_path / "tty", "--for", "0.05s", "--json")
    assert said.code == 0, said.err
    (line,) = [json.loads(text) for text in said.out.splitlines()]
    assert line["profile"] == "snail/garden" and line["serial"].startswith("1200")
