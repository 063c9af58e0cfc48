"""What `verify --recompute` says of figures that rest on declarations, from exports that begin long after them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agent.recompute import recompute
from bench.timelapse import Timelapse
from tests.kits.lived import HOUR, mh

FIRST, LAST = date(2025, 3, 1), date(2025, 3, 6)
MARCH = FIRST, date(2025, 4, 1)


@dataclass(frozen=True)
class Aged:
    """A stopped gateway, whose declarations are five days old, replaced, and withdrawn."""

    config: Path
    kid: str
    right: str  # id of the certificates that count
    withdrawn: str

    def export(self, folder: Path, *args: object) -> Path:
        code, _, err = mh("export", folder, "-c", self.config, *args)
        assert code == 0, err
        return folder

    def repeated(self, folder: Path, *args: object) -> tuple[int, dict[str, Any]]:
        code, out, err = mh("verify", folder, "--trust", self.kid, "--recompute", "--json", *args)
        assert not err, err
        return code, json.loads(out)["recomputed"]


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Aged:
    folder = tmp_path_factory.mktemp("aged")
    park = Timelapse(folder, FIRST, every_s=900)
    morning = park.calendar.midnight(FIRST) + 9 * HOUR
    wrong = park.declare("certificates", "900", "MWh", *MARCH, "Li Wei", morning)
    park.declare("residual_available", "9000", "GJ", *MARCH, "Zhang Min", morning)
    right = park.declare("certificates", "310", "MWh", *MARCH, "Li Wei", morning + 48 * HOUR, "GEC-1", wrong)
    fuel = park.declare("other_fuel_co2", "7", "tCO2", *MARCH, "Li Wei", morning)
    withdrawn = park.declare("other_fuel_co2", "", "tCO2", *MARCH, "Li Wei", morning + 50 * HOUR, "", fuel)
    for _ in park.until(LAST):
        pass
    park.close()
    return Aged(folder / "agent.toml", park.kid, right, withdrawn)


def without_packs(folder: Path, drop: Callable[[dict[str, Any]], bool]) -> None:
    """Remove the packs of results that have a result for which ``drop`` is true."""
    path = folder / "packs" / "_indicators.packs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not any(map(drop, json.loads(line).get("results", ())))]
    assert len(kept) < len(lines)
    path.write_bytes(b"".join(kept))


def states(entry: str) -> Callable[[dict[str, Any]], bool]:
    return lambda result: result["kind"] in ("declaration", "restated") and result["id"] == entry


@pytest.mark.parametrize("start", ["2025-03-02", "2025-03-02T13:07", "2025-03-04"])
def test_an_export_that_begins_days_after_the_declarations_repeats_every_figure(
    aged: Aged, tmp_path: Path, start: str
) -> None:
    code, found = aged.repeated(aged.export(tmp_path / "cut", "--from", start))

    assert (code, found["differ"], found["undecidable"]) == (0, 0, 0), found
    assert found["agree"] > 100


def test_the_figures_of_a_day_in_a_cut_export_still_name_old_declarations(aged: Aged, tmp_path: Path) -> None:
    folder = aged.export(tmp_path / "cut", "--from", "2025-03-04")

    packs = [json.loads(line) for line in (folder / "packs" / "_indicators.packs.jsonl").read_bytes().splitlines()]

    results = [result for pack in packs for result in pack.get("results", ())]
    used = {
        entry for one in results if one["kind"] == "figure" for put in one["inputs"] for entry in put.get("entries", ())
    }
    assert aged.right in used
    assert used <= {one["id"] for one in results if one["kind"] in ("declaration", "restated")}


@pytest.mark.parametrize("name", ["right", "withdrawn"])
def test_an_export_from_which_somebody_took_a_declaration_is_neither_wrong_nor_agreed(
    aged: Aged, tmp_path: Path, name: str
) -> None:
    """The one that replaces or withdraws is gone, the replaced one is here: its value must not be used."""
    folder = aged.export(tmp_path / "forged")
    whole = aged.repeated(folder)[1]
    without_packs(folder, states(getattr(aged, name)))

    code, found = aged.repeated(folder)

    assert code == 6, "the chain of packs has a hole"
    assert found["differ"] == 0 and found["undecidable"] > 0, found
    assert found["agree"] < whole["agree"]
    assert "not decidable from this export" in " ".join(found["not_repeated"])


def test_an_export_that_lacks_all_declarations_at_its_beginning_says_not_decidable(aged: Aged, tmp_path: Path) -> None:
    """The chain has no hole, so nothing but the signed hash of the declarations shows that some are not here."""
    folder = aged.export(tmp_path / "late", "--from", "2025-03-02")
    path = folder / "packs" / "_indicators.packs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    _, _, third, fourth, *_ = (n for n, line in enumerate(lines) if b'"restated"' in line)
    path.write_bytes(b"".join(lines[third + 1 : fourth]))

    code, found = aged.repeated(folder)
    shown = mh("verify", folder, "--trust", aged.kid, "--recompute")[1]
    strict, _ = aged.repeated(folder, "--expect-complete")

    assert code == 0 and strict == 6
    assert found["differ"] == 0 and found["undecidable"] > 0 < found["agree"], found
    why = f"{found['undecidable']} figures are not decidable from this export, because it lacks declarations"
    assert why in shown


def test_two_packs_that_state_a_declaration_differently_are_a_difference(aged: Aged, tmp_path: Path) -> None:
    path = aged.export(tmp_path / "forged") / "packs" / "_indicators.packs.jsonl"
    text = path.read_text(encoding="utf-8")
    at = text.index('"restated"')
    forged = (
        text[:at].rpartition("\n")[0] + "\n" + text[text[:at].rindex("\n") + 1 :].replace('"v":"9000"', '"v":"8000"')
    )
    path.write_text(forged, encoding="utf-8")

    found = recompute([tmp_path / "forged"])

    assert any("two packs state it differently" in text for text in found.differ)
