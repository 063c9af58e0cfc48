"""What ``verify --recompute`` says of balances that were signed: the same again, and what does not follow is found."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.indicators.compute import period_of
from agent.indicators.site import SiteResults
from agent.intervals.calendar import Calendar
from agent.intervals.ledger import rows_of_packs
from agent.intervals.tracked_points import Rule
from agent.recompute import recompute
from tests.kits.ledger import LENGTH, START, Packs, point, table
from tests.kits.memory_book import MemoryBook

CUT = Calendar("Asia/Shanghai")
BASE = "park7/gw01"
DERIVED = [{"n": "twice", "sum": ["hall/ac.energy.import", "hall/ac.energy.import"]}]
BIRTH = {"config": "hash", "derived": DERIVED, "plan": None, "points": [], "device": None,
         "interval": {"demand": [900, 60], "length": 900, "max_gap": 300, "timezone": CUT.timezone}}  # fmt: skip


def packs_of(role: str, step: str, zero_first: bool = False) -> Packs:
    packs = Packs(table(point("ac.energy.import", source={"scale": "0.1"}), roles={"ac": role}, **{"class": {"": "1"}}))
    level = Decimal(0) if zero_first else Decimal(700)
    for n in range(62):
        if zero_first and n < 29:  # nothing is used: whether this zero is a reading shows later
            packs.pack([(packs.to_ms, "ac.energy.import", 0, "")])
            continue
        level += Decimal(step)
        packs.pack([(packs.to_ms, "ac.energy.import", level, "")])
    return packs


def park(folder: Path, forge: Any = None) -> Path:
    """Exported packs of a grid meter and a hall's, and signed results of three intervals as they were known then."""
    folder.mkdir()
    lives = {f"{BASE}/grid": packs_of("grid", "300"), f"{BASE}/hall": packs_of("load", "300", zero_first=True)}
    memory, rows, known = MemoryBook(), [], dict.fromkeys(lives, 0)
    for stream, packs in lives.items():
        bodies = [body | {"stream": stream, "v": 1} for body in packs.bodies]
        texts = [json.dumps(body).encode() for body in bodies]
        (folder / f"{stream.rpartition('/')[2]}.jsonl").write_bytes(b"\n".join(texts))
        rows += [(seq, stream, shape, made) for seq, shape, made in rows_of_packs(stream, texts, CUT, Rule())]
    rows.sort(key=lambda row: row[0])
    out: list[dict[str, Any]] = [{"stream": f"{BASE}/_indicators", "seq": 1, "from": 0, "to": 0, "table": BIRTH}]
    site = SiteResults(CUT, BASE, DERIVED, "hash")
    for n in range(3):
        end = START + (n + 1) * LENGTH
        upto = (end - START) // 60_000 + 3  # a birth, and two minutes of grace
        while rows and rows[0][0] <= upto:
            seq, stream, shape, made = rows.pop(0)
            memory.add(stream, shape, made)
            known[stream] = seq
        results = [dict(one) for one in site.of(memory, period_of(CUT, "interval", end - LENGTH, end))]
        packs_known = [{"stream": stream, "last": seq} for stream, seq in known.items()]
        results.append({"kind": "known", "period": results[0]["period"], "packs": packs_known})
        if forge:
            forge(n, results)
        out.append({"stream": f"{BASE}/_indicators", "seq": n + 2, "from": 0, "to": 0, "results": results})
    (folder / "_indicators.jsonl").write_text("\n".join(json.dumps(pack) for pack in out))
    return folder


def test_signed_balances_come_out_again_also_where_a_counter_was_judged_later(tmp_path: Path) -> None:
    found = recompute([park(tmp_path / "packs")], None)
    assert (found.agree, found.differ, found.unknown) == (6, [], [])


def test_the_balances_were_really_made_of_what_was_known_then(tmp_path: Path) -> None:
    folder = park(tmp_path / "packs")
    packs = [json.loads(line) for line in (folder / "_indicators.jsonl").read_text().splitlines()]
    verdicts = [pack["results"][0]["verdict"] for pack in packs[1:]]
    assert verdicts[1:] == ["incomplete", "within"], "the counter that left zero was not judged in its own interval"


@pytest.mark.parametrize(
    ("place", "says"), [("residual", "residual: signed 1"), ("allowed", "allowed: signed 1"), ("verdict", "verdict")]
)
def test_a_forged_balance_is_found(tmp_path: Path, place: str, says: str) -> None:
    def forge(n: int, results: list[dict[str, Any]]) -> None:
        if n == 1:
            results[0][place] = "within" if place == "verdict" else "1"

    found = recompute([park(tmp_path / "packs", forge)], None)
    assert (found.agree, len(found.differ)) == (5, 1)
    assert f"electricity of 2026-11-24T14:15+08:00: {says}" in found.differ[0]


def test_a_pack_that_is_not_here_is_said(tmp_path: Path) -> None:
    folder = park(tmp_path / "packs")
    lines = (folder / "hall.jsonl").read_bytes().splitlines()
    (folder / "hall.jsonl").write_bytes(b"\n".join([*lines[:39], *lines[41:]]))
    found = recompute([folder], None)
    assert found.agree == 4 and any("pack 40 of park7/gw01/hall is not here" in text for text in found.unknown)


def test_results_that_do_not_say_what_was_known_are_not_repeated(tmp_path: Path) -> None:
    def forge(n: int, results: list[dict[str, Any]]) -> None:
        if n == 1:
            results.pop()

    found = recompute([park(tmp_path / "packs", forge)], None)
    assert (found.agree, found.differ) == (4, [])
    why = "the gateway did not record which packs it knew when it computed this result"
    assert found.unknown[0].endswith(f"14:15+08:00: {why}")
