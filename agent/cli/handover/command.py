"""`meterhouse handover`: makes the record of commissioning, which the gateway signs."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.answers import HandedOver, checked
from agent.cli.common import as_complaint, as_line, progress, read_snapshot, show_age, show_quality, show_unit, singular
from agent.cli.csv_files import read_rows
from agent.cli.handover.awaited import counter_of, wait_for_counters
from agent.cli.options import EXISTING_FILE, FILE, ConfigOptions, config_options, json_option, lang_option
from agent.cli.output_files import TextDraft, writing
from agent.cli.questions import asked, confirmed, is_terminal
from drivers.model import UsageError, clean_text

if TYPE_CHECKING:
    from rich.table import Table

    from agent.cli.ring_follower import Latest
    from agent.cli.watch.live_view import LiveView
    from agent.config import Config
    from agent.service.control.protocol import ComparedDevice

MAX_TEXT: Final = 200
OUTDATED_PERIODS, OUTDATED_S = 3, 10.0  # a value is too old if its age exceeds both 3 of its periods and 10 s
MOST_DEVICES: Final = 300  # limit of the devices in one request
_NUMBER: Final = re.compile(r"-?[0-9]{1,25}(\.[0-9]{1,12})?")
# such a text is ambiguous, because the comma may separate thousands or decimals
_ONE_COMMA: Final = re.compile(r"(-?[0-9]{1,25}),([0-9]{3})")
_WITH_UNIT: Final = re.compile(r"(.*?)(?:(?<=\d)\s*([A-Za-z][A-Za-z0-9³]{0,7}))?", re.DOTALL)
_PREFIX: Final = re.compile(r"([kMG]?)(Wh|varh|VAh|J)")
_POWERS: Final = {"": 0, "k": 3, "M": 6, "G": 9}
_THOUSANDS: Final = re.compile(r"-?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Shown:
    """The value on a display. ``point`` "" means the main counter. ``unit`` "" means the unit of the point."""

    value: str
    point: str = ""
    remark: str = ""
    unit: str = ""
    where: str = ""  # the option, or the line of the file, that gives the value; messages show it


@click.command()
@click.argument("devices", nargs=-1, metavar="[DEVICE]...")
@click.option("--display", "displays", multiple=True, metavar="DEVICE[/POINT]=VALUE",
              help="The value that a device shows on its display, such as inv1=12345.6. May be repeated.")  # fmt: skip
@click.option(
    "--csv",
    "csv_file",
    type=EXISTING_FILE,
    help="Take the values on the devices' displays from this file; each line is DEVICE[/POINT],VALUE[,REMARK].",
)
@click.option("--who", help="Name of the person who makes the record.")
@click.option("--remarks", default="", help="Remark for the other party.")
@click.option("--html", "html_file", type=FILE, help="Write the record as an A4 page, with the key's thumbprint.")
@click.option("--yes", is_flag=True, help="Do not ask anything.")
@lang_option
@config_options
@json_option
def handover(
    devices: tuple[str, ...], displays: tuple[str, ...], csv_file: Path | None, who: str | None, remarks: str,
    html_file: Path | None, yes: bool, lang: str, options: ConfigOptions, as_json: bool,
) -> None:  # fmt: skip
    """Record the reading of each device and the value on its display, and have the running gateway sign them.

    Asks for the displayed value of each device's main counter if no option gives it. Identity, line, address and
    reading come from the agent, which signs them as the event `handover` in its stream _gateway; `verify` lists this
    event. Needs no network.

    \b
    Examples:
      meterhouse handover --who "Li Wei" --html handover.html
      meterhouse handover --who "Li Wei" --display inv1=12345.6 --display grid=880.21 --yes --lang zh --html h.html
      meterhouse handover --who "Li Wei" --csv displays.csv --yes --json

    \b
    Exit codes: 0 signed; 1 no agent is running, or the agent cannot sign now; 2 wrong usage; 3 bad configuration;
    4 signed, but a display differs, or a device has no reading or does not answer; 130 not confirmed.
    """
    from agent.cli.control import ask_running
    from agent.cli.handover.labels import WORDS, verdict
    from agent.cli.watch.live_view import LiveView, check_devices
    from agent.service.control.protocol import Handover

    words, config = WORDS[lang], options.load()
    shown = _from_options(displays, devices)
    given = _from_csv(csv_file, shown) if csv_file else shown
    snapshot = read_snapshot(config.runtime_dir)
    for place, named in (("handover", devices), ("--display", shown), (f"--csv {csv_file}", given)):
        check_devices(snapshot, named, place)
    view = LiveView(config.runtime_dir, [*devices, *given], ())
    asks = is_terminal() and not yes
    try:
        if not yes and not asks:
            confirmed(yes, "handover", lang)
        remarks = _text(remarks, "--remarks", 2000)
        who = _text(who or (asked(words["who"], str) if asks else ""), "--who", needed=True)
        view.catch_up()
        names = list(dict.fromkeys(devices)) or list(view.snapshot.get("devices", {}))
        if len(names) > MOST_DEVICES:
            hint = "Make several records: for each record, give the names of its devices"
            raise UsageError(
                f"{len(names)} devices selected; a record can have at most {MOST_DEVICES}", where="handover", hint=hint
            )
        points = {name: given[name].point if name in given else "" for name in names}
        _check_points(view, points)
        given = {name: _converted(view, name, one) for name, one in given.items()}
        wait_for_counters(view, config, points, words)
        compared = [_compared(view, name, given.get(name), lang, asks) for name in names]
        if not yes:
            _preview(compared, view, config, words)
    finally:
        view.close()
    confirmed(yes, "handover", lang, words["confirm"], words["unsigned"])
    request = Handover(who=who, remarks=remarks, devices=compared)
    # opened before the record is signed, so that no record is signed for a page that cannot be written
    draft = None if html_file is None else TextDraft(html_file)
    with draft or nullcontext():
        with progress("devices") as update:
            answer = checked(ask_running(config.runtime_dir, request, progress=update), HandedOver, "handover")
        record = _record(answer, config, view.snapshot)
        if as_json:
            click.echo(as_line(record))
        else:
            _show(record, words)
        if draft is not None:
            _write_page(draft, record, lang)
            click.echo(words["wrote"].format(file=clean_text(str(html_file), 400)), err=as_json)
    bad = any(verdict(entry) in ("differs", "no reading", "silent") for entry in record["devices"])
    raise SystemExit(4 if bad else 0)


def _check_selected(shown: Iterable[str], devices: Sequence[str]) -> None:
    """Raise UsageError if an option gives a value for a device that is not selected."""
    others = [name for name in shown if name not in devices]
    if devices and others:
        hint = "Name this device among the DEVICE arguments as well, or leave out its --display"
        what = f"{clean_text(others[0], 40)!r} is not one of the selected devices"
        raise UsageError(what, where="--display", hint=hint)


def _write_page(draft: TextDraft, record: Mapping[str, Any], lang: str) -> None:
    from agent.cli.handover.html import page

    with writing(draft.path):
        draft.write(page(record, lang))
        draft.keep()


def _given(text: str, where: str) -> tuple[str, Shown]:
    """Return the device and its displayed value in a text such as ``inv1=12345.6``. Raises UsageError."""
    name, equals, value = text.partition("=")
    device, _, point = name.strip().partition("/")
    if not equals or not device:
        hint = "Such as --display inv1=12345.6"
        raise UsageError(f"{clean_text(text, 60)!r} does not have the form DEVICE=VALUE", where=where, hint=hint)
    where = f"{where} {clean_text(device, 40)}"
    number, unit = _number(value, where)
    return device, Shown(number, point, unit=unit, where=where)


def _number(text: str, where: str) -> tuple[str, str]:
    """Return (digits of a displayed value without thousands separators, its unit or "").

    Raises UsageError, also for a text such as 1,234, which may mean 1234 or 1.234.
    """
    plain = unicodedata.normalize("NFKC", text).strip()  # an East Asian input method may give full-width digits
    digits, unit = _WITH_UNIT.fullmatch(plain).groups()  # type: ignore[union-attr]
    plain = re.sub(r"(?<=\d)[ \u2009\u00a0](?=\d{3}(\D|$))", "", digits)
    if found := _ONE_COMMA.fullmatch(plain):
        small, large = ".".join(found.groups()), "".join(found.groups())
        hint = f"Type {small} or {large}, without a comma"
        raise UsageError(f"{plain} is ambiguous: {small} or {large}?", where=where, hint=hint)
    if _THOUSANDS.fullmatch(plain):
        plain = plain.replace(",", "")
    if not _NUMBER.fullmatch(plain):
        raise UsageError(
            f"{clean_text(text, 40)!r} is not a number",
            where=where,
            hint="Write digits and a decimal point, such as 12345.6",
        )
    return plain, unit or ""


def _converted(view: LiveView, device: str, shown: Shown) -> Shown:
    """Return a displayed value, converted to the unit of its point. Raises UsageError."""
    latest = counter_of(view, device, shown.point)
    if latest is None:
        return shown
    return replace(shown, value=_in_unit(shown.value, shown.unit, latest.point.unit, shown.where), unit="")


def _in_unit(value: str, unit: str, wanted: str, where: str) -> str:
    """Return a value converted from ``unit`` to ``wanted``, with all digits and no more: 12.34 becomes 1.234E+4.

    Raises UsageError if this is impossible.
    """
    if not unit or show_unit(wanted).casefold() == show_unit(unit).casefold():
        return value
    prefix, others = (_PREFIX.fullmatch(one) for one in (unit, wanted))
    if prefix is None or others is None or prefix[2] != others[2]:
        hint = f"Give the value in the unit {show_unit(wanted)}" if wanted else "Give the number without a unit"
        raise UsageError(
            f"the unit {clean_text(unit, 20)} of the display does not fit this counter", where=where, hint=hint
        )
    return str(Decimal(value).scaleb(_POWERS[prefix[1]] - _POWERS[others[1]]))


def _from_options(displays: Iterable[str], devices: Sequence[str]) -> dict[str, Shown]:
    found: dict[str, Shown] = {}
    for text in displays:
        device, display = _given(text, "--display")
        _once(found, device, "--display")
        found[device] = display
    _check_selected(found, devices)
    return found


def _once(given: Mapping[str, Shown], device: str, where: str) -> None:
    if device in given:
        raise UsageError(
            f"{clean_text(device, 40)!r} is given twice",
            where=where,
            hint="Keep only the value that is correct for this device",
        )


def _from_csv(path: Path, given: Mapping[str, Shown]) -> dict[str, Shown]:
    """Return device -> displayed value, from ``given`` and the file. Raises UsageError if a device has two values."""
    found = dict(given)
    for line, row in read_rows(path, ","):
        # a first line with a word in place of the value has the names of the columns
        is_head = line == 1 and len(row) > 1 and row[1].strip() and not re.search(r"\d", row[1])
        if not row or not "".join(row).strip() or is_head:
            continue
        where = f"{path}:{line}"
        if len(row) not in (2, 3):
            hint = "Expected DEVICE,VALUE or DEVICE,VALUE,REMARK"
            raise UsageError(f"this line of the file has {len(row)} columns", where=where, hint=hint)
        device, _, point = row[0].strip().partition("/")
        remark = _text(row[2], where) if len(row) == 3 else ""
        _once(found, device, where)
        value, unit = _number(row[1], where) if row[1].strip() else ("", "")
        found[device] = Shown(value, point, remark, unit, where)
    return found


def _text(text: str, where: str, most: int = MAX_TEXT, needed: bool = False) -> str:
    text = text.strip()
    if needed and not text:
        raise UsageError("is missing", where=where, hint='Such as --who "Li Wei"')
    if len(text) > most or not text.isprintable():
        raise UsageError(f"must be one line of at most {most} characters", where=where, hint="Shorten the text")
    return text


def _check_points(view: LiveView, points: Mapping[str, str]) -> None:
    """Raise UsageError for a point that the device does not have."""
    for device, point in points.items():
        if point and counter_of(view, device, point) is None:
            from drivers.toml.parsers import did_you_mean

            rows = [name for owner, name in view.follower.latest if owner == device]
            raise UsageError(f"{device} has no point {clean_text(point, 60)!r}", where="--display",
                             hint=did_you_mean(point, rows, "Points of the device"))  # fmt: skip


def _compared(view: LiveView, device: str, shown: Shown | None, lang: str, asks: bool) -> ComparedDevice:
    """Return the entry of a device for the request. With ``asks``, asks for a displayed value that no option gives."""
    from agent.cli.handover.labels import WORDS
    from agent.cli.ring_follower import show_number
    from agent.service.control.protocol import ComparedDevice

    words = WORDS[lang]
    latest, remark = counter_of(view, device, shown.point if shown else ""), shown.remark if shown else ""
    if latest is None or not isinstance(latest.value, Decimal):
        click.echo(
            as_complaint("warning", words["none" if latest is None else "unread"].format(device=device)), err=True
        )
        return ComparedDevice(device=device, remark=remark)
    name = latest.point.name
    is_alive = view.snapshot.get("devices", {}).get(device, {}).get("life") == "alive"
    if is_alive and (why := _outdated(latest, lang)):
        click.echo(as_complaint("warning", why), err=True)
        return ComparedDevice(device=device, remark=remark)
    unit = latest.point.unit
    seen, value = [_seen(latest)], shown.value if shown else ""
    if shown is None and asks:
        question = words["ask"].format(device=device, point=name, value=show_number(latest.value), unit=unit)
        value = asked(question, lambda text: _in_unit(*_number(text, device), unit, device) if text else "", "")
        view.catch_up()  # read the counter again, because it may have grown while the user answered
        if isinstance(latest.value, Decimal):
            seen.append(_seen(latest))
    near = min(seen, key=lambda one: abs(Decimal(one["v"]) - Decimal(value))) if value else seen[-1]
    return ComparedDevice(device=device, n=name, remark=remark, **_displayed(value), **near)


def _displayed(value: str) -> dict[str, Any]:
    """Return the members of the request for a displayed value, which may have an exponent; "" means: no value."""
    if not value:
        return {}
    number = Decimal(value)
    step = Decimal(1).scaleb(int(number.as_tuple().exponent))
    return {"display": format(number, "f"), "resolution": format(step, "f") if step > 1 else ""}


def _outdated(latest: Latest, lang: str) -> str:
    """Return a warning if the newest reading of the counter failed and its last value is too old; "" if all is well."""
    from agent.cli.finding_words import reason_words
    from agent.cli.handover.labels import WORDS
    from agent.cli.ring_follower import GAP_CODES

    age_s = latest.age_s(time.time_ns()) or 0.0
    if latest.quality < GAP_CODES or age_s <= max(OUTDATED_PERIODS * latest.period_ms / 1000, OUTDATED_S):
        return ""
    point, why = latest.point, reason_words(show_quality(latest.quality))[lang == "zh"]
    age = show_age(age_s, lang).replace(" ", "" if lang == "zh" else " ")
    return WORDS[lang]["old"].format(device=point.device, point=point.name, age=age, why=why)


def _seen(latest: Latest) -> dict[str, Any]:
    return {"v": format(latest.value, "f"), "t_ms": latest.good_ns // 1_000_000}


def _record(answer: Mapping[str, Any], config: Config, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record for JSON and for the page. It has the signed events, and facts about the gateway."""
    from agent.cli.handover.labels import verdict

    events: Sequence[Mapping[str, Any]] = answer["events"]
    first, entries = events[0], [entry for event in events for entry in event["devices"]]
    kinds = [verdict(entry) for entry in entries]
    return {
        "site": config.site, "gateway": config.gateway, "label": config.site_label, "timezone": config.timezone,
        "version": str(snapshot.get("version", "")), "config": str(snapshot.get("config", {}).get("hash", "")),
        "id": first["id"], "time": first["t"], "who": first["who"], "by": first["by"],
        "remarks": first.get("remarks", ""), "devices": entries, "packs": answer["packs"],
        "thumbprint": answer["thumbprint"], "trust": f"{config.base}={answer['thumbprint']}",
        "counts": {"agree": kinds.count("agrees"), "differ": kinds.count("differs"),
                   "open": kinds.count("not compared") + kinds.count("no reading"),
                   "silent": kinds.count("silent")},
    }  # fmt: skip


def _preview(compared: Sequence[ComparedDevice], view: LiveView, config: Config, words: Mapping[str, str]) -> None:
    """Print the values that will be signed, so that the user can check them before confirming."""
    from agent.cli.console_tables import open_console
    from agent.cli.handover.labels import why_different
    from agent.service.control.attest import compare

    states = view.snapshot.get("devices", {})
    ratios = {one.name: {"ct": str(one.ratio_ct), "pt": str(one.ratio_pt)} for one in config.devices}
    entries = []
    for one in compared:
        entry: dict[str, Any] = {"device": one.device, "state": states.get(one.device, {}).get("life", "unknown"),
                                 "ratio": ratios.get(one.device, {})}  # fmt: skip
        if one.n:
            latest = view.follower.latest[(one.device, one.n)]
            entry["reading"] = {"n": one.n, "v": one.v, "u": latest.point.unit}
        if one.display:
            entry["display"] = one.display
            if one.resolution:
                entry["resolution"] = one.resolution
            entry["difference"], entry["agrees"] = compare(one.v, one.display, one.resolution)
        entries.append(entry)
    click.echo(err=True)
    open_console(stderr=True).print(_table(entries, words))
    for entry in entries:
        if text := why_different(entry, words):
            click.echo(text, err=True)


def _table(entries: Iterable[Mapping[str, Any]], words: Mapping[str, str]) -> Table:
    """Return a table with the reading and the displayed value of each device.

    If an entry has an identity, a column shows it.
    """
    from agent.cli.console_tables import cell, plain_table
    from agent.cli.handover.labels import display_text, verdict
    from agent.cli.main_points import known_as

    entries = list(entries)
    columns = ["device", "point", "reading", "display", "difference", "verdict"]
    heads = [words[name] for name in columns + ["identity"] * any("identity" in entry for entry in entries)]
    table = plain_table("", *heads, right=heads[2:5])
    colours = {"agrees": "green", "differs": "red", "no reading": "red", "silent": "red"}
    for entry in entries:
        reading, result = entry.get("reading", {}), verdict(entry)
        colour = colours.get(result, "yellow")
        table.add_row(
            cell(entry["device"]),
            cell(reading.get("n", "-")),
            cell(f"{reading['v']} {reading['u']}" if reading else "-"),
            cell(display_text(entry) or "-"),
            cell(entry.get("difference", "-")),
            f"[{colour}]{words[result]}[/]",
            *([cell(known_as(entry["identity"]), 100)] if "identity" in entry else []),
        )
    return table


def _show(record: Mapping[str, Any], words: Mapping[str, str]) -> None:
    from agent.cli.console_tables import open_console
    from agent.cli.handover.labels import why_different

    open_console().print(_table(record["devices"], words))
    for entry in record["devices"]:
        if text := why_different(entry, words):
            click.echo(text, err=True)
    click.echo(singular(words["summary"].format(devices=len(record["devices"]), **record["counts"])))
    for pack in record["packs"]:
        click.echo(words["done"].format(id=record["id"], **pack))
