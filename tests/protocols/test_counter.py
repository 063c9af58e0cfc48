"""Counter series: recorded cases, each kind of step, and no phantom energy against a slow truth."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intervals.series import Series
from tests.kits.meter_cases import decode
from tests.kits.recorded import recorded


def run(tmp_path: Path, content: Any) -> tuple[int, dict[str, Any]]:
    file = tmp_path / "series.json"
    file.write_text(json.dumps(content))
    return decode("counter", str(file))


def steps(values: list[Any], resolution: str = "0.1", bits: int = 0, digits: int = 0) -> list[tuple[float, str]]:
    modulus = None
    if bits or digits:
        modulus = ((1 << bits) if bits else 10**digits) * Decimal(resolution)
    numbers = [None if v is None else Decimal(str(v)) for v in values]
    return [(float(s.increment), s.kind) for s in Series(numbers, Decimal(resolution), modulus).steps()]


KINDS = {  # the manifest's words for what happened -> kinds of step that say it
    "back step of one resolution unit": {"back_step"},
    "daily counter still shows yesterday until 00:07": {"reset"},
    "daily counter at 0 while lifetime counter stays 2775.6 kWh": {"reset"},
    "dropout": {"glitch"},
    "dropout at night mode": {"glitch"},
    "invalid": {"glitch"},
    "rollover": {"rollover"},
    "int32 x 0.001 limit": {"glitch"},
}


@pytest.mark.parametrize("case", recorded("series", "counter-series"))
def test_recorded_series_come_out_as_their_manifest_says(case: dict[str, Any], tmp_path: Path) -> None:
    """# field pains 31, 32, 33, 34, 35"""
    code, found = run(tmp_path, case["input"])
    assert code == 0
    expected = case["expected"]
    kinds = [s["kind"] for s in found["steps"]]
    assert set(kinds) - {"normal"} == KINDS[expected["event"]]
    assert expected.get("not", "none of them") not in kinds
    assert found["total"] == expected.get("delta_kWh", expected.get("delta", 0))
    if len(case["input"]["points"]) > 1:
        assert [s["time"] for s in found["steps"]] == [p[0] for p in case["input"]["points"][1:]]


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([1.0, 1.5, 1.5], {}, [(0.5, "normal"), (0, "normal")]),
        ([4294967200, 150], {"resolution": "1", "bits": 32}, [(246, "rollover")]),
        ([429496720.0, 15.0], {"bits": 32}, [(24.6, "rollover")]),
        ([99999.9, 0.3], {"digits": 6}, [(0.4, "rollover")]),
        ([12345.6, 0.0], {"bits": 32}, [(0, "reset")]),
        ([500, 501, 502, 503, 0.2, 1.2], {}, [(1, "normal")] * 3 + [(0, "reset"), (1, "normal")]),
        ([500, 501, 502, 20, 21, 22], {}, [(1, "normal")] * 2 + [(0, "swap")] + [(1, "normal")] * 2),
        ([1, 2, 3, 4, 50000, 50001], {}, [(1, "normal")] * 3 + [(0, "swap"), (1, "normal")]),
        ([500.0, 499.9, 500.0, 500.1], {}, [(0, "back_step"), (0, "normal"), (0.1, "normal")]),
        ([100, 429496729.5, 100.2], {"bits": 32}, [(0, "glitch"), (0.2, "normal")]),
        ([100, 429496729.5, 100.2], {}, [(0, "glitch"), (0.2, "normal")]),
        ([100, 214748364.7, 100.2], {}, [(0, "glitch"), (0.2, "normal")]),
        ([100, 429496000, 100.2], {"bits": 32}, [(0, "glitch"), (0.2, "normal")]),
        ([100, 9000, 100.2], {}, [(0, "glitch"), (0.2, "normal")]),
        ([429496729.5, 100, 100.2], {"bits": 32}, [(0, "glitch"), (0.2, "normal")]),
        ([800.0, 0, 0, 0, 800.3], {}, [(0, "glitch")] * 3 + [(0.3, "normal")]),
        ([0, 12345.6, 12345.7, 12345.8, 12345.9], {}, [(0, "glitch")] + [(0.1, "normal")] * 3),
        ([10, 11, None, 13], {}, [(1, "normal"), (0, "glitch"), (2, "normal")]),
        ([10, -3, 11], {}, [(0, "glitch"), (1, "normal")]),
        ([2.9, 0.0, 0.5, 2.9, 3.2], {}, [(0, "reset"), (0.5, "normal"), (2.4, "normal"), (0.3, "normal")]),
        ([5.0], {}, []),
        ([], {}, []),
        ([None, 5.0, 5.1], {}, [(0, "glitch"), (0.1, "normal")]),
    ],
)  # fmt: skip
def test_kinds_of_steps(values: list[Any], options: dict[str, Any], expected: list[tuple[float, str]]) -> None:
    assert steps(values, **options) == [(pytest.approx(i), k) for i, k in expected]


def test_a_long_silence_is_no_swap() -> None:
    """Growth is judged per second where times are known: three days of outage may hold a lot."""
    seconds = [0.0, 10.0, 20.0, 30.0, 259_230.0, 259_240.0]
    values = [Decimal(v) for v in (1, 2, 3, 4, 25_000, 25_001)]
    assert {s.kind for s in Series(values, Decimal(1), None, seconds).steps()} == {"normal"}
    assert "swap" in {s.kind for s in Series(values, Decimal(1)).steps()}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "expected {"),
        ({"points": 5}, "points must be a list"),
        ({"points": [5]}, "points[0] must be [time, value]"),
        ({"points": [["t", True]]}, "must be a number"),
        ({"points": [["t", [1]]]}, "must be a number"),
        ({"points": [["t", 1]], "bits": 0}, "bits must be 1 to 64"),
        ({"points": [["t", 1]], "digits": "5"}, "digits must be 1 to 19"),
        ({"points": [["t", 1]], "bits": 32, "digits": 5}, "not both"),
        ({"points": [["t", 1]], "resolution": 0}, "resolution must be above 0"),
        ({"points": [["t", float("nan")]]}, "number"),
    ],
)
def test_broken_series_say_what_is_wrong(tmp_path: Path, content: Any, words: str) -> None:
    code, found = run(tmp_path, content)
    assert code == 4
    assert words in found["error"]


def test_words_stand_for_unknown_levels(tmp_path: Path) -> None:
    _, found = run(tmp_path, {"points": [["t0", 1.0], ["t1", "yesterday"], ["t2", "yesterday"], ["t3", 0]]})
    assert [(s["increment"], s["kind"]) for s in found["steps"]] == [(None, "normal"), (0, "normal"), (0, "reset")]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[int | None], int, int]:
    """(true energy, what was read, the modulus, how many events): growth with rollovers, dropouts, spikes, wobbles."""
    modulus = draw(st.sampled_from([1 << 32, 10**8, 10**9]))
    truth = [draw(st.sampled_from([50_000, modulus - 5_000, modulus - 100]))]
    growth = draw(st.lists(st.integers(20, 60), min_size=12, max_size=40))
    for step in growth:
        truth.append(truth[-1] + step)
    read: list[int | None] = [t % modulus for t in truth]
    quiet = 3  # readings between two events, so that each can be told
    events, at = 0, draw(st.integers(3, 6))
    while at + 4 < len(truth):
        near_end = any(t % modulus < 20_000 for t in truth[at - 2 : at + 5])
        event = draw(st.sampled_from(["none", "zero", "zeros", "ones", "wobble", "nothing"]))
        if event != "none" and not near_end:
            events += 1
            if event == "zero":
                read[at] = 0
            elif event == "zeros":
                read[at] = read[at + 1] = 0
            elif event == "ones":
                read[at] = (1 << 32) - 1
            elif event == "wobble":
                read[at] = truth[at - 1] % modulus - 1
            else:
                read[at] = None
        at += quiet + draw(st.integers(1, 4))
    return truth, read, modulus, events


@given(histories())
def test_no_phantom_energy_and_no_loss_beyond_a_count_an_event(
    history: tuple[list[int], list[int | None], int, int],
) -> None:
    """# field pains 32, 33, 34, 35: against unbounded integers that never wrapped nor dropped out."""
    truth, read, modulus, events = history
    found = Series([None if v is None else Decimal(v) for v in read], Decimal(1), Decimal(modulus)).steps()
    total = sum(int(s.increment) for s in found)
    assert abs(total - (truth[-1] - truth[0])) <= events
    assert all(s.increment >= 0 for s in found)
    assert all(s.increment == 0 for s in found if s.kind not in ("normal", "rollover"))


@given(st.lists(st.one_of(st.none(), st.integers(-5, 1 << 33)), max_size=30), st.sampled_from([None, 1 << 16, 1 << 32]))
def test_any_series_is_classified(values: list[int | None], modulus: int | None) -> None:
    numbers = [None if v is None else Decimal(v) for v in values]
    found = Series(numbers, Decimal(1), None if modulus is None else Decimal(modulus)).steps()
    assert all(s.increment >= 0 for s in found)
    assert len(found) in (max(0, len(values) - 1), 1)
