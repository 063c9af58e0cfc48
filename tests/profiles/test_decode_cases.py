"""Recorded frames, registers and dumps of other projects through `meterhouse decode`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.decode import decode
from drivers.profile import find_profile
from tests.kits.recorded import cases

Json = dict[str, Any]


def run(*args: str, code: int = 0) -> Json:
    result = CliRunner().invoke(decode, [*args, "--json"])
    assert result.exit_code == code, (args, result.output, result.exception)
    found: Json = json.loads(result.stdout)
    assert found["ok"] is (code == 0)
    return found


def same(value: Any, expected: Any) -> bool:
    """As numbers: some recordings went through a 64-bit float, some were rounded to six digits."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return math.isclose(value, expected, rel_tol=1e-6 if isinstance(expected, float) else 1e-15, abs_tol=1e-9)
    return bool(value == expected)


@pytest.mark.parametrize("topic", ["modbus", "dumps"])
def test_registers(topic: str) -> None:
    wrong = []
    for case in cases(topic, "register-decode"):
        given = case["input"]
        raw = given.get("bytes_hex") or "".join(f"{r:04x}" for r in given["registers"])
        found = run(
            "registers",
            "--type",
            given["type"],
            "--order",
            given["byte_order"],
            "--scale",
            str(given["scale"]),
            raw,
        )
        values = [r["value"] for r in found["readings"]]
        expected = case["expected"]["value"]
        want = expected if isinstance(expected, list) else [expected]
        if len(values) != len(want) or not all(map(same, values, want)):
            wrong.append((case["id"], values, expected))
    assert not wrong


@pytest.mark.parametrize(("kind", "command"), [("frame-rtu", "modbus-rtu"), ("frame-tcp", "modbus-tcp")])
def test_frames(kind: str, command: str) -> None:
    for case in cases("modbus", kind):
        frame = run(command, case["input"]["hex"])["frame"]
        for key, value in case["expected"].items():
            assert frame[key] == value, (case["id"], key)


# names that the library gives its sensors -> ours; "-" turns the sign
GOODWE: dict[str, str] = {
    **{f"vpv{n}": f"dc.string.{n}.voltage" for n in range(1, 5)},
    **{f"ipv{n}": f"dc.string.{n}.current" for n in range(1, 5)},
    **{f"vline{n}": f"ac.voltage.{ll}" for n, ll in ((1, "l12"), (2, "l23"), (3, "l31"))},
    **{f"vgrid{n}": f"ac.voltage.l{n}" for n in range(1, 4)},
    **{f"igrid{n}": f"ac.current.l{n}" for n in range(1, 4)},
    "fgrid1": "ac.frequency", "fgrid2": "ac.frequency.l2", "fgrid3": "ac.frequency.l3",
    "total_inverter_power": "ac.power.generation", "work_mode": "device.state", "error_codes": "device.fault",
    "warning_code": "device.warning", "apparent_power": "ac.power.apparent", "reactive_power": "ac.power.reactive",
    "total_input_power": "dc.power", "power_factor": "ac.power.factor", "temperature": "device.temperature",
    "temperature_heatsink": "device.temperature.heatsink", "e_day": "ac.energy.generation.today",
    "e_total": "ac.energy.generation", "h_total": "device.runtime", "safety_country": "device.country",
    "funbit": "x.goodwe.function", "vbus": "dc.bus.voltage", "vnbus": "dc.bus.voltage.negative",
    "derating_mode": "device.derating",
}  # fmt: skip
GOODWE_IDENTITY = {"model_name": "device.model", "serial_number": "device.serial", "firmware": "device.firmware"}
GONE = {"vline2", "vline3", "vgrid2", "vgrid3", "igrid2", "igrid3", "fgrid2", "fgrid3"}  # on a single-phase model


def test_goodwe_dumps(tmp_path: Path) -> None:
    """Four real inverters: what they said, with their asserted values; all ones are no reading."""  # field pain 31
    seen = 0
    for case in cases("dumps", "device-dump"):
        if not case["id"].startswith("goodwe-dt"):
            continue
        file = tmp_path / "dump.json"
        file.write_text(json.dumps({"protocol": "modbus", "address": 247, "holding": case["input"]["registers"]}))
        found = run("profile", "goodwe/dt", str(file))
        readings = {r["name"]: r for r in found["readings"]}
        for name, ours in GOODWE_IDENTITY.items():
            if name in case["expected"]["identity"]:
                assert readings[ours]["value"] == case["expected"]["identity"][name], (case["id"], name)
        for sensor in case["expected"]["sensors"]:
            name = GOODWE.get(sensor["sensor"])
            if name is None or (name not in readings and sensor["sensor"] in GONE and found["frame"]["variant"]):
                continue
            reading = readings[name]
            seen += 1
            if sensor.get("sentinel") or sensor["expected"] is None:
                assert (reading["value"], reading["quality"]) == (None, "sentinel"), (case["id"], sensor)
            else:
                assert same(reading["value"], float(sensor["expected"])), (case["id"], sensor, reading)
    assert seen > 110


# what the inverter counts the other way round than our words: export, output and discharge positive
TURNED = {"total_inverter_power", "active_power", "pbattery1", "ibattery1", "pbattery2", "ibattery2"}
TURNED |= {"pgrid", "pgrid2", "pgrid3", "meter_active_power_total", "meter2_active_power"}
TURNED |= {f"meter_active_power{n}" for n in range(1, 4)}
# totals of three-phase models: the library reads the low word only, the word before it is theirs too
LOW_WORDS = {35138, 35140, 35142, 35144, 35170, 35172}


def test_goodwe_hybrid_dumps(tmp_path: Path) -> None:
    """Sensors of four hybrid inverters, found by their register; labels and sums are the library's own."""
    seen = 0
    for case in cases("dumps", "device-dump"):
        if not case["id"].startswith("goodwe-et"):
            continue
        file = tmp_path / "dump.json"
        file.write_text(json.dumps({"holding": case["input"]["registers"]}))
        found = run("profile", "goodwe/et", str(file))
        readings: dict[tuple[int, str], Json] = {}
        for reading in found["readings"]:
            half = "h" if reading["name"] in {"dc.string.2.state", "dc.string.4.state"} else ""
            readings[reading["address"], half] = reading
        for sensor in case["expected"]["sensors"]:
            half = "h" if sensor["sensor"] in {"pv2_mode", "pv4_mode"} else ""
            address = sensor.get("address", -1)
            reading = readings.get((address, half)) or readings.get((address - (address in LOW_WORDS), half), {})
            if not reading or sensor["type"] in {"enum", "bitfield", "str"}:
                continue
            seen += 1
            expected = sensor["expected"]
            if sensor.get("sentinel") or expected is None:
                assert (reading["value"], reading["quality"]) == (None, "sentinel"), (case["id"], sensor, reading)
            else:
                expected = -expected if sensor["sensor"] in TURNED else expected
                rounded = round(reading["value"], 3) if sensor["type"] == "f32" else reading["value"]
                assert same(rounded, float(expected)), (case["id"], sensor, reading)
        identity = {r["name"]: r["value"] for r in found["readings"]}
        assert identity["device.serial"] == case["expected"]["identity"]["serial_number"]
    assert seen > 380


def test_power_of_a_hybrid_inverter_adds_up(tmp_path: Path) -> None:
    """What the signs must make true: house = sun + grid import - battery charge, as the library asserts it."""
    for case in cases("dumps", "device-dump"):
        house = [s for s in case["expected"].get("sensors", ()) if s.get("sensor") == "house_consumption"]
        if not house:
            continue
        file = tmp_path / "dump.json"
        file.write_text(json.dumps({"holding": case["input"]["registers"]}))
        value = {r["name"]: r["value"] for r in run("profile", "goodwe/et", str(file))["readings"]}
        sun = sum(value[f"dc.string.{n}.power"] or 0 for n in range(1, 5))
        house_power = sun + value["grid.ac.power.active"] - value["battery.power"]  # the library forgets battery 2
        assert house_power == house[0]["expected"], case["id"]


def test_recorded_answers() -> None:
    """The transport's own bytes, as recorded: AA 55 and an RTU answer, or Modbus TCP."""
    seen = 0
    for case in cases("dumps", "device-dump"):
        for response in case["input"].get("responses", ()):
            command = "modbus-tcp" if "TCP" in response["layer"] else "modbus-rtu"
            code = 0 if response["checksum_or_length_ok"] else 4
            frame = run(command, response["hex"], code=code)["frame"]
            if code == 0:
                first = response["base_address"]
                expected = [case["input"]["registers"][str(first + i)] for i in range(response["registers"])]
                assert frame["registers"][: len(expected)] == expected, response["read"]
            seen += 1
    assert seen > 20


def test_a_frequency_that_cannot_be_is_marked(tmp_path: Path) -> None:
    """A logger's firmware gave 500.9 Hz, a single-phase inverter gives -0.01 Hz for the phases it has not."""
    (case,) = [c for c in cases("dumps", "device-dump") if c["id"] == "goodwe-dt/GW10K_MS_TCP_Test"]
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"holding": case["input"]["registers"]}))
    readings = {r["name"]: r for r in run("profile", "goodwe/dt", str(file))["readings"]}
    assert (readings["ac.frequency.l2"]["value"], readings["ac.frequency.l2"]["quality"]) == (-0.01, "range")
    assert "quality" not in readings["ac.frequency"]


HUAWEI = {
    "grid_a_voltage": "ac.voltage.l1", "grid_b_voltage": "ac.voltage.l2", "grid_c_voltage": "ac.voltage.l3",
    "active_grid_a_current": "ac.current.l1", "active_grid_b_current": "ac.current.l2",
    "active_grid_c_current": "ac.current.l3", "power_meter_active_power": "-ac.power.active",
    "power_meter_reactive_power": "ac.power.reactive", "active_grid_power_factor": "ac.power.factor",
    "active_grid_frequency": "ac.frequency", "grid_exported_energy": "ac.energy.export",
    "grid_accumulated_energy": "ac.energy.import", "grid_accumulated_reactive_power": "ac.energy.reactive.import",
    "active_grid_a_b_voltage": "ac.voltage.l12", "active_grid_b_c_voltage": "ac.voltage.l23",
    "active_grid_c_a_voltage": "ac.voltage.l31", "active_grid_a_power": "-ac.power.active.l1",
    "active_grid_b_power": "-ac.power.active.l2", "active_grid_c_power": "-ac.power.active.l3",
    "meter_type": "device.wiring",
}  # fmt: skip


def test_the_meter_of_a_huawei_inverter(tmp_path: Path) -> None:
    """The device counts export as positive, our words say import is."""
    (case,) = [c for c in cases("dumps", "device-dump") if c["id"].startswith("huawei-sun2000/meter")]
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"holding": case["input"]["registers"]}))
    readings = {r["name"]: r for r in run("profile", "huawei/sun2000", str(file))["readings"]}
    for sensor in case["expected"]["sensors"]:
        name = HUAWEI[sensor["name"]]
        value = readings["meter." + name.lstrip("-")]["value"]
        assert same(-value if name.startswith("-") else value, float(sensor["expected"])), sensor


def test_a_scan_of_a_growatt(tmp_path: Path) -> None:
    """Numbers out of an issue. The scan ends behind the serial number's last character, inside its field."""
    (case,) = [c for c in cases("dumps", "device-dump") if c["id"].startswith("growatt-vpp")]
    file = tmp_path / "dump.json"
    file.write_text(json.dumps(case["input"]))
    value = {r["name"]: r["value"] for r in run("profile", "growatt/vpp", str(file))["readings"]}
    expected = case["expected"]
    assert value["device.model.number"] == expected["dtc"]
    assert value["device.serial"] == expected["serial"]
    assert value["device.power.rated"] == expected["rated_power_W"]
    assert value["device.power.max"] == expected["pmax_W"]
    assert value["device.power.reactive.max"] == expected["qmax_fed_var"]


def test_an_exception_code_that_is_in_no_standard_is_an_answer() -> None:
    found = run("modbus-tcp", "00 01 00 00 00 03 01 84 00")
    assert (found["frame"]["exception"], found["frame"]["exception_name"]) == (0, "not in the standard")


def test_goodwe_dt_is_shipped() -> None:
    assert find_profile("goodwe/dt").is_file()
