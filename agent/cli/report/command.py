"""`meterhouse report`: shows the figures of a day, month or year, or writes them as HTML or CSV."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from agent.cli.common import COLON, as_complaint, as_line, columns, is_alive, progress, read_snapshot
from agent.cli.control import AnswerBuffer, ask
from agent.cli.options import FILE, ConfigOptions, config_options, json_option, lang_option
from agent.cli.output_files import CsvDraft, TextDraft, writing
from drivers.model import GatewayError, UsageError, clean_text

if TYPE_CHECKING:
    from agent.intervals.calendar import Calendar

SEALED_WITHIN_S = 60  # packs and figures of an interval are sealed within this time after its end
Kind = Literal["day", "month", "year", "rolling"]
_DATES: Mapping[Kind, str] = {"day": r"\d{4}-\d{2}-\d{2}", "month": r"\d{4}-\d{2}", "year": r"\d{4}"}


@click.command()
@click.argument("period", metavar="[DAY|MONTH|YEAR|365d]", required=False, default="")
@lang_option
@click.option("--html", "html_file", type=FILE, help="Write a page with charts.")
@click.option("--csv", "csv_file", type=FILE, help="Write the figures as CSV.")
@click.option("--trace", "trace_file", type=FILE, help="Write the hourly green power to this CSV file.")
@click.option(
    "--trace-by",
    type=click.Choice(["hour", "interval"]),
    default="hour",
    help="Rows of the --trace file: one per hour, or one per interval.",
)
@config_options
@json_option
def report(
    period: str,
    lang: str,
    html_file: Path | None,
    csv_file: Path | None,
    trace_file: Path | None,
    trace_by: Literal["hour", "interval"],
    options: ConfigOptions,
    as_json: bool,
) -> None:
    """Show the park's figures of a day (2026-11-24), month (2026-11), year (2026) or the last 365 days (365d).

    Without a period, the report covers today until now. Each figure has its target, its trend, its largest
    contributions and its completeness. The figures come from the running agent, or from the database of a stopped
    agent.

    \b
    Examples:
      meterhouse report
      meterhouse report 2026-11 --html november.html --lang zh
      meterhouse report 2026-11-24 --trace green.csv

    \b
    Exit codes: 0 shown, 1 no database or no answer, 2 wrong usage, 3 bad configuration or plan.
    """
    from agent.cli.findings import silent_devices
    from agent.cli.report.answer import check_page
    from agent.cli.report.labels import WORDS
    from agent.config import role_note
    from agent.service.control.protocol import PeriodReport

    kind, day = parse_period(period)
    config = options.load()
    kept, now_ms = AnswerBuffer(), time.time_ns() // 1_000_000
    request = PeriodReport(period=kind, now_ms=now_ms, day=day, by=trace_by)
    with progress("days") as update:
        ask(config, request, kept.take, update)
    page = check_page(kept.whole)
    snapshot = _snapshot(config.runtime_dir)
    silent = silent_devices(snapshot, page["period"]["to"])
    for one in page.get("devices", ()):
        if one["device"] in silent:
            one["silent"] = silent[one["device"]]._asdict()
    if html_file is not None:
        from agent.cli.report.html import page as html

        with writing(html_file), TextDraft(html_file) as draft:
            draft.write(html(page, lang))
            draft.keep()
    if csv_file is not None:
        rows = [_figure_row(figure, page, lang) for figure in page["figures"]]
        _write_csv(csv_file, csv_heads(FIGURE_HEADS, lang), rows)
    if trace_file is not None:
        rows = [_trace_row(hour, page["timezone"], lang) for hour in _hours(page["trace"])]
        _write_csv(trace_file, csv_heads(TRACE_HEADS, lang), rows)
    for path in filter(None, (html_file, csv_file, trace_file)):
        click.echo(f"{WORDS[lang]['wrote']} {clean_text(str(path), 400)}", err=as_json)
    if as_json:
        click.echo(as_line(page))
    elif html_file is None and csv_file is None and trace_file is None:
        from agent.intervals.calendar import Calendar

        calendar = Calendar(config.timezone, config.interval.length_ms)
        _show(page, lang, _first_interval_s(snapshot, calendar), calendar.length_ms / 1000)
    if config.roleless:
        click.echo(as_complaint("warning", role_note(config.roleless)), err=True)


def _snapshot(runtime_dir: Path) -> Mapping[str, Any]:
    """Return the snapshot of the running agent; empty if no agent runs."""
    try:
        snapshot = read_snapshot(runtime_dir)
    except GatewayError:
        return {}
    return snapshot if is_alive(snapshot.get("pid")) else {}


def _first_interval_s(snapshot: Mapping[str, Any], calendar: Calendar) -> float:
    """Return the end of the running agent's first whole interval, in UTC seconds; 0 if no agent runs."""
    started = float(snapshot.get("started") or 0)
    return first_whole_interval_s(started, calendar) if started else 0.0


def first_whole_interval_s(started_s: float, calendar: Calendar) -> float:
    """Return the end, in UTC seconds, of the first interval that begins at or after ``started_s``."""
    at_ms = math.ceil(started_s * 1000)
    start_ms, end_ms = calendar.stretch("interval", at_ms)
    if start_ms < at_ms:
        end_ms = calendar.stretch("interval", end_ms)[1]
    return end_ms / 1000


def parse_period(text: str) -> tuple[Kind, str]:
    """Return (kind of a period, its first day), such as ("month", "2026-11-01") for "2026-11". Raises UsageError.

    The day is "" for today and for the last 365 days.
    """
    if text in ("", "today"):
        return "day", ""
    if text == "365d":
        return "rolling", ""
    for kind, pattern in _DATES.items():
        if re.fullmatch(pattern, text):
            return kind, text + {"day": "", "month": "-01", "year": "-01-01"}[kind]
    raise UsageError(
        f"invalid period {text!r}", where="report", hint="Write a period such as 2026-11-24, 2026-11, 2026 or 365d"
    )


FIGURE_HEADS = (
    "id", "title", "period", "value", "unit", "target", "verdict", "official", "completeness", "estimated",
    "numerator", "denominator", "formula_hash", "factors",
)  # fmt: skip
TRACE_HEADS = (
    "from",
    "to",
    "consumption_kWh",
    "own_kWh",
    "direct_kWh",
    "storage_kWh",
    "grid_kWh",
    "exported_kWh",
    "complete",
)


def csv_heads(names: tuple[str, ...], language: str) -> tuple[str, ...]:
    """Return the column heads of a CSV file, in this language."""
    from agent.cli.report.labels import CSV_WORDS

    return tuple(CSV_WORDS[language][name] for name in names)


def _figure_row(figure: Mapping[str, Any], page: Mapping[str, Any], language: str) -> list[Any]:
    from agent.cli.report.labels import CSV_WORDS, WORDS, target, text_in, value_of, verdict_of

    verdict = verdict_of(figure, page["period"])
    # True: no device has a role that the figure needs, so its amounts are zeros that nobody measured
    is_unmetered = bool(figure.get("unmetered"))
    sides = [{} if is_unmetered else figure.get(side, {}) for side in ("numerator", "denominator")]
    return [
        figure["id"],
        text_in(figure["title"], language),
        page["period"]["label"],
        value_of(figure),
        figure["u"],
        target(figure),
        verdict if language == "en" else WORDS[language][verdict],
        CSV_WORDS[language][str(bool(figure["official"])).lower()],
        "" if is_unmetered else figure["completeness"],
        figure["estimated"],
        *(f"{side['v']} {side['u']}".strip() if side else "" for side in sides),
        figure["formula"]["hash"],
        " ".join(one["id"] for one in figure["factors"]),
    ]


def _hours(trace: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all hours in order of time. Hours without data are included, but have no values."""
    return sorted([*trace["hours"], *trace.get("missing", ())], key=lambda hour: hour["from"])


def _trace_row(hour: Mapping[str, Any], timezone: str, language: str) -> list[Any]:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from agent.cli.report.labels import CSV_WORDS

    zone = ZoneInfo(timezone)
    times = [datetime.fromtimestamp(hour[key], zone).isoformat(timespec="seconds") for key in ("from", "to")]
    names = ("consumption", "own", "direct", "storage", "grid", "exported")
    complete = CSV_WORDS[language][str(bool(hour.get("complete", False))).lower()]
    return [*times, *(hour.get(name, "") for name in names), complete]


def _write_csv(path: Path, heads: tuple[str, ...], rows: list[list[Any]]) -> None:
    with (
        writing(path),
        CsvDraft(path, heads, "utf-8-sig") as draft,
    ):  # the encoding writes a byte order mark, which tells spreadsheets that the file is UTF-8
        for row in rows:
            draft.add_row(row)
        draft.keep()


def _show(page: Mapping[str, Any], language: str, first_interval_s: float, length_s: float) -> None:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from agent.cli.console_tables import open_console, print_table
    from agent.cli.findings import Silence
    from agent.cli.report.labels import (
        WORDS,
        duration,
        lacking,
        number,
        own_text,
        percent,
        share,
        silent_since,
        target,
        text_in,
        unit,
        value_of,
        verdict_of,
    )

    words, console = WORDS[language], open_console()
    place = own_text(page["label"], language) or f"{page['site']}/{page['gateway']}"
    console.print(f"[bold]{words['report']} {cell(page['period']['label'])}[/]  {cell(place)}{_until(page, words)}")
    if not any(figure.get("v") for figure in page["figures"]):
        console.print(words["nothing"])
        period = page["period"]
        if period["from"] <= period["until"] < min(first_interval_s, period["to"]):
            at = datetime.fromtimestamp(first_interval_s + SEALED_WITHIN_S, ZoneInfo(page["timezone"]))
            console.print(words["first interval"].format(duration(length_s * 1000, language), f"{at:%Y-%m-%d %H:%M}"))
        for one in page.get("devices", ()):
            if (silence := one.get("silent")) is not None:
                text = silent_since(Silence(**silence), page["timezone"], language)
                console.print(cell(f"{one['device']}{COLON[language]}{text}", 200))
        return
    heads = [words[name] for name in ("figure", "value", "target", "verdict", "known", "trend", "drags")]
    rows: list[tuple[str, ...]] = []
    colours = {"met": "green", "not met": "red"}
    of_set = ""
    titles = {one["id"]: text_in(one["title"], language) for one in page["sets"]} | {"site": words["own_figures"]}
    for figure in page["figures"]:
        if (now := figure["id"].partition("/")[0]) != of_set:
            of_set = now
            rows.append((f"[dim]{cell(titles.get(now, now))}[/]", *[""] * (len(heads) - 1)))
        heavy = "; ".join(f"{text_in(one['title'], language)} {percent(one['share'])}" for one in figure["drags"][:1])
        known = share(figure["completeness"]) if value_of(figure) else ""
        if known and figure["estimated"] != "0":
            known += words["comma"] + words["amount estimated"].format(percent(figure["estimated"]))
        judged = verdict_of(figure, page["period"])
        verdict, colour = words[judged], colours.get(judged, "dim")
        rows.append((
            cell(text_in(figure["title"], language)),
            cell(f"{number(value_of(figure))} {unit(figure)}"),
            cell(target(figure)),
            f"[{colour}]{cell(verdict)}[/]" if verdict else "",
            known,
            spark([one["v"] for one in figure["trend"]]),
            cell(lacking(figure, language) or heavy, 160),
        ))  # fmt: skip
    print_table(console, "", heads, rows, right=(heads[1], heads[4]))
    if any(figure["monitoring"] and figure.get("v") for figure in page["figures"]):
        console.print(f"[dim]{words['monitoring']}[/]")
    _show_trace(page, language)
    _show_balance(page, language)
    _show_meters(page, language)
    for one in page["excluded"]:
        title, why = cell(text_in(one["title"], language)), cell(own_text(one["why"], language), 200)
        console.print(COLON[language].join((words["excluded"], title, why)))


def _until(page: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Return a text that says up to which time a current period is known, or when a future period begins.

    Returns "" for a past period.
    """
    from datetime import datetime
    from zoneinfo import ZoneInfo

    period = page["period"]
    if period["until"] >= period["to"]:
        return ""
    if period["until"] <= period["from"]:
        begin = datetime.fromtimestamp(period["from"], ZoneInfo(page["timezone"]))
        return f"{words['comma']}{words['future']} {begin:%Y-%m-%d %H:%M}"
    until = datetime.fromtimestamp(period["until"], ZoneInfo(page["timezone"]))
    return f"{words['comma']}{words['until']} {until:%Y-%m-%d %H:%M}"


def cell(text: str, limit: int = 80) -> str:
    """Return a text for a cell in the terminal. Thin spaces become plain spaces, as not all terminals can show them."""
    from agent.cli import console_tables

    return console_tables.cell(text.replace("\u2009", " "), limit)


def _show_trace(page: Mapping[str, Any], language: str) -> None:
    from agent.cli.console_tables import open_console, print_parts
    from agent.cli.report.labels import WORDS, share

    words, console, trace = WORDS[language], open_console(), page["trace"]
    if trace["consumption"] == "0":
        return
    green, certified = share(trace["at_the_time"]), share(trace["with_certificates"])
    parts = [f"{words['at_the_time']} {green}", f"{words['with_certificates']} {certified}"]
    if trace.get("known", "1") != "1":
        is_over = page["period"]["until"] >= page["period"]["to"]
        parts.append(words["time known" if is_over else "so far known"].format(share(trace["known"])))
    line = f"{words['trace']}{COLON[language]}{words['comma'].join(parts)}"
    if columns(line) <= console.width:
        console.print(line)
    else:
        console.print(f"{words['trace']}{COLON[language].strip()}")
        print_parts(console, parts)


def _show_balance(page: Mapping[str, Any], language: str) -> None:
    from agent.cli.console_tables import open_console, print_table
    from agent.cli.report import balance as rows
    from agent.cli.report.labels import BALANCE_WORDS

    words, console, balance = BALANCE_WORDS[language], open_console(), page.get("balance")
    if balance is not None:
        if text := rows.site_row(balance, language):
            console.print(f"{words['balance']}{COLON[language]}{cell(text, 300)}")
            if rows.is_odd(balance):
                console.print(f"  [yellow]{words['not reliable']}[/]")
            trend = spark([one["v"] for one in balance["trend"]])
            console.print(f"  {words['stretches']}{COLON[language]}{rows.counts_row(balance, language)}  {trend}")
        heads = rows.node_heads(language)
        nodes = [tuple(cell(text, 80) for text in row) for row in rows.node_rows(balance, language)]
        print_table(console, "", heads, nodes, right=heads[2:6])
        if text := rows.unknown_row(balance, language):
            console.print(cell(text, 400))
    for name, value, known in rows.derived_rows(page.get("derived", ()), language):
        console.print(f"{words['derived']}{COLON[language]}{cell(name)} {cell(value)} ({cell(known, 200)})")


def _show_meters(page: Mapping[str, Any], language: str) -> None:
    from agent.cli.console_tables import open_console, print_table
    from agent.cli.report import meters
    from agent.cli.report.labels import WORDS

    console = open_console()
    heads = meters.heads(language)
    rows = [tuple(cell(text, 200) for text in row) for row in meters.rows(page, language)]
    print_table(console, WORDS[language]["devices"], heads, rows, right=heads[3:4])
    if text := meters.roleless(page, language):
        console.print(f"[yellow]{cell(text, 400)}[/]")


def spark(texts: list[str]) -> str:
    """Return a trend as a line of at most 31 blocks, with a dot for each missing figure."""
    from agent.cli.sparkline import sparkline

    return sparkline([float(text) if text else None for text in texts], 31, low=0.0)
