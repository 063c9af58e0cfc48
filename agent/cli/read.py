"""`meterhouse read`: one device, once, as a table of values."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import as_line
from agent.cli.lease import borrow_line, line_factory
from agent.cli.options import FILE, LANGUAGE, ConfigOptions, config_options, json_option
from drivers.model import (
    DeviceSpec,
    LineTimeout,
    Point,
    ProfileError,
    Reading,
    Reason,
    UsageError,
)

if TYPE_CHECKING:
    from agent.config import Config, DeviceConfig
    from drivers.profile import Profile

LEASE_S = 300.0
NOT_MISSING = {Reason.SENTINEL, Reason.ASLEEP}  # the device reported no value
DUMPED = ("modbus", "sunspec")
ADHOC = ("profile", "line", "address")


@click.command()
@click.argument("device", required=False)
@config_options
@click.option("--profile", metavar="ID", help="Without configuration: a profile's id, or the path of its file.")
@click.option(
    "--line",
    metavar="URL",
    help="Without configuration: serial:/dev/..., modbus-tcp://HOST, tcp:// or udp://HOST:PORT.",
)
@click.option("--address", metavar="TEXT", help="Without configuration: the device's address on the line, such as 1.")
@click.option(
    "--serial",
    metavar="TEXT",
    help="Without configuration: the port's setting.  [default: the profile's, else \"9600 8N1\"]",
)
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="Without configuration: a parameter of the profile."
)
@click.option(
    "--point", "patterns", multiple=True, metavar="GLOB", help='Only matching points, such as "ac.*". May be repeated.'
)
@click.option("--lang", type=LANGUAGE, help="Show what each point means, in English or Chinese.")
@click.option("--raw", is_flag=True, help="Also show the raw bytes.")
@click.option(
    "--dump",
    "dump_file",
    type=FILE,
    help="Record the registers that were read, for `simulate --dump` and `decode profile`.",
)
@json_option
def read(
    device: str | None,
    options: ConfigOptions,
    patterns: tuple[str, ...],
    lang: str | None,
    raw: bool,
    dump_file: Path | None,
    as_json: bool,
    **adhoc: Any,
) -> None:
    """Read one device once and print its values.

    Either a device of the configuration by name, or any device by --profile, --line and --address.
    If the running agent owns the line, it lends it meanwhile (gap reason `lent`). Nothing is stored
    or sent; nothing is ever written to the device.

    \b
    Examples:
      meterhouse read inv1
      meterhouse read --profile eastron/sdm630 --line serial:/dev/ttyUSB0 --address 1
      meterhouse read --profile huawei/sun2000 --line modbus-tcp://192.0.2.10 --address 1 --lang zh
      meterhouse read inv1 --dump inv1.json

    \b
    Exit codes: 0 good, 2 wrong usage, 3 bad configuration or profile, 4 no answer from the device, or points missing.
    """
    from agent.cli.target import adhoc_target, configured_target

    if device is not None:
        if any(adhoc[key] for key in (*ADHOC, "serial", "params")):
            what = "both a device name and --profile, --line or --address"
            raise UsageError(what, where="read", hint="Give either the name or the options, not both")
        config, entry, profile = configured_target(options.load(), device)
    else:
        missing = [f"--{key}" for key in ADHOC if not adhoc[key]]
        if missing:
            hint = "Give the name of a configured device, or all of --profile, --line and --address"
            raise UsageError(f"{', '.join(missing)} not given", where="read", hint=hint)
        config, entry, profile = adhoc_target(**adhoc)
    folder = options.find_runtime_dir(strict=False) if device is None else config.runtime_dir
    owner = borrow_line(folder, config.line(entry.line).url, "read", LEASE_S)
    if dump_file is not None and profile.protocol not in DUMPED:
        hint = "Frames of meters are seen with `watch --frames`"
        raise UsageError(f"{profile.protocol} has no registers to record", where="--dump", hint=hint)
    logging.getLogger("meterhouse").addHandler(logging.NullHandler())  # errors are printed once, at the end
    words: dict[str, dict[str, int]] = {}
    try:
        with owner:
            points, readings = owner.run(
                read_once(config, entry, profile, patterns, words if dump_file is not None else None)
            )
    except LineTimeout as error:
        raise LineTimeout(error.what, where=error.where, hint=error.hint or silence_hint(config, entry)) from error
    if dump_file is not None:
        _write_dump(dump_file, entry.address, words)
    rows = list(zip(points, readings, strict=True))
    if as_json:
        _print_json(entry.name, rows, lang, raw)
    else:
        _print(rows, lang, raw)
    raise SystemExit(4 if any(is_missing(point, reading) for point, reading in rows) else 0)


def _write_dump(path: Path, address: str, words: Mapping[str, Mapping[str, int]]) -> None:
    """A dump with the registers of ``words``. Raises UsageError where it cannot be written, or there are none."""
    import json

    if not words:
        raise UsageError("no register could be read", where=str(path), hint="Nothing was written")
    found = {"protocol": "modbus", "address": int(address), **words}
    try:
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(path), hint="Name another file") from error


def silence_hint(config: Config, device: DeviceConfig) -> str:
    """The hint if a device does not answer."""
    line = config.line(device.line)
    if line.scheme == "serial":
        setting = device.serial or line.serial
        swapped = f"that its port is set to {setting}, that A and B are not swapped, and that it is powered"
        return f"Check the address {device.address}, {swapped}"
    if line.scheme == "modbus-tcp":
        other = (
            f"Check the unit number {device.address}, and whether another master uses the device. "
            "A serial server that passes bytes through needs tcp:// instead of modbus-tcp://"
        )
    else:
        other = (
            f"Check the address {device.address}, and that the server passes raw bytes at the right speed. "
            "A port that speaks Modbus TCP needs modbus-tcp:// instead of tcp://"
        )
    return f"The connection is established. {other}"


def is_missing(point: Point, reading: Reading) -> bool:
    """Is a value missing? A point that the device reports as not available is not."""
    if reading.value is not None or reading.quality in NOT_MISSING:
        return False
    return not point.optional


async def read_once(
    config: Config,
    device: DeviceConfig,
    profile: Profile,
    patterns: Iterable[str] = (),
    words: dict[str, dict[str, int]] | None = None,
) -> tuple[list[Point], list[Reading]]:
    """All points of a device, in the variant that its firmware selects, with their readings.

    ``words``, where given, gets the registers that were answered, as a dump has them.

    Raises LineError if the device is silent, ProfileError or UsageError if no request can be made.
    """
    from agent.config import device_spec, line_config
    from drivers.registry import driver_class
    from drivers.scan.caching_line import CachingLine
    from ext.ring import Ring

    line = line_factory()(line_config(config.line(device.line)))
    memory = CachingLine(line) if words is not None else None
    with tempfile.TemporaryDirectory(prefix="meterhouse-read-") as folder:
        ring = Ring.create(f"{folder}/ring", 1 << 16, 0, 0, bytes(32))  # drivers want one; nothing is kept

        def driver(**known: Any) -> Any:
            spec = device_spec(config, device, profile, **known)
            return driver_class(spec.protocol)(spec, memory.as_line() if memory else line, ring, 0)

        try:
            found = driver()
            if profile.variants:
                found = driver(**await _identity(found, profile))
            points = chosen(found.spec, patterns)
            readings = await found.read_points([point.name for point in points])
            if memory is not None and words is not None:
                words.update(memory.dump())
        finally:
            await line.close()
            ring.close()
    return points, [readings[point.name] for point in points]


def chosen(spec: DeviceSpec, patterns: Iterable[str]) -> list[Point]:
    """The points that --point asks for. Raises UsageError for a pattern that matches none."""
    from drivers.profile import select

    try:
        return list(select(spec.points, list(patterns)))
    except ProfileError as error:
        hint = error.hint if error.hint.startswith("Did") else f"`meterhouse profiles show {spec.profile}` lists them"
        raise UsageError(error.what, where="--point", hint=hint) from error


async def _identity(driver: Any, profile: Profile) -> dict[str, Any]:
    """Firmware and identity of the device, if it has them, to choose the variant."""
    names = [point.name for point in driver.spec.points]
    wanted = [name for name in dict.fromkeys((*profile.identity_points, "device.firmware")) if name in names]
    readings: Mapping[str, Reading] = await driver.read_points(wanted) if wanted else {}
    known = {name: str(reading.value) for name, reading in readings.items() if reading.value is not None}
    return {"firmware": known.get("device.firmware"), "identity": known}


def meaning(point: Point, lang: str | None) -> str:
    """The meaning of a point, from the vocabulary."""
    if not lang:
        return ""
    from drivers.profile import vocabulary

    entry = vocabulary().find(point.name)
    return "" if entry is None else entry.zh if lang == "zh" else entry.en


def label(point: Point, reading: Reading) -> str:
    """The word or words for a state's number."""
    value = reading.value
    if value is None or isinstance(value, str) or value != int(value):
        return ""
    number = int(value)
    words = [point.labels[number]] if number in point.labels else []
    words += [word for bit, word in point.bit_labels.items() if number >> bit & 1]
    if number in point.states and point.states[number] not in words:
        words.append(point.states[number])
    return ", ".join(words)


def _print_json(device: str, rows: Iterable[tuple[Point, Reading]], lang: str | None, raw: bool) -> None:
    from agent.cli.common import show_quality
    from agent.cli.ring_follower import number

    for point, reading in rows:
        value = reading.value
        facts: dict[str, Any] = {
            "device": device,
            "point": point.name,
            "value": value if isinstance(value, int) else number(value),
            "unit": reading.unit,
            "quality": show_quality(reading.quality) or "good",
        }
        if words := label(point, reading):
            facts["label"] = words
        if text := meaning(point, lang):
            facts["meaning"] = text
        if raw:
            facts["raw"] = reading.raw.hex()
        click.echo(as_line(facts))


def _print(rows: Iterable[tuple[Point, Reading]], lang: str | None, raw: bool) -> None:

    from agent.cli.common import show_quality
    from agent.cli.console_tables import cell, open_console, plain_table
    from agent.cli.ring_follower import show_number

    columns = ["point", "value", "unit", "quality", *(["meaning"] if lang else []), *(["raw"] if raw else [])]
    table = plain_table("", *columns, right=("value",))
    for point, reading in rows:
        value = reading.value
        shown = str(value) if isinstance(value, int) else show_number(value)
        words = label(point, reading)
        quality = show_quality(reading.quality)
        colour = "red" if is_missing(point, reading) else "yellow"
        row = [
            cell(point.name),
            cell(shown, 60) + (f" ({cell(words, 60)})" if words else ""),
            cell(reading.unit),
            f"[{colour}]{quality}[/]",
        ]
        row += [cell(meaning(point, lang), 120)] if lang else []
        row += [reading.raw.hex(" ").upper()] if raw else []
        table.add_row(*row)
    open_console().print(table)
