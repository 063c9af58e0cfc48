"""`meterhouse scan`: finds the devices on a line, and the profiles that fit them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent.cli.common import COLON, SEMICOLON, as_line, complain, progress, show_age
from agent.cli.options import ConfigOptions, Duration, config_options, json_option, lang_option, profile_dirs
from drivers.model import GatewayError, LineDown, LineLent, ProgressCallback, UsageError
from drivers.registry import DEFAULT, line_url_help, protocol_of, searchable
from drivers.texts import Catalogue

if TYPE_CHECKING:
    from agent.config import LineEntry
    from drivers.scan import Announce, FoundDevice, Scan, ScanOptions

LEASE_S = 900.0
MOST_HOSTS = 256
# Longest wait for an answer in the first pass, in seconds. An answer after this time still shows that a device exists;
# its address is then tried again.
TIMEOUT_S, QUICK_TIMEOUT_S = 0.2, 0.1
WORDS: Final = Catalogue(__package__, "scan")
_HOSTS = re.compile(r"([a-z-]+://(?:\d{1,3}\.){3})(\d{1,3})-(\d{1,3})((?::\d+)?)")
_DEFAULTS = [protocol.name for protocol in searchable() if protocol.searched_by_default]
F = TypeVar("F", bound=Callable[..., Any])


def _search_options(command: F) -> F:
    """Add the search options of each protocol to a command."""
    for option in reversed([option for protocol in searchable() for option in protocol.search_options]):
        command = click.option(f"--{option.name}", type=click.Choice(option.choices), help=option.help)(command)
    return command


@click.command()
@config_options
@click.option(
    "--line",
    "lines",
    metavar="URL|NAME",
    multiple=True,
    required=True,
    help=f"{line_url_help()}, or the name of a configured line; hosts may be a range, such as 192.0.2.10-40. "
    "May be repeated.",
)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice([*(protocol.name for protocol in searchable()), "all"]),
    help="May be repeated.  [default: of the following protocols, all that the line can carry: "
    f"{', '.join(_DEFAULTS)}]",
)
@click.option(
    "--serial",
    "settings",
    metavar="TEXT",
    multiple=True,
    help='Serial setting to try, such as "9600 8N1". May be repeated.  [default: the usual setting of each protocol]',
)
@click.option("--all-settings", is_flag=True, help="Try twelve common serial settings.")
@click.option(
    "--addresses",
    metavar="LIST",
    help="Addresses of devices (unit ids, primary addresses), such as 1-32,100.  [default: all]",
)
@_search_options
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(0.02, 30),
    help="How long to wait for an answer in the quick pass.  [default: 200 ms, but 100 ms with --quick "
    "on a serial line]",
)
@click.option(
    "--slow-timeout",
    "slow_s",
    type=Duration(0.02, 60),
    default="1 s",
    show_default=True,
    help="How long to wait for an answer in the slow pass.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Skip the slow pass. This may miss devices that are slow or answer only to other registers.",
)
@click.option(
    "--listen",
    "listen_s",
    type=Duration(0, 600),
    default="10 s",
    show_default=True,
    help="How long to listen for another master first; 0 is allowed only with --bus-is-mine.",
)
@click.option("--bus-is-mine", is_flag=True, help="Scan even if another master is active or may be present.")
@click.option("--deep", is_flag=True, help="Also send requests that only some devices support, such as function 43/14.")
@click.option("--no-identify", is_flag=True, help="Only find devices; do not try profiles.")
@click.option("--echo", is_flag=True, help="The adapter echoes each request; ignore the echo.")
@click.option("--add", is_flag=True, help="Add each device found to the configuration, as `adopt` does.")
@click.option("--yes", is_flag=True, help="With --add: do not ask anything.")
@lang_option
@json_option
def scan(
    options: ConfigOptions,
    lines: tuple[str, ...],
    add: bool,
    yes: bool,
    lang: str,
    as_json: bool,
    **asked: Any,
) -> None:
    """Find the devices on a line and the profiles that fit them.

    Sends read requests only, and first listens for ten seconds: if another master is active, the command does not scan.
    A quick pass tries every address once; a slow pass then retries the addresses that did not answer, with longer
    timeouts. If the running agent owns the line, it lends the line for at most 15 minutes.

    \b
    Examples:
      meterhouse scan --line serial:/dev/ttyUSB0
      meterhouse scan --line serial:/dev/ttyUSB0 --addresses 1-32 --add
      meterhouse scan --line serial:/dev/ttyUSB0 --protocol modbus --serial "9600 8N1" --serial "19200 8E1" --quick
      meterhouse scan --line serial:/dev/ttyUSB1 --protocol mbus --mbus-by secondary
      meterhouse scan --line modbus-tcp://192.0.2.10-40 --addresses 1

    \b
    Exit codes: 0 something found; 2 wrong usage; 4 nothing found, incomplete, another master, or line not available;
    130 interrupted.
    """
    from agent.cli.lease import borrow_line, line_factory
    from agent.cli.questions import given
    from agent.cli.target import named_line
    from agent.config import parsers as v
    from drivers.scan import Scan

    # nothing is logged, because errors are printed at the end
    logging.getLogger("meterhouse").addHandler(logging.NullHandler())
    if add:
        from agent.cli.adopt import add_found, ready

        ready(options, yes, "scan --add")
    folder = options.find_runtime_dir(strict=False)
    dirs = profile_dirs(options.config_file)
    named = {text: entry for text in lines if (entry := named_line(options, text)) is not None}
    # the parser adds a missing default port, so that the agent's line is recognized and borrowed
    urls = [given("--line", v.line_url, url) for url in _expanded([text for text in lines if text not in named])]
    wanted = [_scan_options(url, **asked) for url in urls]
    wanted += [_of_line(_scan_options(entry.url, **asked), entry) for entry in named.values()]
    wanted = [replace(each, profile_dirs=dirs, tries_framing=len(wanted) == 1) for each in wanted]
    scans = [Scan(each, line_factory()) for each in wanted]
    click.echo(_estimate(scans, lang), err=True)

    def announce(what: str, count: int, most_s: float) -> None:
        click.echo(say(lang, what, count=count, time=show_age(most_s, lang)), err=True)

    trouble: list[GatewayError] = []
    interrupted = False
    with progress("scan") as update:
        for one in scans:
            try:
                with borrow_line(folder, one.options.url, "scan", LEASE_S) as owner:
                    owner.run(_bounded(one, owner.limit_s, update, announce))
            except KeyboardInterrupt:
                interrupted = True
            except GatewayError as error:
                trouble.append(error)
            if interrupted:
                break
    found = [device for one in scans for device in one.found]
    known = _known_lines(options, [each.url for each in wanted])
    _print(found, as_json, known, dirs, lang, options.config_file)
    for one in scans:
        for note in one.notes:
            click.echo(f"{say(lang, 'note')}{COLON[lang]}{note.text(lang)}", err=True)
    for wrong in trouble:
        if len(scans) == 1 or not isinstance(wrong, LineDown):
            complain(wrong)
    if len(scans) > 1 and (down := sum(isinstance(error, LineDown) for error in trouble)):
        click.echo(f"{say(lang, 'note')}{COLON[lang]}{say(lang, 'refused', down=down, all=len(scans))}", err=True)
    if interrupted:
        click.echo(say(lang, "interrupted"), err=True)
        raise SystemExit(130)
    if add:
        add_found(options, found, yes, lang)
    raise SystemExit(_exit_code(scans, found, trouble, lang))


def say(lang: str, key: str, **names: object) -> str:
    """Return a text of ``WORDS`` in this language."""
    return WORDS.text(key, lang, **names)


def _estimate(scans: Sequence[Scan], lang: str) -> str:
    """Return the text before a scan: the longest duration if no device answers, and the extra time for each device."""
    time = show_age(sum(scan.estimate_s() for scan in scans), lang)
    each_s, slow_s = map(max, zip(*(scan.device_s() for scan in scans), strict=True))
    if not scans[0].options.identify:
        return say(lang, "estimate only", time=time)
    slow = say(lang, "estimate slow", slow=show_age(slow_s, lang)) if slow_s > each_s else ""
    return say(lang, "estimate", time=time, each=show_age(each_s, lang)) + slow


def _exit_code(scans: Sequence[Scan], found: Sequence[FoundDevice], trouble: Sequence[GatewayError], lang: str) -> int:
    single = len(scans) == 1
    grave = [error for error in trouble if single or not isinstance(error, LineDown)]
    if grave:
        return grave[0].exit_code
    if not found:
        if not any(one.other_url for one in scans):
            is_bus = any(one.is_serial for one in scans)
            click.echo(say(lang, "nothing" if is_bus else "nothing over TCP"), err=True)
        return 4
    return 0


async def _bounded(scan: Scan, limit_s: float | None, progress: ProgressCallback, announce: Announce) -> None:
    """Run a scan, but stop it ten seconds before its lease of the line ends. ``limit_s``: None without a lease.

    Raises LineLent if the scan was stopped; then ``scan.found`` has what it found until then.
    """
    try:
        async with asyncio.timeout(None if limit_s is None else limit_s - 10):
            await scan.run(progress, announce)
    except TimeoutError:
        what = f"the scan is incomplete: the agent lends the line for {LEASE_S / 60:.0f} minutes at most"
        hint = "Scan fewer addresses or settings at a time"
        raise LineLent(what, where=scan.options.url, hint=hint) from None


def _expanded(lines: Sequence[str]) -> list[str]:
    """Return the urls of lines. A range such as 192.0.2.10-40 becomes one url for each host. Raises UsageError."""
    found: list[str] = []
    for url in lines:
        match = _HOSTS.fullmatch(url)
        if match is None:
            found.append(url)
            continue
        low, high = int(match[2]), int(match[3])
        if not low <= high <= 255:
            raise UsageError(
                f"invalid range of hosts {low}-{high}", where="--line", hint="Write a range such as 192.0.2.10-40"
            )
        found += [f"{match[1]}{n}{match[4]}" for n in range(low, high + 1)]
    if len(found) > MOST_HOSTS:
        raise UsageError(
            f"{len(found)} lines are too many for one scan",
            where="--line",
            hint=f"Scan at most {MOST_HOSTS} lines at a time",
        )
    return found


def parse_addresses(text: str | None) -> tuple[int, ...]:
    """Return the numbers in a text such as ``1-32,100``, without duplicates. Raises UsageError."""
    found: dict[int, None] = {}
    for part in (text or "").split(",") if text else ():
        match = re.fullmatch(r"\s*(\d{1,3})(?:-(\d{1,3}))?\s*", part)
        if match is None or not int(match[1]) <= int(match[2] or match[1]) <= 255:
            raise UsageError(
                f"invalid address or range {part!r}",
                where="--addresses",
                hint="Write addresses up to 255, such as 1-32,100",
            )
        found.update(dict.fromkeys(range(int(match[1]), int(match[2] or match[1]) + 1)))
    return tuple(found)


def _scan_options(url: str, **asked: Any) -> ScanOptions:
    """Return the options of the command as options for the scan of one line. Raises UsageError."""
    from drivers.scan import COMMON_SETTINGS, ScanOptions

    if (asked["settings"] or asked["all_settings"]) and not url.startswith("serial:"):
        raise UsageError(
            "has no effect over TCP", where="--serial", hint="The serial server or gateway has its own serial setting"
        )
    fitting = searchable(url.partition(":")[0])
    protocols = asked["protocols"] or [one.name for one in fitting if one.searched_by_default]
    if "all" in protocols:
        protocols = [one.name for one in fitting]
    choices = (option.name for one in searchable() for option in one.search_options)
    is_hasty = asked["quick"] and url.startswith("serial:")
    timeout_s = asked["timeout_s"] or (QUICK_TIMEOUT_S if is_hasty else TIMEOUT_S)
    return ScanOptions(
        url=url,
        protocols=tuple(one.name for one in searchable() if one.name in protocols) or (DEFAULT,),
        settings=COMMON_SETTINGS if asked["all_settings"] else asked["settings"],
        addresses=parse_addresses(asked["addresses"]),
        timeout_s=timeout_s,
        slow_s=max(asked["slow_s"], timeout_s),
        slow=not asked["quick"],
        listen_s=asked["listen_s"],
        bus_is_mine=asked["bus_is_mine"],
        deep=asked["deep"],
        choices={name: asked[name.replace("-", "_")] or "" for name in choices},
        identify=not asked["no_identify"],
        echo=asked["echo"],
    )


def _of_line(asked: ScanOptions, line: LineEntry) -> ScanOptions:
    """Return the options for the scan of a configured line. An unusual serial setting of the line is tried first."""
    usual = dict.fromkeys(setting for name in asked.protocols for setting in protocol_of(name).serial_settings)
    settings = asked.settings
    if line.scheme == "serial" and not settings and line.serial not in usual:
        settings = (line.serial, *usual)
    return replace(asked, settings=settings, echo=asked.echo or line.echo)


def facts_of(device: FoundDevice) -> dict[str, Any]:
    """Return the facts of one device for JSON."""
    return {
        "line": device.url,
        "protocol": device.protocol,
        "address": device.address,
        "serial": device.serial or None,
        "seen": device.seen,
        "identity": device.identity,
        "profiles": [
            {
                "profile": fit.profile,
                "variant": fit.variant,
                "fit": fit.how,
                "agreeing": fit.agreeing,
                "asked": fit.asked,
            }
            for fit in device.fits
        ],
        "tried": device.tried,
        "answer_ms": round(device.answer_s * 1000) or None,
        "notes": [str(note) for note in device.notes],
    }


def _known_lines(options: ConfigOptions, urls: Sequence[str]) -> dict[str, str]:
    """Return url -> name of the configured line, for the lines in ``urls``. Empty without a valid configuration."""
    from agent.cli.lease import is_same

    if not os.path.exists(options.config_file):
        return {}
    try:
        lines = options.load().lines
    except GatewayError:
        return {}
    return {url: line.name for url in urls for line in lines if is_same(line.url, url)}


def _print(
    found: Sequence[FoundDevice],
    as_json: bool,
    known: Mapping[str, str],
    dirs: Sequence[Path],
    lang: str,
    config_file: Path,
) -> None:
    from agent.cli.identify import registers_hint
    from agent.cli.toml_snippet import tables

    texts = tables(found, known, "en" if as_json else lang, dirs)
    if as_json:
        for device, text in zip(found, texts[len(texts) - len(found) :], strict=True):
            click.echo(as_line({**facts_of(device), "toml": text}))
        return
    if not found:
        return
    from agent.cli.console_tables import cell, open_console, plain_table
    from agent.cli.main_points import identity_words

    many = len({device.url for device in found}) > 1
    columns = (*(["line"] if many else []), "protocol", "address", "serial", "identity", "profile", "notes")
    table = plain_table("", *(say(lang, column) for column in columns))
    for device in found:
        words = identity_words(device.identity, lang)
        table.add_row(
            *([cell(device.url, 60)] if many else []),
            cell(device.protocol),
            cell(device.address),
            cell(device.serial or "-"),
            cell(words or "-", 100),
            cell(fit_words(device, lang), 120),
            cell(SEMICOLON[lang].join(note.text(lang) for note in device.notes), 100),
        )
    open_console().print(table)
    if any(device.fits for device in found):
        click.echo(f"\n{say(lang, 'paste')}\n")
        click.echo("\n".join(texts), nl=False)
    for device in found:
        if hint := registers_hint(device, lang, config_file):
            click.echo(
                f"{say(lang, 'note')}{COLON[lang]}{device.protocol} {device.address}{COLON[lang]}{hint}", err=True
            )


def fit_words(device: FoundDevice, lang: str = "en", most: int = 3) -> str:
    """Return a text with the profiles that fit a device best; at most ``most`` of them."""
    if not device.fits:
        return say(lang, "none fits" if device.tried else "not tried")
    shown = [
        f"{fit.profile}{f' [{fit.variant}]' if fit.variant else ''} ({say(lang, fit.how)})"
        for fit in device.fits[:most]
    ]
    more = len(device.fits) - most
    return ", ".join(shown) + (say(lang, "more", more=more) if more > 0 else "")
