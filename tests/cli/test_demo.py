"""`meterhouse demo`: the whole park, from the meters to a verifier on the other side of a broker."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from agent.cli.common import language_of
from agent.cli.demo_screen import DemoScreen, LatestFigures
from agent.cli.main import outcome
from agent.cli.ring_follower import Follower
from agent.indicators.definitions import read_plan
from agent.indicators.plan import IndicatorPlan, make_plan
from agent.verify import Verifier
from drivers.sim.park import DEMO
from drivers.sim.slots import PLAN
from ext.ring import Ring

pytestmark = pytest.mark.process

pytest.importorskip("iotcore", reason="iotcore is not installed (pip install iotcore)")
COMMAND = [sys.executable, "-m", "agent.cli.main", "demo"]
ROOT = Path(__file__).resolve().parents[2]
KEYS = ["devices", "readings", "packs", "verified", "failed", "gaps", "redelivered", "seconds", "figures"]


def played(*args: str, seconds: float = 200) -> dict[str, float]:
    done = subprocess.run(
        [*COMMAND, "--json", *args], cwd=ROOT, text=True, capture_output=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_the_first_packs_are_verified_at_once() -> None:
    found = played("--for", "3s")
    assert list(found) == KEYS
    assert found["devices"] == len(DEMO)
    assert found["verified"] == found["packs"] > 0
    assert found["failed"] == found["redelivered"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_five_protocols_are_read_without_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At 2400 baud a visit takes a second, and still nothing is missing, on a busy machine too: two processes that do
    nothing but compute have both cores. Each device's stream has readings, and the park's figures are whole."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        found = played("--for", "150s", "--dir", str(tmp_path / "demo"), seconds=240)
    finally:
        for one in busy:
            one.kill()
            one.wait()
    assert found["gaps"] == 0
    assert found["verified"] == found["packs"] > 400
    assert found["figures"] >= 2 * 7, "of an interval that the demo began in, and of a whole one"
    config, csv = tmp_path / "demo" / "agent.toml", tmp_path / "readings.csv"
    assert outcome(["export", "--csv", str(csv), "-c", str(config)]) == 0
    rows = [line.split(",") for line in csv.read_text("utf-8").splitlines()[1:]]
    readings = Counter(row[1].rpartition("/")[2] for row in rows)
    assert {slot.name for slot in DEMO} <= set(readings)
    assert {row[5] if len(row) > 5 else "" for row in rows} <= {"", "good"}
    packs = tmp_path / "packs"
    assert outcome(["export", str(packs), "--stream", "_indicators", "-c", str(config)]) == 0
    whole = list(figures(packs))[-7:]
    assert [one["id"] for one in whole] == [one.name for one in plan(tmp_path / "demo").of_period("interval")]
    assert {one["completeness"] for one in whole} == {"1"}
    assert all(float(one["v"]) > 0 for one in whole if one["id"] != "site/co2_per_energy")
    assert float(whole[-1]["v"]) == pytest.approx(72, abs=10), "the PLC counts whole kWh, a dozen an interval"


def figures(folder: Path) -> Iterator[dict[str, Any]]:
    """What was sealed, in order."""
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            yield from (one for one in json.loads(line).get("results", ()) if one["kind"] == "figure")


def plan(folder: Path) -> IndicatorPlan:
    return make_plan(read_plan(folder / "indicators.toml"))


def test_the_screen_shows_every_device_and_the_verdict(tmp_path: Path) -> None:
    """Also in a small terminal, where wider rows or more of them would push the verifier's line out of sight."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "LANG": "C.UTF-8", "TERM": "xterm"}
    child = subprocess.Popen([*COMMAND, "--for", "2500ms"], cwd=ROOT, stdin=slave, stdout=slave, stderr=slave,
                             env=environment)  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert child.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8", "replace"))
    screen = text[text.rindex("A simulated park, read live") :].splitlines()
    for slot in DEMO:
        assert any(line.startswith(f"{slot.name} ") for line in screen), slot.name
    assert any(line.startswith("verifier behind the broker") for line in screen)
    assert "not read yet" in text or "ac.power.generation" in text
    assert screen.pop().endswith("missing and accounted for")
    assert len(screen) < 24 and max(len(line) for line in screen) <= 80


def made(park: Path) -> LatestFigures:
    """A board with the figures of a pack that was verified."""
    (park / "indicators.toml").write_text(PLAN, "utf-8")
    board = LatestFigures(park / "indicators.toml", "Asia/Shanghai")
    values = ["5012.4", "6001.25", "81.5", "80", "99.094764", "0.02495", ""]
    results = [
        {"kind": "figure", "id": one.name, "u": one.unit.text, "completeness": "0.625", "v": value,
         "period": {"kind": "interval", "from": 1795671900, "to": 1795671960}}
        for one, value in zip(plan(park).of_period("interval"), values, strict=True)
    ]  # fmt: skip
    day = {**results[0], "period": {"kind": "day", "from": 1795622400, "to": 1795708800}}
    pack = json.dumps({"results": [*results, day, {"kind": "declaration"}]}).encode()
    board.on_verified("meterhouse/v1/demo/gw01/inv1/readings", b"not looked at")
    assert board.newest == () and board.total == 0
    board.on_verified("meterhouse/v1/demo/gw01/_indicators/readings", pack)
    assert board.total == 8
    return board


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (132, 50)])
def test_the_figures_have_their_place_on_the_screen(tmp_path: Path, language: str, width: int, height: int) -> None:
    devices = {slot.name: {"profile": slot.profile, "line": slot.line} for slot in DEMO}
    screen = DemoScreen(devices, made(tmp_path), "k" * 43, tmp_path, 60.0, 26.0, language)
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    ring = Ring.create(str(tmp_path / "ring"), 1 << 16, 0, 0, bytes(32))
    with console.capture() as caught:
        console.print(screen.picture(Follower(ring), Verifier().report(), console))
    ring.close()
    shown = caught.get().splitlines()
    assert len(shown) < height and max(cell_len(line.rstrip()) for line in shown) <= width
    page = "\n".join(shown)
    for title, value in {
        "en": [("Electricity consumed", "5\u2009012 kWh"), ("Clean-energy share", "99.09 %"),
               ("CO2 per unit of energy", "0.02495 tCO₂/tce"), ("Residual heat that is used", "–")],
        "zh": [("园区用电量", "5\u2009012 kWh"), ("清洁能源消费占比", "99.09 %"),
               ("单位能耗碳排放", "0.02495 tCO₂/tce"), ("余热利用率", "–")],
    }[language]:  # fmt: skip
        assert re.search(rf"^{title} +{value.replace(' ', ' +')} .*62.5 %$", page, re.MULTILINE), (title, page)
    assert ("figures, 13:45 to 13:46" if language == "en" else "指标（13:45至13:46）") in page
    said = screen.board.line(language)
    assert said.startswith(("figures, 13:45 to 13:46: Electricity consumed 5", "指标（13:45至13:46）：园区用电量 5"))


def test_the_language_is_that_of_the_terminal() -> None:
    assert language_of(None, {"LANG": "zh_CN.UTF-8"}) == "zh" == language_of("zh", {"LANG": "de_DE.UTF-8"})
    assert language_of(None, {"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}) == "en" == language_of(None, {})
