"""Other formats out of verified values: HJ 212-2017 by the standard's own example, and by data counted by hand."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from drivers.model import ConfigError, GatewayError
from receiver import converters
from receiver.commands import platform
from receiver.converters import Amount, Conversion, Converter, Interval, Series, find_converter
from receiver.converters.hj212 import crc, frame, read_map, unframe
from receiver.converters.intervals import edges
from receiver.database import connect
from receiver.keeper import Keeper
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.fleet_faults import Broken, Feed, make
from tests.kits.signed import BOOTS, START, Key, Stream, keys
from tests.platform.test_queries import stored

# HJ 212-2017: ask for the interval of real-time data
EXAMPLE = (
    b"##0101QN=20160801085857223;ST=32;CN=1062;PW=100000;MN=010000A8900016F000169DC0;Flag=5;"
    b"CP=&&RtdInterval=30&&1C80\r\n"
)
SHANGHAI = ZoneInfo("Asia/Shanghai")
MAP = """
st = "32"
mn = "010000A8900016F000169DC0"
password_file = "pw"
upload = "minutes"
interval = 60
timezone = "Asia/Shanghai"

[[factor]]
code = "w01018"
stream = "{stream}"
point = "ac.power.active"
unit = "kW"
fields = ["Min", "Avg", "Max"]
least = 0.75
"""


def mapping(folder: Path, text: str) -> Path:
    (folder / "pw").write_text("100000\n")
    (folder / "map.toml").write_text(text)
    return folder / "map.toml"


def test_the_standards_own_example() -> None:
    segment = unframe(EXAMPLE)
    assert (len(segment), f"{crc(segment.encode()):04X}") == (101, "1C80")
    assert frame(segment) == EXAMPLE
    for wrong, words in (
        (EXAMPLE.replace(b"32", b"31"), "states CRC 1C80"),
        (EXAMPLE.replace(b"0101", b"0100"), "the frame states a length of 100 bytes, but contains 101"),
        (EXAMPLE[:-1], "not a frame"),
        (b"", "not a frame"),
    ):
        with pytest.raises(ValueError, match=words):
            unframe(wrong)


def minutes(b: Broken) -> dict[int, list[float]]:
    """Power by minute, of the published bytes."""
    found: dict[int, list[float]] = {}
    for topic, raw in b.sent:
        base = 0.0
        for record in json.loads(raw).get("e", []) if topic == b.topic else []:
            base = record.get("bt", base)
            if record["n"] == "ac.power.active":
                found.setdefault(int(base // 60), []).append(record["v"])
    return found


def converted(dsn: str, file: Path, start: int, end: int) -> list[str]:
    times = [datetime.fromtimestamp(at * 60, ZoneInfo("UTC")).strftime("%Y-%m-%dT%H:%M") for at in (start, end)]
    arguments = ["convert", "hj212-2017", "--map", str(file), "--from", times[0], "--to", times[1], "--db", dsn]
    result = CliRunner().invoke(platform, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [unframe(line + b"\r\n") for line in result.stdout_bytes.split(b"\r\n")[:-1]]


def fields(segment: str) -> dict[str, str]:
    values = segment.partition("CP=&&")[2].removesuffix("&&")
    return dict(part.split("=") for group in values.split(";") for part in group.split(","))


def test_minutes_of_a_stream_are_its_readings_and_what_is_missing_is_flagged(dsn: str, tmp_path: Path) -> None:
    b = make("whole", 1)
    stored(dsn, b, readings=False)
    by_minute = minutes(b)
    first = min(by_minute)
    segments = converted(dsn, mapping(tmp_path, MAP.format(stream=b.stream.name)), first - 1, first + 3)
    assert len(segments) == 4
    assert all("ST=32;CN=2051;PW=100000;MN=010000A8900016F000169DC0;Flag=4;CP=&&DataTime=" in one for one in segments)
    assert len({one[:20] for one in segments}) == 4, "each exchange has a QN of its own"
    whole = [number for number in by_minute if len(by_minute[number]) >= 45]
    assert whole
    for number, segment in enumerate(segments, first - 1):
        found, local = fields(segment), datetime.fromtimestamp(number * 60, SHANGHAI)
        assert found.pop("DataTime") == local.strftime("%Y%m%d%H%M%S")
        if number not in whole:
            assert found == {"w01018-Flag": "B"}, "too few readings, or none: never a zero"
            continue
        values = by_minute[number]
        expected = {"Min": min(values), "Avg": sum(values) / len(values), "Max": max(values)}
        assert found.pop("w01018-Flag") == "N"
        assert {k.partition("-")[2]: float(v) for k, v in found.items()} == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("how", ["frame", "text"])
def test_a_damaged_row_is_left_out_and_named(
    dsn: str, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole conversion ended with a traceback."""
    from tests.platform.test_births import damage

    b = make("whole", 1)
    stored(dsn, b, readings=False)
    for seq in (5, 6):
        damage(dsn, b, seq, how)
    first = min(minutes(b))
    segments = converted(dsn, mapping(tmp_path, MAP.format(stream=b.stream.name)), first, first + 2)
    assert fields(segments[0])["w01018-Flag"] == "B", "40 of 60 readings are too few"
    assert caplog.messages == [
        f"{b.stream.name}: pack {seq} is damaged in the database, its values are left out" for seq in (5, 6)
    ]


@pytest.mark.parametrize("kind", ["short", "clone", "wrong_prev", "tampered"])
def test_what_is_false_is_not_converted(dsn: str, tmp_path: Path, kind: str) -> None:
    b = make(kind, 1)
    stored(dsn, b, readings=False)
    with connect(dsn) as connection:
        query = (
            "SELECT sum(p.readings)::int / 10 FROM packs p WHERE p.faults IS NULL AND NOT EXISTS "
            "(SELECT FROM all_findings f WHERE f.stream = p.stream AND f.boot = p.boot AND f.seq IN (0, p.seq))"
        )
        sound = connection.execute(query.encode()).fetchall()[0][0] or 0
        conversion = read_map(mapping(tmp_path, MAP.format(stream=b.stream.name)))
        first = min(minutes(b)) * 60_000
        rows = list(converters_intervals(connection, conversion, first, first + 600_000))
    assert sum(one.amounts[0].readings for one in rows) == sound


def converters_intervals(connection: Any, conversion: Conversion, low: int, high: int) -> list[Interval]:
    from receiver.converters.intervals import read_intervals

    return list(read_intervals(connection, conversion, low, high, Path("map.toml")))


def amount(value: float, **more: Any) -> Amount:
    return Amount(readings=60, expected=60.0, mean=value, low=value, high=value, last=value, unit="kW", **more)


def test_flags_say_why_and_a_long_message_is_split(tmp_path: Path) -> None:
    several = MAP + "".join(
        f'[[factor]]\ncode = "a{n:05d}"\nstream = "park7/gw01/m{n}"\npoint = "p"\nunit = "kW"\n'
        'fields = ["Min", "Avg", "Max"]\nleast = 0.75\n'
        for n in range(40)
    )
    now = datetime(2026, 11, 28, 12, 0, tzinfo=SHANGHAI)
    conversion = read_map(mapping(tmp_path, several.format(stream="park7/gw01/m")), now)
    amounts = [
        amount(1.0, qualities=Counter(range=40)), Amount(expected=60.0, reasons=Counter(exception=3, timeout=1)),
        Amount(), *(amount(1000.5) for _ in range(38)),
    ]  # fmt: skip
    start = datetime(2026, 11, 28, 11, 0, tzinfo=SHANGHAI)
    frames = list(conversion.write([Interval(start, start.replace(minute=1), tuple(amounts))]))
    segments = [unframe(one) for one in frames]
    assert len(segments) > 2 and all(len(one) <= 1024 for one in segments)
    assert [f"Flag=6;PNUM={len(segments)};PNO={n};" in one for n, one in enumerate(segments, 1)] == [True] * len(
        segments
    )
    assert {one[:20] for one in segments} == {"QN=20261128120000000"[:20]}
    found = {key: value for one in segments for key, value in fields(one).items()}
    assert (found["w01018-Flag"], found["w01018-Avg"]) == ("T", "1")
    assert (found["a00000-Flag"], found["a00001-Flag"]) == ("D", "B")
    assert "a00000-Avg" not in found and "a00001-Avg" not in found
    assert found["a00039-Avg"] == "1000.5" and sum(key.endswith("-Flag") for key in found) == 41


def test_gap_reasons_are_those_of_the_point(dsn: str) -> None:
    """The reasons of all points of the stream were counted. So the flag of a point that had a timeout was D, because
    another point had many sentinel values.
    """
    b = make("whole", 1)
    low = b.stream.at_ms // 1000
    names = ["ac.power.active", "ac.voltage.l1"]
    records = [one for one in b.stream._records(10) if one["n"] not in names]
    base = {"bn": f"{b.stream.name}/"}
    for second in range(10):
        records[8 * second] |= {"bt": low + second + 0.25, **(base if second == 0 else {})}
    gaps = [
        {"from": low, "points": names[:1], "reason": "timeout", "to": low + 10},
        {"from": low, "points": names[1:], "reason": "sentinel", "to": low + 10},
    ]
    whole = [{"from": low + 10, "points": "*", "reason": "overload", "to": low + 60}]
    b.send(b.stream.pack(e=records, gaps=gaps), b.stream.pack(seconds=50, e=None, gaps=whole))
    stored(dsn, b, readings=False)
    conversion = Lines(b.stream.name, *names)
    conversion.length_s = 15
    start = low * 1000 // 15_000 * 15_000
    with connect(dsn) as connection:
        rows = [one.amounts for one in converters_intervals(connection, conversion, start, start + 75_000)]
    found = [sum((amounts[place].reasons for amounts in rows), Counter()) for place in (0, 1)]
    assert found == [{"timeout": 10, "overload": 50}, {"sentinel": 10, "overload": 50}]
    assert max(amounts[0].reasons.total() for amounts in rows) == 15, "in the intervals in which they were due"


def test_the_readings_expected_are_those_of_the_birth_at_that_time(dsn: str) -> None:
    """After a point had changed from 60 s to 10 s, an old complete minute had one of six readings, so no value was
    sent.
    """
    key, slow, quick = Key(), [("p", "gauge", "kW", 60)], [("p", "gauge", "kW", 10)]
    stream = Stream(key=key, points=slow, start=START)
    packs = [*stream.run(4, 60), stream.pack(30)]
    stream.restart(BOOTS[1])
    stream.points = quick
    packs += [*stream.run(2, 30), stream.pack(60)]
    sent = [("meterhouse/v1/park7/gw01/keys", keys(key)), *((stream.topic(), raw) for raw in packs)]
    with connect(dsn) as connection:
        enrol(connection, [Enrolment("park7/gw01", [key.kid])])
    Worker(Feed(sent), [Store(dsn)]).step(0)
    keeper = Keeper(dsn)
    while keeper.step():
        pass
    keeper.close()
    conversion, low = Lines(stream.stream, "p"), START * 1000
    with connect(dsn) as connection:
        rows, later = [
            [one.amounts[0] for one in converters_intervals(connection, conversion, *between)]
            for between in ((low, low + 360_000), (low + 3_600_000, low + 3_660_000))
        ]
    assert [(row.readings, row.expected) for row in rows] == [(1, 1), (1, 1), (1, 1), (4, 3.5), (6, 6), (0, 6)]
    assert [(row.readings, row.expected) for row in later] == [(0, 6)], "no packs: the newest birth"


def test_local_days_have_23_and_25_hours_where_clocks_change() -> None:
    zone = ZoneInfo("Europe/Berlin")
    low = round(datetime(2026, 10, 24, tzinfo=zone).timestamp() * 1000)
    high = round(datetime(2026, 10, 27, tzinfo=zone).timestamp() * 1000)
    days = edges(low, high, 86_400, zone)
    assert [(b - a) // 3_600_000 for a, b in itertools.pairwise(days)] == [24, 25, 24]
    assert len(edges(low, high, 900, zone)) == 73 * 4 + 1


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('st = "32"', 'st = "x"', "two digits"),
        ('upload = "minutes"', 'upload = "weeks"', "realtime, minutes"),
        ("interval = 60", "interval = 7", "divides an hour"),
        ("interval = 60", "interval = 1350", "divides an hour"),
        ("interval = 60", "interval = 2700", "divides an hour"),
        ("interval = 60", "interval = 86400", "divides an hour"),
        (
            'upload = "minutes"',
            'upload = "hour"',
            'interval 60 has no effect. Remove the key "interval": upload = "hour"',
        ),
        ("Asia/Shanghai", "Mars/Olympus", "timezone"),
        ('code = "w01018"', 'code = ""', "the bureau, such as"),
        ("least = 0.75", "", "if less than this share of the due readings is present"),
        ('fields = ["Min", "Avg", "Max"]', 'fields = ["Cou"]', "Min, Avg, Max"),
        ('unit = "kW"', "", "unit"),
        ('"pw"', '"nowhere"', "No such file"),
        ("interval = 60", "interval = 60\ncolour = 1", "unknown key"),
        ("[[factor]]", "[[factors]]", "unknown key"),
        ("least = 0.75", 'least = 0.75\n[flags]\ntimout = "B"', 'unknown key "timout" in [flags]'),
        ("least = 0.75", 'least = 0.75\n[flags]\ngood = "N"', 'unknown key "good" in [flags]'),
        ("least = 0.75", 'least = 0.75\n[flags]\ntimeout = "X"', "wrong flags"),
        ("[[factor]]", "flags = 1\n[[factor]]", "wrong flags"),
    ],
)
def test_a_faulty_mapping(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert before in MAP
    with pytest.raises(ConfigError) as raised:
        read_map(mapping(tmp_path, MAP.format(stream="park7/gw01/m").replace(before, after)))
    assert words in str(raised.value)


@pytest.mark.parametrize("password", ["", "12345", "1234567", "123456789", "123;56", "12 456", "12&&56"])
def test_a_password_has_six_characters(tmp_path: Path, password: str) -> None:
    """PW=...... has six characters in the standard. One to nine passed, although the error spoke of six."""
    file = mapping(tmp_path, MAP.format(stream="park7/gw01/m"))
    (tmp_path / "pw").write_text(password)
    with pytest.raises(ConfigError, match="Expected six ASCII characters"):
        read_map(file)


def test_a_mapping_gives_the_length_of_its_intervals_and_its_own_flags(tmp_path: Path) -> None:
    text = MAP.format(stream="park7/gw01/m") + '[flags]\nasleep = "F"\nclock = "C"\nfrozen = "S"\n'
    hourly = text.replace('upload = "minutes"\ninterval = 60', 'upload = "hour"')
    assert [read_map(mapping(tmp_path, one)).length_s for one in (text, hourly)] == [60, 3600]


def test_a_small_negative_value_is_sent_as_zero(tmp_path: Path) -> None:
    """A mean of -0.0001 was sent as -0."""
    for decimals, value, expected in ((3, -0.0001, "0"), (0, -0.4, "0"), (3, -0.0, "0"), (3, -0.0006, "-0.001")):
        text = MAP.format(stream="park7/gw01/m").replace("interval", f"digits = {decimals}\ninterval")
        start = datetime(2026, 11, 28, 11, 0, tzinfo=SHANGHAI)
        interval = Interval(start, start.replace(minute=1), (amount(value),))
        [sent] = read_map(mapping(tmp_path, text), start).write([interval])
        assert fields(unframe(sent))["w01018-Avg"] == expected


def test_wrong_usage_of_convert(dsn: str, tmp_path: Path) -> None:
    b = make("whole", 1)
    stored(dsn, b, readings=False)
    file = mapping(tmp_path, MAP.format(stream=b.stream.name).replace('unit = "kW"', 'unit = "W"'))
    other = tmp_path / "other.toml"
    other.write_text(MAP.format(stream="park7/gw01/nobody"))
    day = datetime.fromtimestamp(min(minutes(b)) * 60, ZoneInfo("UTC")).strftime("%Y-%m-%dT%H:%M")
    for arguments, words in (
        (["frob"], "this option is missing"),
        (["frob", "--map", str(file), "--from", day], "unknown converter"),
        (["hj212-2017", "--map", str(file)], "--from"),
        (["hj212-2017", "--map", str(file), "--from", "2030-01-01"], "no whole interval"),
        (["hj212-2017", "--map", str(other), "--from", day], f"{other}: there is no stream"),
        (["hj212-2017", "--map", str(file), "--from", day, "--to", "2027-01-01"], 'has the unit "kW"'),
    ):
        result = CliRunner().invoke(platform, ["convert", *arguments, "--db", dsn])
        assert isinstance(result.exception, GatewayError) and words in str(result.exception), (words, result.exception)
        assert result.output == "", "half a file would pass for a whole one"


def test_a_mistyped_point_is_an_error_as_a_wrong_unit_is(dsn: str, tmp_path: Path) -> None:
    """It was converted: each interval was flagged as without data, and the command said that all was well."""
    b = make("whole", 1)
    stored(dsn, b, readings=False)
    first = min(minutes(b))
    for point, words in (("ac.pow.active", 'Did you mean "ac.power.active"'), ("x", "Points of this stream: ac.")):
        text = MAP.format(stream=b.stream.name).replace('"ac.power.active"', f'"{point}"')
        file = mapping(tmp_path, text)
        for minute in (first, first + 1000):  # with packs in the range, and without any
            day = datetime.fromtimestamp(minute * 60, ZoneInfo("UTC")).strftime("%Y-%m-%dT%H:%M")
            arguments = ["convert", "hj212-2017", "--map", str(file), "--from", day, "--to", "2027-01-01", "--db", dsn]
            result = CliRunner().invoke(platform, arguments)
            assert isinstance(result.exception, ConfigError) and words in str(result.exception), result.output
            assert f'{file}: {b.stream.name} has no point "{point}"' in str(result.exception) and result.output == ""
    converted(dsn, mapping(tmp_path, MAP.format(stream=b.stream.name)), first + 1000, first + 1010)


class Lines:
    """A third party's conversion."""

    def __init__(self, stream: str, *points: str) -> None:
        self.series, self.zone, self.length_s = [Series(stream, one) for one in points], SHANGHAI, 60

    def write(self, intervals: Any) -> Any:
        for one in intervals:
            yield f"{one.start:%H:%M} {one.amounts[0].readings} {len(one.amounts[0].packs)}\n".encode()


MINE = Converter("lines", "lines of text", lambda path: Lines(path.read_text(), "ac.voltage.l1"))
WRONG = object()


def third_party(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """Install a distribution with a converter, as pip would."""
    installed = folder / "lines-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lines\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{converters.GROUP}]\nlines = {__name__}:{name}\n")
    monkeypatch.syspath_prepend(folder)


def test_a_third_partys_converter(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    third_party(monkeypatch, tmp_path, "MINE")
    b = make("whole", 1)
    stored(dsn, b, readings=False)
    (tmp_path / "map").write_text(b.stream.name)
    first = min(minutes(b))
    at = [datetime.fromtimestamp(n * 60, ZoneInfo("UTC")).strftime("%Y-%m-%dT%H:%M") for n in (first, first + 3)]
    arguments = ["convert", "lines", "--map", str(tmp_path / "map"), "--from", at[0], "--to", at[1], "--db", dsn]
    result = CliRunner().invoke(platform, arguments, catch_exceptions=False)
    counts = [int(line.split()[1]) for line in result.output.splitlines()]
    assert counts == [len(minutes(b).get(first + n, [])) for n in range(3)]
    assert "hj212-2017" in CliRunner().invoke(platform, ["convert", "--db", dsn]).output


@pytest.mark.parametrize(
    ("name", "words"), [("WRONG", "is not a converter descriptor"), ("NOTHING", "cannot be loaded")]
)
def test_a_third_partys_converter_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, words: str
) -> None:
    third_party(monkeypatch, tmp_path, name)
    with pytest.raises(ConfigError, match=words):
        find_converter("lines")
    assert find_converter("hj212-2017").name == "hj212-2017" and [*converters.converters()] == ["hj212-2017"]
