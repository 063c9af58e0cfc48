"""The fleet's page: what it shows is what was published, it changes nothing, and what strangers wrote is text."""

from __future__ import annotations

import html
import json
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from agent.verify.jws import base64url
from agent.verify.signed import payload_hash
from drivers.model import GatewayError
from receiver.commands import platform
from receiver.database import connect, create_tables, statement
from receiver.fleet import MadeGateway
from receiver.keeper import Keeper
from receiver.page import views
from receiver.page.app import make_app
from receiver.page.data import FleetData, last_days
from receiver.page.figures import QUARTER_MS, Figures, figures_of
from receiver.private_postgres import PrivatePostgres
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.fleet_faults import START_MS, Feed, make
from tests.kits.fleet_scene import GATEWAYS, MARKUP, fill
from tests.platform.test_attacks import put

MINUTE_MS = 60_000
AWAY = "host=/nowhere dbname=x"
LONG = "/stream/site00/gw00000/long"
PAGES = (
    "/", "/gateway/site00/gw00000", "/gateway/site00/gw00001", "/gateway/site09/silent", LONG,
    f"{LONG}?point=ac.energy.import", "/pack/site00/gw00000/long/2", "/nothing",
)  # fmt: skip
Browse = Callable[..., TestClient]


class Scene:
    """A database, its fleet, and what was published on the long stream."""

    def __init__(self, dsn: str, fleet: list[MadeGateway]) -> None:
        self.dsn, self.fleet = dsn, fleet


@pytest.fixture(scope="module")
def scene(postgres: PrivatePostgres) -> Scene:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE page")
    dsn = postgres.dsn.replace("dbname=postgres", "dbname=page")
    create_tables(dsn)
    return Scene(dsn, fill(dsn))


@pytest.fixture
def browse() -> Iterator[Browse]:
    opened: list[TestClient] = []

    def open_page(*dsns: str, base: str = "http://127.0.0.1:8090", **more: Any) -> TestClient:
        browser = TestClient(make_app(dsns, **more), base, follow_redirects=False)
        browser.__enter__()
        opened.append(browser)
        return browser

    yield open_page
    for browser in opened:
        browser.__exit__(None, None, None)


def attributes(text: str) -> list[tuple[str, str, str | None]]:
    """Attributes that no page of ours has, as a browser would see them."""
    found: list[tuple[str, str, str | None]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, value in attrs:
                outside = name in ("href", "src", "action") and not (value or "").startswith(("/", "#"))
                if name.startswith("on") or name == "style" or outside:
                    found.append((tag, name, value))

    Parser().feed(text)
    return found


def gateways(text: str) -> list[str]:
    return re.findall(r'<th scope="row"><a href="[^"]*/gateway/([^"]*)"', text)


def test_the_table_filters_sorts_and_turns_pages(scene: Scene, browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    page = browse(scene.dsn)
    everything = gateways(page.get("/").text)
    assert len(everything) == GATEWAYS and everything[-1] > everything[10], "all that are enrolled"
    assert "site01/gw00029" in page.get("/").text, "who is not enrolled has a table of its own"
    assert gateways(page.get("/?state=silent").text) == ["site09/silent"]
    assert set(gateways(page.get("/?state=incomplete").text)) == {"site00/gw00000", "site00/gw00010", "site01/gw00024"}
    assert gateways(page.get("/?q=GW00017&state=failed").text) == ["site00/gw00017"]
    assert "No gateway matches" in page.get("/?q=nobody").text
    names = gateways(page.get("/?sort=gateway").text)
    assert names == sorted(names) == gateways(page.get("/?sort=gateway&order=desc").text)[::-1]
    shares = [float(one) for one in re.findall(r'data-label="Complete">([\d.]+) %', page.get("/?sort=complete").text)]
    assert len(shares) == GATEWAYS - 1 and shares == sorted(shares)
    assert gateways(page.get("/?sort=missing").text)[:2] == ["site00/gw00000", "site00/gw00010"]
    assert 'aria-sort="ascending"' in page.get("/?sort=seen").text
    monkeypatch.setattr(views, "PAGE_ROWS", 10)
    turned = [gateways(page.get(f"/?sort=gateway&page={number}").text) for number in (1, 2, 3)]
    assert [one for part in turned for one in part] == names
    assert gateways(page.get("/?sort=gateway&page=99").text) == turned[2], "beyond the end is the last one"
    for nonsense in ("/?page=-1", "/?page=x", "/?sort=%00&state='--", "/?q=" + "x" * 500):
        assert page.get(nonsense).status_code == 200


def test_every_page_in_both_languages_and_markup_is_text(scene: Scene, browse: Browse) -> None:
    page, shown = browse(scene.dsn), ""
    for path in PAGES:
        for language, word in (("en", "Read-only"), ("zh", "只读页面")):
            answer = page.get(path, headers={"accept-language": language})
            assert answer.status_code == (404 if path == "/nothing" else 200), (path, answer.text[:300])
            assert word in answer.text and MARKUP not in answer.text and "<img src=x" not in answer.text
            assert answer.headers["content-security-policy"].startswith("default-src 'self'")
            assert not attributes(answer.text), "no handler, style, or address of another machine"
            shown += answer.text
    assert "&lt;img src=x" in shown, "it was there to be escaped: a version, and a reason of gaps"
    english = page.get("/?lang=en").text
    assert page.get("/").text.count('<html lang="en">') == english.count('<html lang="en">') == 1, "a cookie keeps it"


@pytest.mark.parametrize("path", ["/", "/gateway/site00/gw00000"])
def test_ages_are_in_the_language_of_the_page(scene: Scene, browse: Browse, path: str) -> None:
    """The Chinese page said "4 min 前"."""
    page = browse(scene.dsn)
    assert re.search(r">[\d.]+ (?:秒|分钟|小时)前<", chinese := page.get(f"{path}?lang=zh").text)
    assert not re.search(r"\d (?:s|min|h|d) ?前", chinese)
    assert re.search(r">[\d.]+ (?:s|min|h) ago<", page.get(f"{path}?lang=en").text)


@pytest.mark.parametrize("path", PAGES)
def test_a_refresh_is_what_the_page_itself_has_in_it(scene: Scene, browse: Browse, path: str) -> None:
    """It comes without head and foot; a template of the gateway's page asked for what this page does not have."""
    browser = browse(scene.dsn)
    whole, part = browser.get(path), browser.get(path, headers={"x-refresh": "1"})
    assert part.status_code == whole.status_code and "<html" not in part.text and "<html" in whole.text
    assert "</" in part.text


def test_a_figure_down_to_the_packs_and_their_bytes(scene: Scene, browse: Browse) -> None:
    """Mean, readings and packs of a quarter of an hour, against what was published."""
    page, stream = browse(scene.dsn), "site00/gw00000/long"
    text = page.get(f"/stream/{stream}").text
    cells = r'.*?<td class="n m">([^<]*)</td>.*?<td>(\d+) readings[^<]*</td><td class="n"><a href="([^"]*)">(\d+)'
    rows = re.findall(r'<tr data-t="(\d+)"' + cells, text, re.DOTALL)
    holed = [row for row in rows if int(row[4]) < 15]  # three of the packs of one quarter never came
    for start, mean, readings, href, packs in (rows[0], *holed):
        listed = page.get(html.unescape(href)).text
        links = re.findall(
            r'<a href="(/pack/[^"]*)">(\d+)</a>.*?<td class="hash"[^>]*>([\w-]{43})</td>', listed, re.DOTALL
        )
        assert len(links) == int(packs) and listed.count("good-text") == int(packs)
        values = []
        for where, _, digest in links:
            shown = page.get(where).text
            raw = page.get(html.unescape(re.findall(r'href="(/raw/[^"]*)"', shown)[0]))
            assert base64url(payload_hash(raw.content)) == digest and "attachment" in raw.headers["content-disposition"]
            base = 0.0
            for record in json.loads(raw.content)["e"]:
                base = record.get("bt", base)
                if record["n"] == "ac.power.active" and int(start) <= base < int(start) + 900:
                    values.append(record["v"])
        assert len(values) == int(readings)
        assert float(mean) == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert page.get(f"/raw/{stream}/2?hash=00").status_code == 404


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Asia/Shanghai", "Pacific/Pago_Pago"])
def test_a_stream_opens_on_the_local_day_of_its_newest_pack(scene: Scene, browse: Browse, zone: str) -> None:
    """Its days are kept in UTC; in China the new day begins at 16:00 UTC."""
    page = browse(scene.dsn, zone=ZoneInfo(zone)).get(LONG).text
    with connect(scene.dsn) as connection:
        name = LONG.removeprefix("/stream/")
        (ends,) = connection.execute(
            "SELECT max(to_ms) FROM packs JOIN streams s ON s.id = stream WHERE name = %s", [name]
        ).fetchall()[0]
    day = re.search(r'name="date" value="([^"]+)"', page)
    assert day and day[1] == str(datetime.fromtimestamp(ends / 1000 - 1, ZoneInfo(zone)).date())
    assert "No readings of this stream" not in page


@pytest.mark.parametrize(("zone", "days"), [("Asia/Shanghai", 0), ("UTC", 0), ("America/New_York", 1)])
def test_the_first_local_day_of_a_stream_can_be_reached(scene: Scene, browse: Browse, zone: str, days: int) -> None:
    """West of UTC, the packs of a UTC day begin on the local day before. No link led to it."""
    with connect(scene.dsn) as connection:
        name = LONG.removeprefix("/stream/")
        (begins,) = connection.execute(
            "SELECT min(day) FROM days JOIN streams s ON s.id = stream WHERE name = %s", [name]
        ).fetchall()[0]
    page, first = browse(scene.dsn, zone=ZoneInfo(zone)), begins - timedelta(days=days)
    assert f'min="{first}"' in page.get(LONG).text
    assert 'rel="prev"' not in page.get(f"{LONG}?date={first}").text
    second = page.get(f"{LONG}?date={first + timedelta(days=1)}").text
    assert re.search(rf'rel="prev" href="[^"]*date={first}\b', second)


def test_a_wrong_last_reading_of_a_quarter_is_no_amount_of_the_next() -> None:
    """A single 0 in place of a counter of 1,000,001 kWh gave the next quarter of an hour 1,000,002 kWh."""
    quarters = ([1_000_000, 1_000_001], [1_000_001, 0], [1_000_002, 1_000_003], [1_000_005], [2, 3], [3, 7])
    packs = []
    for number, values in enumerate(quarters):
        low = number * QUARTER_MS
        records = [{"n": "energy", "bt": low / 1000 + 60 * place, "v": value} for place, value in enumerate(values)]
        packs.append((low, low + QUARTER_MS, True, json.dumps({"e": records}).encode()))
    table = {"points": [{"n": "energy", "kind": "counter", "u": "kWh"}]}
    made = figures_of(packs, "energy", table, (0, len(quarters) * QUARTER_MS))
    assert [row.amount for row in made.rows] == [1, None, 1, 2, None, 4]


def test_a_pack_of_a_year_that_no_calendar_has_is_shown(dsn: str, browse: Browse) -> None:
    """A gateway can sign any time. One after the year 9999 was an internal error, for its stream and for the pack."""
    b = make("whole", 1, 300_000_000_000_000)
    put(dsn, [b])
    page = browse(dsn)
    assert page.get(f"/pack/{b.stream.name}/2").status_code == 200
    answer = page.get(f"/stream/{b.stream.name}")
    assert answer.status_code == 200
    earlier = re.search(r'rel="prev" href="([^"]*)"', answer.text)
    assert earlier and page.get(html.unescape(earlier[1])).status_code == 200


def test_the_first_increase_of_a_day_counts_from_the_last_reading_of_the_day_before(dsn: str) -> None:
    """With one reading in each quarter, the days together were a quarter short for each midnight."""
    b = make("whole", 1, START_MS // views.DAY_MS * views.DAY_MS - 5 * MINUTE_MS)
    b.send(*(b.stream.pack(60) for _ in range(10)))
    put(dsn, [b])
    base, energy = 0.0, []
    for record in (record for _, raw in b.sent for record in json.loads(raw).get("e", [])):
        base = record.get("bt", base)
        if record["n"] == "ac.energy.import":
            energy.append((base * 1000, record["v"]))
    low, data, amounts = START_MS // views.DAY_MS * views.DAY_MS, FleetData([dsn]), []
    for start in (low - views.DAY_MS, low):
        day = datetime.fromtimestamp(start / 1000, UTC).date()
        made = data.figures(b.stream.name, "ac.energy.import", day, start, start + views.DAY_MS)
        assert len(made.rows) == 96 and made.rows[0].from_ms == start
        amounts.append(sum(row.amount or 0 for row in made.rows))
    data.close()
    last = max(value for at, value in energy if at < low)
    assert amounts == pytest.approx([last - energy[0][1], energy[-1][1] - last])


def minutes(from_ms: int, count: int) -> Figures:
    """Figures of a day with a pack for each of its first minutes."""
    packs = []
    for low in range(from_ms, from_ms + count * MINUTE_MS, MINUTE_MS):
        records = [{"n": "power", "bt": low / 1000, "v": 5}]
        packs.append((low, low + MINUTE_MS, True, json.dumps({"e": records}).encode()))
    table = {"points": [{"n": "power", "kind": "gauge", "u": "kW"}]}
    return figures_of(packs, "power", table, (from_ms, from_ms + views.DAY_MS))


def view_at(monkeypatch: pytest.MonkeyPatch, now_ms: int, figures: Figures) -> dict[str, Any]:
    """The values for the page of a stream on the day of the figures, at a moment."""
    monkeypatch.setattr("receiver.page.views.time.time", lambda: now_ms / 1000)
    low = figures.rows[0].from_ms
    day = datetime.fromtimestamp(low / 1000, UTC).date()
    return views.stream_view(figures, "site00/gw00000/x", day, (low, low + views.DAY_MS), ZoneInfo("UTC"), "", "en")


def test_what_has_not_passed_of_a_quarter_is_not_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 01:02 with all packs the page said 82.7 % in the warning colour, and 13.3 % of a quarter without a gap."""
    low = START_MS // views.DAY_MS * views.DAY_MS
    shown = view_at(monkeypatch, low + 62 * MINUTE_MS, minutes(low, 62))
    chart, last = shown["chart"], shown["chart"].rows[-1]
    assert (chart.known, chart.low, last.known_text, last.missing) == ("100 %", False, "100 %", "")
    assert shown["day"]["until_text"] == "01:02", "so that the page says that the share is of the time so far"
    late = view_at(monkeypatch, low + 63 * MINUTE_MS, minutes(low, 62))["chart"]
    assert (late.known, late.rows[-1].known_text) == ("98.4 %", "66.7 %"), "each quarter counts by its passed length"
    over = view_at(monkeypatch, low + views.DAY_MS, minutes(low, 62))
    assert (over["day"]["until_text"], over["chart"].rows[-1].known_text) == ("", "13.3 %")


def test_a_day_that_has_begun_only_by_the_clock_of_the_gateway_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream opens on the day of its newest pack. Just before midnight this was an internal error."""
    low = START_MS // views.DAY_MS * views.DAY_MS
    chart = view_at(monkeypatch, low - 1000, minutes(low, 16))["chart"]
    assert [(row.known_text, row.missing) for row in chart.rows] == [("100 %", "")] * 2 and not chart.low


def test_readings_of_a_revoked_key_leave_the_chart(dsn: str) -> None:
    """The chart of a day was kept until another pack of the day arrived, although its readings were no longer valid."""
    b = make("revoked_later", 1)
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
    topic = f"meterhouse/v1/{b.gateway.name}/keys"
    data, low = FleetData([dsn]), START_MS // 86_400_000 * 86_400_000
    day = datetime.fromtimestamp(low / 1000, UTC).date()
    readings = []
    for sent in ([(topic, b.keys[0]), *b.sent], [(topic, one) for one in b.late_keys]):
        Worker(Feed(sent), [Store(dsn)]).step(0)
        keeper = Keeper(dsn)
        while keeper.step():
            pass
        keeper.close()
        rows = data.figures(b.stream.name, "ac.power.active", day, low, low + 86_400_000).rows
        readings.append((sum(row.readings for row in rows), sum(row.faulty for row in rows)))
    data.close()
    assert readings[0][1] == 0 and readings[1] == (readings[0][0] - 30, 3)


@pytest.mark.parametrize("how", ["frame", "text"])
def test_a_damaged_row_keeps_no_page_from_being_shown(dsn: str, browse: Browse, how: str) -> None:
    """The page of the whole day was an internal error."""
    from tests.platform.test_births import damage

    b = make("whole", 1)
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
    Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)]).step(0)
    damage(dsn, b, 5, how)
    page, name = browse(dsn, zone=ZoneInfo("UTC")), b.stream.name
    day = f"{datetime.fromtimestamp(START_MS / 1000, UTC):%Y-%m-%d}"
    point = str(json.loads(b.sent[1][1])["e"][0]["n"])
    assert page.get(f"/stream/{name}?day={day}&point={point}").status_code == 200
    quarter = START_MS // QUARTER_MS * QUARTER_MS
    rows = page.get(f"/packs/{name}?point={point}&from={quarter}&to={quarter + QUARTER_MS}").text
    assert rows.count(">damaged</span>") == 1 and f"/pack/{name}/6" in rows
    shown = page.get(f"/pack/{name}/5")
    assert shown.status_code == 200 and ">damaged</span>" in shown.text and "download>" not in shown.text
    with connect(dsn) as connection:
        ((short,),) = connection.execute("SELECT hash FROM packs WHERE seq = 5").fetchall()
    assert page.get(f"/raw/{name}/5?hash={short.hex}").status_code == 404
    assert page.get(f"/pack/{name}/4").status_code == 200


def test_packs_of_a_clone_are_not_verified(dsn: str) -> None:
    """The finding of a clone has the sequence 0: the whole boot. Its packs were "verified", in green."""
    b = make("clone", 1)
    put(dsn, [b])
    with connect(dsn) as connection:
        (boot,) = connection.execute("SELECT boot FROM findings WHERE seq = 0").fetchall()[0]
    data = FleetData([dsn])
    packs = data.packs_between(b.stream.name, START_MS, START_MS + views.DAY_MS, 100)
    data.close()
    assert {one.boot == boot for one in packs} == {True, False}
    assert all("conflict" in one.codes for one in packs if one.boot == boot)
    assert [one for one in packs if not one.codes], "the other boot is not to blame"


def test_the_pack_of_a_long_downtime_is_shown_for_all_of_its_time(dsn: str) -> None:
    """It is one pack, of any length. From its second hour on, the chart said that no pack covers the time."""
    b, hours = make("whole", 1), 60
    low = b.stream.at_ms // 1000
    gap = {"from": low, "points": "*", "reason": "stopped", "to": low + hours * 3600}
    b.send(b.stream.pack(hours * 3600, e=[], gaps=[gap]), *b.run(3))
    put(dsn, [b])
    data = FleetData([dsn])
    for hour in (0, 2, hours - 2):
        begin = (low + hour * 3600) * 1000 // QUARTER_MS * QUARTER_MS + QUARTER_MS
        packs = data.packs_between(b.stream.name, begin, begin + QUARTER_MS, 10)
        assert [(one.seq, one.from_ms) for one in packs] == [(13, low * 1000)], hour
        day = datetime.fromtimestamp(begin / 1000, UTC).date()
        figures = data.figures(b.stream.name, "ac.power.active", day, begin, begin + views.DAY_MS)
        assert figures.rows[0].gaps_ms == {"stopped": QUARTER_MS} and figures.rows[0].covered_ms == QUARTER_MS
        assert (figures.kind, figures.birth) == ("gauge", 1)
    after = (low + hours * 3600) * 1000 // QUARTER_MS * QUARTER_MS + QUARTER_MS
    assert data.packs_between(b.stream.name, after, after + QUARTER_MS, 10) == []
    data.close()


@pytest.mark.parametrize("kind", ["clone", "fork", "wrong_prev"])
def test_the_chart_leaves_out_packs_with_a_finding(dsn: str, kind: str) -> None:
    """Most findings are not in the row of the pack, so the readings of clones and forks were in the means."""
    b = make(kind, 1)
    put(dsn, [b])
    low = START_MS // views.DAY_MS * views.DAY_MS
    between = {"from": low, "to": low + views.DAY_MS}
    day = datetime.fromtimestamp(low / 1000, UTC).date()
    data = FleetData([dsn])
    with connect(dsn) as connection:
        (stream,) = connection.execute("SELECT id FROM streams WHERE name = %s", [b.stream.name]).fetchall()[0]

        def sound() -> int:
            rows = data.figures(b.stream.name, "ac.power.active", day, low, low + views.DAY_MS).rows
            return sum(row.packs - row.faulty for row in rows)

        before = sound()
        good = connection.execute(statement("sound_packs"), {"stream": stream, **between}).fetchall()
        # the first pack has no length and lies on the edge of a quarter, so it is in no quarter
        assert before == len([seq for seq, *_ in good if seq > 1]), "as for `convert`"
        connection.execute("INSERT INTO findings VALUES (%s, %s, %s, 'chain')", [stream, *good[-1][:2]])
        assert sound() == before - 1, "also if the chart was shown before"
    data.close()


def test_nothing_can_be_changed(scene: Scene, browse: Browse) -> None:
    """With the rights that docs/platform.md gives it, and with more: its sessions are read-only."""
    with connect(scene.dsn) as connection:
        connection.execute("CREATE ROLE page_reader LOGIN")
        connection.execute("GRANT USAGE ON SCHEMA meterhouse TO page_reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA meterhouse TO page_reader")
    page = browse(re.sub(r"user=\w+", "user=page_reader", scene.dsn))
    for path in PAGES[:-1]:
        assert page.get(path).status_code == 200, path
    data = FleetData([scene.dsn])
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        data._ask("site00/gw00000", lambda connection: connection.execute("DELETE FROM pins"))
    data.close()
    for method in ("post", "put", "delete", "patch"):
        assert getattr(page, method)("/").status_code == 405


def test_the_number_of_questions_does_not_grow_with_the_fleet(
    scene: Scene, dsn: str, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes it fast with a thousand gateways: a fixed number of questions, and packs are found by index."""
    asked: list[bytes | str] = []
    execute = psycopg.Connection.execute

    def counted(self: Any, query: Any, *more: Any, **most: Any) -> Any:
        asked.append(query)
        return execute(self, query, *more, **most)

    monkeypatch.setattr(psycopg.Connection, "execute", counted)
    counts = []
    for database in (dsn, scene.dsn):  # without any gateway, and with thirty
        data = FleetData([database])
        asked.clear()
        data.fleet()
        data.fleet()
        counts.append(len(asked))
        data.close()
    assert counts[0] == counts[1] <= 12, asked
    with connect(scene.dsn) as connection:
        connection.execute("SET enable_seqscan = off")
        since = {"since": last_days()[0], "like": None, "streams": None, "gateway": "site00/gw00000"}
        for name in ("fleet", "fleet_days", "streams"):
            plan = connection.execute(b"EXPLAIN " + statement(name), since).fetchall()
            assert not [line for (line,) in plan if "Seq Scan on packs" in line or "Seq Scan on reading" in line], name


def test_behind_a_proxy_under_a_path(scene: Scene, browse: Browse) -> None:
    page = browse(scene.dsn, root="/fleet", names=["fleet.example"], base="http://fleet.example")
    for path in ("/fleet/gateway/site00/gw00000", "/gateway/site00/gw00000"):  # kept by the proxy, or taken away
        text = page.get(path).text
        links = re.findall(r'(?:href|src|action)="([^"]*)"', text)
        assert links and all(link.startswith(("/fleet/", "#")) for link in links), links
    for link in set(re.findall(r'="(/fleet/static/[^"]*)"', text)):
        assert page.get(link).status_code == 200
    assert page.get("/fleet").status_code == 200 and page.get("/fleet/").status_code == 200
    assert page.get("/", headers={"host": "attacker.example"}).status_code == 421
    kept = page.get("/?lang=zh", headers={"x-forwarded-proto": "https"}).headers["set-cookie"]
    assert "Secure" in kept and "HttpOnly" in kept
    assert "Secure" not in page.get("/?lang=zh").headers["set-cookie"]


def test_a_database_that_is_away_is_said_and_an_old_state_is_shown_meanwhile(
    dsn: str, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(dsn) as connection:
        connection.execute("INSERT INTO shard VALUES (0, 2)")
    text = browse(dsn, AWAY).get("/").text
    assert "Database 2 is unreachable" in text and "enrolled" in text
    answer = browse(AWAY).get("/")
    assert (
        answer.status_code == 503
        and "Check that PostgreSQL is running there" in answer.text
        and "Traceback" not in answer.text
    )
    now = [100.0]
    data = FleetData([dsn, AWAY], lambda: now[0])
    first = data.fleet()
    data._dsns = [AWAY, AWAY]
    assert data.fleet() is first, "fresh"
    now[0] += 100
    monkeypatch.setattr("receiver.page.data.PATIENCE_S", 60.0)
    assert data.fleet() is first, "the query fails before the viewer has waited too long"
    now[0] += 300
    with pytest.raises(GatewayError):
        data.fleet()  # too old to be shown
    data.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gateway/no/one", 404), ("/gateway/site00/%3Cb%3E", 404), ("/stream/site00/gw00000/none", 404),
        ("/stream/site00/gw00000/long?date=x", 404), ("/stream/site00/gw00000/long?date=1999-01-01", 200),
        ("/stream/site00/gw00000/long?point=" + "x" * 300, 200), ("/packs/site00/gw00000/long?from=9&to=1", 404),
        ("/packs/site00/gw00000/long?from=0&to=99999999999999", 404),
        ("/pack/site00/gw00000/long/9007199254740992", 404),
        ("/pack/site00/gw00000/long/99999", 404), ("/static/../app.py", 404), ("/gateway/a%00b/c", 404),
    ],
)  # fmt: skip
def test_addresses_that_lead_nowhere(scene: Scene, browse: Browse, path: str, status: int) -> None:
    assert browse(scene.dsn).get(path).status_code == status


def test_a_stream_whose_birth_has_not_come_has_a_page(dsn: str, browse: Browse) -> None:
    """The page of its gateway led to "does not exist"."""
    b, clock = make("whole", 1), [0.0]
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
    feed = Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent[1:]])
    worker = Worker(feed, [Store(dsn)], lambda: clock[0])
    for _ in range(3):
        worker.step(0)
        clock[0] += 100.0
    page = browse(dsn)
    (link,) = set(re.findall(r'href="(/stream/[^"]*)"', page.get(f"/gateway/{b.gateway.name}").text))
    for path in (link, f"{link}?point=x&date=2026-11-24"):
        assert "No readings of this stream yet." in page.get(path).text
    assert page.get(f"{link}x").status_code == 404


def test_a_port_that_is_taken_names_the_option_of_this_page(dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(platform, ["page", "--listen", listen, "--db", dsn])
    assert "cannot listen" in str(result.exception) and "Choose another port with --listen" in str(result.exception)


def test_wrong_options_say_what_to_do(dsn: str) -> None:
    for arguments, words in (
        (["--listen", "nowhere"], "is not an address"),
        (["--root-path", "//x"], "is not a path"),
        (["--timezone", "Mars/Base"], "is not a time zone"),
    ):
        result = CliRunner().invoke(platform, ["page", *arguments, "--db", dsn])
        assert words in str(result.exception), (arguments, result.exception)
