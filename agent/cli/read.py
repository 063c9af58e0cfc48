"""`meterhouse read`: reads one device once, and prints a table of its values."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import COLON, language_of
from agent.cli.lease import borrow_line, line_factory
from agent.cli.options import (
    FILE,
    LANGUAGE,
    ConfigOptions,
    Duration,
    config_options,
    json_option,
    line_help,
    profile_dirs,
)
from agent.cli.read_output import is_missing, print_json, print_table
from drivers.model import (
    DeviceException,
    DeviceSpec,
    LineError,
    LineTimeout,
    MismatchError,
    Point,
    ProfileError,
    Reading,
    Reason,
    UsageError,
)
from drivers.registry import DEFAULT, find_scheme, has_registers, own_schemes

if TYPE_CHECKING:
    from agent.cli.target import Target
    from agent.config import Config, DeviceConfig
    from drivers.profile import Profile

__all__ = ["Round", "is_missing", "read", "read_once", "read_rounds", "show_hints", "silence_hint"]

LEASE_S = 300.0
ADHOC = ("profile", "line", "address")
PAUSE_S = 2.0
HINT = {"en": "hint", "zh": "提示"}
REFUSED_HINT = (
    "Wrong profile, function or address? `meterhouse identify` tries the known profiles, and "
    "`meterhouse read --line URL --address N --registers 3:0+10` shows the registers"
)


@dataclass(slots=True)
class Round:
    """The readings of all points at one time, with the registers that were read for them."""

    points: list[Point]
    readings: list[Reading]
    words: dict[str, dict[str, int]]
    mono_s: float

    def by_name(self) -> dict[str, Reading]:
        """Name of the point -> reading."""
        return {reading.name: reading for reading in self.readings}


@click.command()
@click.argument("device", required=False)
@config_options
@click.option(
    "--profile",
    metavar="ID",
    help="For a device that is not configured: its profile's id, or the path of the profile's file.",
)
@click.option("--line", metavar="URL|NAME", help=line_help())
@click.option(
    "--address", metavar="TEXT", help="For a device that is not configured: its address on the line, such as 1."
)
@click.option(
    "--serial",
    metavar="TEXT",
    help="For a device that is not configured: the serial setting.  "
    '[default: the setting in the profile, else "9600 8N1"]',
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="For a device that is not configured: a parameter of its profile.",
)
@click.option(
    "--ratio",
    "ratios",
    multiple=True,
    metavar="ct=N",
    help="For a device that is not configured: a transformer ratio, ct or pt.",
)
@click.option(
    "--point", "patterns", multiple=True, metavar="GLOB", help='Only matching points, such as "ac.*". May be repeated.'
)
@click.option(
    "--registers",
    "ranges",
    multiple=True,
    metavar="F:START+COUNT",
    help="Read registers, such as 3:0x100+20, instead of points; needs no profile. F is the function code, 1 to 4. "
    "May be repeated.",
)
@click.option(
    "--repeat", type=click.IntRange(1, 1000), default=1, metavar="N", help="Read N times and show the differences."
)
@click.option(
    "--pause", "pause_s", type=Duration(), metavar="DURATION", help="Time between repetitions.  [default: 2 s]"
)
@click.option(
    "--wide", is_flag=True, help="With --registers: show all types and byte orders; the table is wider than 80 columns."
)
@click.option(
    "--lang",
    type=LANGUAGE,
    is_eager=True,
    help="Show what each point means, in English or Chinese. In a Chinese terminal, the meanings are shown by default.",
)
@click.option("--raw", is_flag=True, help="Also show the raw bytes.")
@click.option(
    "--dump",
    "dump_file",
    type=FILE,
    help="Write a dump of the registers to this file, for `simulate --dump` and `decode profile`.",
)
@click.option(
    "--sample",
    "sample_file",
    type=FILE,
    help="Write registers and decoded values to this file; `profiles check` replays the file if it lies "
    "beside the profile as FAMILY.NAME.json.",
)
@json_option
def read(
    device: str | None,
    options: ConfigOptions,
    patterns: tuple[str, ...],
    ranges: tuple[str, ...],
    repeat: int,
    pause_s: float | None,
    wide: bool,
    lang: str | None,
    raw: bool,
    dump_file: Path | None,
    sample_file: Path | None,
    as_json: bool,
    **adhoc: Any,
) -> None:
    """Read one device once and print its values.

    Give the name of a configured device, or --profile, --line and --address for any device. --registers needs no
    profile: it shows registers in every type and byte order, and marks values that look like 230 V or 50 Hz. If the
    running agent owns the line, it lends the line to this command; the agent's readings of that time are then
    missing, with the reason `lent`. Nothing is stored or sent; nothing is ever written to the device.

    \b
    Examples:
      meterhouse read inv1
      meterhouse read --profile eastron/sdm630 --line serial:/dev/ttyUSB0 --address 1 --ratio ct=80
      meterhouse read --line serial:/dev/ttyUSB0 --address 1 --registers 3:0x100+20 --repeat 3
      meterhouse read --profile huawei/sun2000 --line modbus-tcp://192.0.2.10 --address 1 --lang zh
      meterhouse read inv1 --sample profiles/acme/x1.noon.json

    \b
    Exit codes: 0 good; 2 wrong usage; 3 bad configuration or profile; 4 no answer from the device, or points missing.
    """
    from agent.cli.read_registers import check_repeat, read_registers

    pause_s = PAUSE_S if pause_s is None else pause_s
    check_repeat(repeat, pause_s)
    language = language_of(lang, os.environ)
    if device is not None and any(adhoc[key] for key in (*ADHOC, "serial", "params", "ratios")):
        what = "a device name cannot be combined with --profile, --line or --address"
        raise UsageError(what, where="read", hint="Give either a device name or these options, not both")
    if ranges:
        useless = {"--profile": adhoc["profile"], "--point": patterns, "--param": adhoc["params"]}
        _refuse(useless | {"--ratio": adhoc["ratios"], "--sample": sample_file, "--raw": raw})
        raise SystemExit(
            read_registers(device, options, ranges, adhoc, repeat, pause_s, dump_file, language, wide, as_json)
        )
    config, entry, profile = _target(device, options, adhoc)
    _check_recorded(profile, {"--dump": dump_file, "--sample": sample_file})
    folder = options.find_runtime_dir(strict=False) if device is None else config.runtime_dir
    owner = borrow_line(folder, config.line(entry.line).url, "read", LEASE_S)
    # nothing is logged, because errors are printed at the end
    logging.getLogger("meterhouse").addHandler(logging.NullHandler())
    recorded = dump_file is not None or sample_file is not None
    try:
        with owner:
            rounds = owner.run(read_rounds(config, entry, profile, patterns, recorded, repeat, pause_s))
    except LineTimeout as error:
        raise LineTimeout(error.what, where=error.where, hint=error.hint or silence_hint(config, entry)) from error
    last = rounds[-1]
    if dump_file is not None:
        write_dump(dump_file, entry.address, last.words)
    if sample_file is not None:
        _write_sample(sample_file, config, entry, profile, last)
    _show(config, entry, profile, rounds, lang, raw, as_json)
    show_hints(config, entry, profile, rounds, language)
    rows = zip(last.points, last.readings, strict=True)
    raise SystemExit(4 if any(is_missing(point, reading) for point, reading in rows) else 0)


def _show(
    config: Config,
    entry: DeviceConfig,
    profile: Profile,
    rounds: list[Round],
    lang: str | None,
    raw: bool,
    as_json: bool,
) -> None:
    """Print the last round, and its changes since the first round. Raises LineError if there is no value at all."""
    last = rounds[-1]
    rows = list(zip(last.points, last.readings, strict=True))
    nothing = all(reading.value is None for reading in last.readings)
    nothing = nothing and any(is_missing(point, reading) for point, reading in rows)
    before = rounds[0].by_name() if len(rounds) > 1 else {}
    if as_json:
        print_json(entry.name, rows, lang, raw, before)
    elif not nothing:
        language = language_of(lang, os.environ)
        print_table(rows, lang or ("zh" if language == "zh" else None), raw, before, language)
    if nothing:
        raise _nothing_read(last, profile, config.line(entry.line).url, entry.address)


def _refuse(useless: Mapping[str, object]) -> None:
    """Raise UsageError if one of these options is given, because they have no effect with --registers."""
    for option in (option for option, given in useless.items() if given):
        hint = "Omit this option: --registers reads registers without a profile"
        raise UsageError("has no effect with --registers", where=option, hint=hint)


def _target(device: str | None, options: ConfigOptions, adhoc: Mapping[str, Any]) -> Target:
    """Return the configured device with this name, or the device that the options describe.

    Raises UsageError, ConfigError or ProfileError.
    """
    from agent.cli.target import adhoc_target, configured_target

    if device is not None:
        return configured_target(options.load(), device)
    missing = [f"--{key}" for key in ADHOC if not adhoc[key]]
    if missing:
        hint = "Give the name of a configured device, or all of --profile, --line and --address"
        if missing == ["--profile"]:
            hint += ". To read without a profile, use --registers 3:0+10 or `meterhouse identify`"
        raise UsageError(f"these options are missing: {', '.join(missing)}", where="read", hint=hint)
    return adhoc_target(options, **adhoc, dirs=profile_dirs(options.config_file))


def _check_recorded(profile: Profile, files: Mapping[str, Path | None]) -> None:
    """Raise UsageError if a file is given, but the protocol has no registers to record."""
    for option, file in files.items():
        if file is not None and not has_registers(profile.protocol):
            hint = "`meterhouse watch --frames` shows the frames of this meter"
            raise UsageError(f"{profile.protocol} has no registers to record", where=option, hint=hint)


def _nothing_read(last: Round, profile: Profile, url: str, address: str) -> LineError:
    """Return the error for a device of which no point could be read. It states the most frequent reason."""
    reasons = Counter(reading.quality for reading in last.readings)
    reason = Reason(reasons.most_common(1)[0][0])
    where, count = f"{url}, address {address}", len(last.readings)
    what = f"none of the {count} points of {profile.id} could be read ({reason.name.lower()})"
    hint = (
        REFUSED_HINT
        if has_registers(profile.protocol)
        else "Is it the right profile? `meterhouse identify` tries the known profiles"
    )
    if reason is Reason.EXCEPTION:
        what = f"the device refuses all {count} points of {profile.id}"
        return DeviceException(what, where=where, hint=hint, code=0)
    return (
        LineTimeout(what, where=where, hint=hint)
        if reason is Reason.TIMEOUT
        else MismatchError(what, where=where, hint=hint)
    )


async def read_rounds(
    config: Config,
    entry: DeviceConfig,
    profile: Profile,
    patterns: tuple[str, ...] = (),
    recorded: bool = False,
    repeat: int = 1,
    pause_s: float = 0.0,
) -> list[Round]:
    """Read all points, or those that match ``patterns``, ``repeat`` times. ``recorded``: True to keep the registers."""
    rounds: list[Round] = []
    for n in range(repeat):
        if n:
            await asyncio.sleep(pause_s)
        words: dict[str, dict[str, int]] = {}
        points, readings = await read_once(
            config, entry, profile, partial(chosen, patterns=patterns), words if recorded else None
        )
        rounds.append(Round(points, readings, words, time.monotonic()))
    return rounds


def show_hints(config: Config, entry: DeviceConfig, profile: Profile, rounds: Sequence[Round], language: str) -> None:
    """Print hints on stderr about odd values of the last round, and odd growth of counters since the first round."""
    from agent.config import device_spec
    from drivers.plausibility import growth_hints, hints, sentences

    first, last = rounds[0], rounds[-1]
    spec = replace(device_spec(config, entry, profile), points=tuple(last.points))
    found = hints(spec, last.by_name(), entry.roles)
    if len(rounds) > 1:
        found += growth_hints(spec, first.by_name(), last.by_name(), last.mono_s - first.mono_s)
    for text in sentences(found, language):
        click.echo(f"{HINT[language]}{COLON[language]}{text}", err=True)


def _write_sample(path: Path, config: Config, entry: DeviceConfig, profile: Profile, last: Round) -> None:
    from agent.cli.profile_samples import make_sample, write_sample
    from agent.config import device_spec

    if not last.words:
        raise UsageError("no register could be read", where=str(path), hint="Nothing was written")
    texts = {one.name: one.value for one in last.readings if isinstance(one.value, str)}
    identity = {name: text for name, text in texts.items() if name in profile.identity_points}
    spec = replace(device_spec(config, entry, profile), points=tuple(last.points))
    name = f"{path.stem}, {datetime.now().astimezone():%Y-%m-%d %H:%M}"
    write_sample(path, make_sample(profile, spec, entry.params, name, last.words, identity))


def write_dump(path: Path, address: str, words: Mapping[str, Mapping[str, int]]) -> None:
    """Write a dump of the registers in ``words``.

    Raises UsageError if there are none, or if the file cannot be written.
    """
    import json

    if not words:
        raise UsageError("no register could be read", where=str(path), hint="Nothing was written")
    found = {"protocol": DEFAULT, "address": int(address), **words}
    try:
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(path), hint="Give the name of another file"
        ) from error


def silence_hint(config: Config, device: DeviceConfig) -> str:
    """Return the hint for a configured device that does not answer."""
    line = config.line(device.line)
    return hint_of_silence(line.url, device.address, device.serial or line.serial)


def hint_of_silence(url: str, address: str, setting: str) -> str:
    """Return the hint for an address at which no device answers. ``setting``: serial setting, such as "9600 8N1"."""
    if url.startswith("serial:"):
        wiring = f"Check that the device is powered and set to {setting}, and that the wires A and B are not swapped"
        return f"Check the address {address}. {wiring}"
    if (framed := find_scheme(url.partition(":")[0])) is not None:
        hints = [f"Check the unit number {address}, and whether another master uses the device", framed.other_hint]
    else:
        hints = [f"Check the address {address}, and that the server passes raw bytes at the right speed"]
        hints += [scheme.hint for scheme in own_schemes()]
    return ". ".join(("The connection is established", *hints))


async def read_once(
    config: Config,
    device: DeviceConfig,
    profile: Profile,
    choose: Callable[[DeviceSpec], list[Point]],
    words: dict[str, dict[str, int]] | None = None,
) -> tuple[list[Point], list[Reading]]:
    """Read a device once. Returns the points that ``choose`` selects, and their readings.

    The device's own data select the variant of the profile; ``choose`` gets the spec of this variant. If ``words`` is
    given, it is filled with the registers that were read, in the form of a dump.

    Raises LineError if the device does not answer, ProfileError or UsageError if no request can be made, and the
    errors of ``choose``.
    """
    from agent.config import device_spec, line_config
    from drivers.once import read_variant
    from drivers.scan.caching_line import CachingLine

    points: list[Point] = []

    def keep(spec: DeviceSpec) -> list[Point]:
        points[:] = choose(spec)
        return points

    line = line_factory()(line_config(config.line(device.line)))
    memory = CachingLine(line) if words is not None else None
    try:
        asked = memory.as_line() if memory else line
        readings = await read_variant(profile, partial(device_spec, config, device, profile), asked, keep)
        if memory is not None and words is not None:
            words.update(memory.dump())
    finally:
        await line.close()
    return points, readings


def chosen(spec: DeviceSpec, patterns: Iterable[str]) -> list[Point]:
    """Return the points that match the patterns of --point. Raises UsageError for a pattern without a match."""
    from drivers.profile import select

    try:
        return list(select(spec.points, list(patterns)))
    except ProfileError as error:
        hint = (
            error.hint
            if error.hint.startswith("Did")
            else f"`meterhouse profiles show {spec.profile}` lists the points"
        )
        raise UsageError(error.what, where="--point", hint=hint) from error
