"""`meterhouse decode counter`: files as people and programs write them, and what is said of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli.decode_counter import command


def told(tmp_path: Path, content: Any, *options: str) -> Result:
    file = tmp_path / "series.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    result = CliRunner().invoke(command, [str(file), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def found(tmp_path: Path, content: Any) -> dict[str, Any]:
    result = told(tmp_path, content, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def kinds(tmp_path: Path, values: list[Any], **more: Any) -> list[tuple[Any, str]]:
    points = [[f"t{n}", v] for n, v in enumerate(values)]
    return [(s["increment"], s["kind"]) for s in found(tmp_path, {"points": points, **more})["steps"]]


@pytest.mark.parametrize(
    "text",
    [
        b'\xef\xbb\xbf{"points": [["t0", 1], ["t1", 2.5]]}',
        b'{"points":\r\n [["t0", 1],\r\n ["t1", 2.50]]}\r\n',
        '{"points": [["t0", 1], ["t1", "2.5"]]}'.encode("utf-16"),
        b'{"points": [[1795500900.25, " 1 "], [1795501800.25, "25e-1"]]}',
    ],
)
def test_files_of_any_editor_and_numbers_in_any_dress(tmp_path: Path, text: bytes) -> None:
    assert found(tmp_path, text)["total"] == 1.5


@pytest.mark.parametrize("word", ["NaN", "", "-", "unavailable", "unknown", "null", "inf"])
def test_words_for_no_reading_are_none(tmp_path: Path, word: str) -> None:
    """A word stands for an unknown level, but not one that programs write where there is nothing."""
    assert kinds(tmp_path, [5, word, 6]) == [(0, "glitch"), (1, "normal")]


@pytest.mark.parametrize(
    ("content", "where", "hint"),
    [
        (b"", "is not JSON", '"points": [[time, value]'),
        (b"time,value\r\n1,2\r\n", "is not JSON", '"points": [[time, value]'),
        (b'{"points": [["t0", 1]] // of the gate\n}', "line 1 column 24", '"points": [[time, value]'),
        (b"[" * 100_000, "nested too deeply", "points"),
        (b'{"points": [["t0", ' + b"9" * 5000 + b"]]}", "is not JSON", "points"),
        ({"unit": "kWh"}, "points must be a list of [time, value] pairs, but there are none", "points"),
        ({"points": [["t0", 1], ["t1"]]}, "points[1] must be [time, value], got ['t1']", ""),
        ({"points": [{"time": "t0", "value": 1}]}, "points[0] must be [time, value], got {'time'", ""),
        (
            {"points": [["t0", 1], ["t1", "12345,6"]]},
            "the value of points[1] must be a number, got '12345,6'",
            "1234.5",
        ),
        ({"points": [["t0", "12 345.6 kWh"]]}, "the value of points[0] must be a number, got '12 345.6 kWh'", "null"),
        ({"points": [["t0", "0xFFFF"]]}, "the value of points[0] must be a number, got '0xFFFF'", "1234.5"),
        ({"points": [[1.0, "2026-11-24T00:00:00Z"]]}, "points[0] has the time '2026-11-24T00:00:00Z' as its", "[time"),
        ({"points": [[{"at": 1}, 1]]}, "the time of points[0] must be a string or a number", ""),
        (b'{"points": [["t0", 1], ["t1", 1e999999999]]}', "the value of points[1] must be 0, or at least 1e-59", ""),
        (b'{"points": [["t0", 1e-999999]]}', "the value of points[0] must be 0, or at least 1e-59", ""),
        (b'{"points": [["t0", NaN]]}', "points[0] must be a finite number", "null"),
        ({"points": [["t0", 5.0]], "resolution": 1e-30}, "would be 5.00E+30 steps", ""),
        ({"points": [["t0", 5.0]], "resolution": "fine"}, "resolution must be a number, got 'fine'", ""),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: Any, where: str, hint: str) -> None:
    """Promise 10: place, what was seen, what is right; exit code 4 and never a traceback."""
    for options in ((), ("--json",)):
        result = told(tmp_path, content, *options)
        assert result.exit_code == 4
        said = json.loads(result.stdout) if options else {"error": result.stderr, "hint": result.stderr}
        assert where in said["error"]
        assert hint in said.get("hint", "")
    assert not result.stderr


def test_late_readings_are_put_in_their_place(tmp_path: Path) -> None:
    """In the order of the file, 3000 kWh would flow twice."""
    times = ["00:00", "01:00", "00:15", "00:30", "01:15"]
    points = [[f"2026-11-24T{t}:00Z", v] for t, v in zip(times, [1000, 5000, 2000, 3000, 6000], strict=True)]
    outcome = found(tmp_path, {"points": points})
    assert [(s["time"][11:16], s["increment"]) for s in outcome["steps"]] == [
        ("00:15", 1000),
        ("00:30", 1000),
        ("01:00", 2000),
        ("01:15", 1000),
    ]
    assert "the time of points[2], 2026-11-24T00:15:00Z, is earlier" in outcome["warnings"][0]


@pytest.mark.parametrize("minutes", [15, 30, 60])
def test_local_times_of_the_end_of_summer_time_stay_in_their_order(tmp_path: Path, minutes: int) -> None:
    """Without offsets the hour from two to three is there twice, and the counter grows on."""
    shown = [*range(0, 180, minutes), *range(120, 360, minutes)]
    points = [[f"2026-10-25T{t // 60:02}:{t % 60:02}:00", 100 + n] for n, t in enumerate(shown)]
    outcome = found(tmp_path, {"points": points})
    assert outcome["total"] == len(shown) - 1
    assert {s["kind"] for s in outcome["steps"]} == {"normal"}
    assert ("clock was set back" in str(outcome.get("warnings"))) is (minutes < 60), "hourly, 02:00 is there twice"


@pytest.mark.parametrize(
    ("levels", "warning", "last"),
    [((100, None, 102), "clock was set back", "02:01"), ((100, None, 90), "arrived late", "02:59")],
)
def test_a_missing_value_where_the_time_goes_back_says_nothing(
    tmp_path: Path, levels: tuple[int | None, ...], warning: str, last: str
) -> None:
    """It does not count as a low value: the known values before and after it decide."""
    times = ["02:59", "02:00", "02:01"]
    points = [[f"2026-10-25T{time}:00", level] for time, level in zip(times, levels, strict=True)]
    outcome = found(tmp_path, {"points": points})
    assert warning in outcome["warnings"][0] and outcome["steps"][-1]["time"][11:16] == last


def test_the_same_time_twice(tmp_path: Path) -> None:
    points = [["2026-11-24T00:00:00Z", v] for v in (10, 10, 12)] + [["2026-11-24T00:15:00Z", 13]]
    assert [s["increment"] for s in found(tmp_path, {"points": points})["steps"]] == [0, 2, 1]


def test_a_silence_with_a_rollover_in_it(tmp_path: Path) -> None:
    """Three days without a reading, and the end of six digits in them."""
    points = [[f"2026-11-24T00:{n:02}:00+08:00", 999_000 + 2 * n] for n in range(10)]
    points += [[f"2026-11-27T00:{n:02}:00+08:00", 7_658 + 2 * n] for n in range(10)]
    outcome = found(tmp_path, {"points": points, "digits": 6})
    assert [s["kind"] for s in outcome["steps"]] == ["normal"] * 9 + ["rollover"] + ["normal"] * 9
    assert outcome["total"] == 1_000_000 - 999_000 + 7_658 + 18


def test_a_width_that_most_readings_are_beyond_is_left_out(tmp_path: Path) -> None:
    outcome = found(tmp_path, {"points": [["a", 53700.1], ["b", 53700.2], ["c", 53700.3]], "bits": 16})
    assert outcome["total"] == 0.2
    assert "above the counter's range, 6553.6" in outcome["warnings"][0]


def test_a_key_that_is_nearly_one_is_told(tmp_path: Path) -> None:
    assert "did you mean 'bits'?" in found(tmp_path, {"points": [], "bit": 32, "companion": {}})["warnings"][0]


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    result = told(tmp_path, {"points": [["\x1b[31m", 1], ["\x1b[31m", 2]], "unit": "\x1b[0m"})
    assert result.exit_code == 0
    assert "\x1b" not in result.output


def test_more_digits_than_a_float_has_are_exact(tmp_path: Path) -> None:
    values = ["18446744073709551.605", "18446744073709551.610", "0.004"]
    assert kinds(tmp_path, values, bits=64, resolution=0.001) == [(0.005, "normal"), (0.01, "rollover")]


def test_words_keep_within_the_width(tmp_path: Path) -> None:
    assert kinds(tmp_path, ["total", "total", 0], digits=5) == [(0, "normal"), (0, "reset")]


def test_the_table_has_a_line_a_step(tmp_path: Path) -> None:
    result = told(tmp_path, {"points": [["t0", 1.5], ["t1", 2.75], ["t2", 0]], "unit": "kWh"})
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["t1", "1.25", "normal"],
        ["t2", "0", "reset"],
    ]
