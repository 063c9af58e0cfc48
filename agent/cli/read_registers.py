"""`meterhouse read --registers`: shows registers of a device without a profile, and values that they may encode."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import as_line
from agent.cli.lease import borrow_line, line_factory
from agent.cli.options import ConfigOptions
from drivers.model import DeviceException, LineError, LineTimeout, UsageError
from drivers.texts import Catalogue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.config import LineEntry
    from drivers.line import LineConfig
    from drivers.model import Limits
    from drivers.protocol import Protocol
    from drivers.raw_registers import RawRegisters, RegisterRange
    from drivers.register_values import Look

LEASE_S: Final = 300.0
MOST_REPEAT_S: Final = 240.0  # limit for all repetitions, in seconds; it is shorter than the lease of the line
TABLE_WIDTH: Final = 80  # width of the table, in columns, if stdout is not a terminal
MOST_CHANGES: Final = 60
# (type, byte order, width of the column); columns are shown in this order, as many as fit the terminal
COLUMNS: Final = (
    ("u16", "AB", 5), ("i16", "AB", 6), ("f32", "ABCD", 10), ("f32", "CDAB", 10), ("u32", "ABCD", 10),
    ("u32", "CDAB", 10), ("i32", "ABCD", 11), ("i32", "CDAB", 11), ("f32", "BADC", 10), ("f32", "DCBA", 10),
    ("u32", "BADC", 10), ("u32", "DCBA", 10), ("u64", "ABCDEFGH", 20), ("u64", "GHEFCDAB", 20),
    ("f64", "ABCDEFGH", 10), ("f64", "GHEFCDAB", 10), ("u24", "ABC-", 8), ("i24", "ABC-", 8),
)  # fmt: skip
SPACES: Final = {1: "coils", 2: "discrete", 3: "holding", 4: "input"}
WORDS: Final = Catalogue(__package__, "registers")
EXCEPTIONS_ZH: Final = {1: "功能码不支持", 2: "地址不存在", 3: "数量或数值非法", 4: "设备故障", 6: "设备忙"}
OTHER_TABLE: Final = {3: 4, 4: 3, 1: 2, 2: 1}
ELSEWHERE: Final = "Take an address from the device's manual, or let `meterhouse identify` try the known profiles"
NO_REGISTERS = "To read a meter that has no registers, use --profile; `meterhouse profiles list` shows the profiles"


@dataclass(frozen=True, slots=True)
class RawTarget:
    """The device to read, and how to reach it."""

    line: LineConfig
    unit: int
    serial: str
    limits: Limits
    folder: Path  # runtime directory of an agent that may own the line
    protocol: Protocol

    @property
    def where(self) -> str:
        """Line and unit of the device, as messages show them."""
        return f"{self.line.url} unit {self.unit}"


def read_registers(
    device: str | None,
    options: ConfigOptions,
    texts: Sequence[str],
    adhoc: Mapping[str, Any],
    repeat: int,
    pause_s: float,
    dump_file: Path | None,
    lang: str,
    wide: bool,
    as_json: bool,
) -> int:
    """Read ranges of registers ``repeat`` times and print them. Returns the exit code."""
    from agent.cli.common import progress
    from agent.cli.read import hint_of_silence, write_dump
    from drivers.raw_registers import parse_ranges

    ranges = parse_ranges(texts)
    target = _configured(options, device) if device is not None else _adhoc(options, adhoc)
    # nothing is logged, because errors are printed at the end
    logging.getLogger("meterhouse").addHandler(logging.NullHandler())
    owner = borrow_line(target.folder, target.line.url, "read", LEASE_S)
    try:
        with progress("readings") as tell, owner:
            rounds = owner.run(_read(target, ranges, repeat, pause_s, lambda n: tell(n, repeat)))
    except LineTimeout as error:
        setting = target.serial or target.line.serial
        hint = error.hint or hint_of_silence(target.line.url, str(target.unit), setting)
        raise LineTimeout(error.what, where=error.where, hint=hint) from error
    last = rounds[-1]
    if not last.words:
        raise _all_refused(target, ranges, last)
    if dump_file is not None:
        found = {SPACES[f]: {str(at): words[at] for at in sorted(words)} for f, words in sorted(last.words.items())}
        write_dump(dump_file, str(target.unit), found)
    if as_json:
        _print_json(rounds)
    else:
        is_hex = any("0x" in text.lower() for text in texts)
        _print(rounds, ranges, lang, wide, is_hex)
    return 4 if last.refusals else 0


async def _read(
    target: RawTarget, ranges: Sequence[RegisterRange], repeat: int, pause_s: float, tell: Callable[[int], None]
) -> list[RawRegisters]:
    from drivers.raw_registers import read_raw

    line = line_factory()(target.line)
    options = line.request_options(target.limits, target.serial)
    make_request = target.protocol.make_register_request()
    rounds = []
    try:
        for n in range(repeat):
            if n:
                await asyncio.sleep(pause_s)
            rounds.append(await read_raw(line, target.unit, ranges, options, target.where, make_request))
            tell(n + 1)
    finally:
        await line.close()
    return rounds


def check_repeat(repeat: int, pause_s: float) -> None:
    """Raise UsageError if the repetitions would take longer than a line may be lent."""
    if (repeat - 1) * pause_s > MOST_REPEAT_S:
        what = f"{repeat} readings at an interval of {pause_s:g} s take more than {MOST_REPEAT_S:g} s"
        raise UsageError(
            what,
            where="--repeat",
            hint="During this time, the agent's own readings would be missing. Use a lower number",
        )


def _configured(options: ConfigOptions, name: str) -> RawTarget:
    from agent.cli.target import configured_target
    from agent.config import line_config
    from drivers.registry import protocol_of

    config, device, profile = configured_target(options.load(), name)
    line = config.line(device.line)
    if not (protocol := protocol_of(profile.protocol)).has_registers:
        raise UsageError(
            f"{name} is a device with protocol {profile.protocol}, which has no registers",
            where="--registers",
            hint=NO_REGISTERS,
        )
    limits = device.limits.over(line.limits).over(profile.limits)
    return RawTarget(line_config(line), int(device.address), device.serial or "", limits, config.runtime_dir, protocol)


def _adhoc(options: ConfigOptions, adhoc: Mapping[str, Any]) -> RawTarget:
    from agent.cli.target import adhoc_line
    from agent.config import line_config
    from drivers.model import Limits
    from drivers.registry import DEFAULT, check_address, protocol_of

    missing = [f"--{key}" for key in ("line", "address") if not adhoc[key]]
    if missing:
        hint = "Give --line and --address, or the name of a configured device"
        raise UsageError(f"these options are missing: {', '.join(missing)}", where="--registers", hint=hint)
    entry: LineEntry = adhoc_line(adhoc["line"], adhoc["serial"], "", options)
    address = str(adhoc["address"])
    if (wrong := check_address(DEFAULT, address, entry.scheme)) is not None:
        is_number = address.isascii() and address.isdigit() and len(address) <= 3
        raise UsageError(wrong.what, where="--address", hint=wrong.hint if is_number else NO_REGISTERS)
    return RawTarget(
        line_config(entry), int(address), "", Limits(), options.find_runtime_dir(strict=False), protocol_of(DEFAULT)
    )


def _all_refused(target: RawTarget, ranges: Sequence[RegisterRange], found: RawRegisters) -> LineError:
    """Return the error if no register could be read.

    If the device refused the reads, also tries the other table (function 3 or 4), so that the hint can name it.
    """
    error = found.refusals[0].error
    if not isinstance(error, DeviceException):
        return type(error)(f"nothing could be read: {error.what}", where=target.where, hint=error.hint)
    what, hint = f"nothing could be read: {error.what}", ""
    functions = {one.function for one in ranges}
    if meant := next((one for one in ranges if one.other_notation), None):
        hint = f"If the address is in 4x notation, which counts from 40001 or 30001, use {meant.other_notation}"
    elif error.code in (1, 2, 3) and len(functions) == 1:
        (asked,) = functions
        others = [replace(one, function=OTHER_TABLE[asked]) for one in ranges]
        answer = _ask_other_table(target, others)
        if isinstance(answer, DeviceException):
            what = (
                "nothing could be read: the device answers "
                f"function {asked} with exception {error.code:02X}h ({_meaning(error)}), "
                f"and function {others[0].function} with exception {answer.code:02X}h ({_meaning(answer)})"
            )
            hint = ELSEWHERE
        elif isinstance(answer, LineError):
            what += f". Function {others[0].function} gets no answer"
            hint = ELSEWHERE
        else:
            hint = f"Function {others[0].function} can read this address: use --registers {','.join(map(str, others))}"
    return DeviceException(what, where=target.where, hint=hint, code=error.code)


def _ask_other_table(target: RawTarget, ranges: Sequence[RegisterRange]) -> LineError | None:
    """Read the same ranges from the other table. Returns None if some registers could be read, else the error."""
    try:
        with borrow_line(target.folder, target.line.url, "read", LEASE_S) as owner:
            (found,) = owner.run(_read(target, ranges, 1, 0.0, lambda n: None))
    except LineError as error:
        return error
    return None if found.words else found.refusals[0].error


def _meaning(error: DeviceException) -> str:
    return error.what.rpartition(", ")[2]


def _print_json(rounds: Sequence[RawRegisters]) -> None:
    """Print one object for each register, then one for each range that could not be read."""
    from agent.cli.ring_follower import number
    from drivers.model import Reason
    from drivers.profile.register_layout import REGISTERS
    from drivers.register_values import ORDERS, TYPES, text_of_word, value_at

    last = rounds[-1]
    for function, words in sorted(last.words.items()):
        looks = _looks(rounds, function)
        for address in sorted(words):
            facts: dict[str, Any] = {"function": function, "address": address, "word": words[address]}
            if len(rounds) > 1:
                facts["words"] = [one.words.get(function, {}).get(address) for one in rounds]
            if function >= 3:
                facts["hex"] = f"{words[address]:04X}"
                for type_ in TYPES:
                    size = REGISTERS[type_]
                    read = {order: value_at(words, address, type_, order) for order in ORDERS[type_]}
                    if size == 1:
                        facts[type_] = number(read["AB"])
                    elif known := {order: _json_number(value) for order, value in read.items() if value is not None}:
                        facts[type_] = known
                facts["text"] = text_of_word(words[address])
            if look := looks.get(address):
                facts["looks_like"] = {
                    "quantity": look.quantity, "type": look.type, "order": look.order, "registers": look.registers,
                    "scale": number(look.scale), "value": number(look.value) if isinstance(look.value, Decimal)
                    else look.value,
                }  # fmt: skip
                if look.growth:
                    facts["looks_like"]["growth"] = number(look.growth)
            click.echo(as_line(facts))
    for one in last.refusals:
        code = one.error.code if isinstance(one.error, DeviceException) else None
        click.echo(
            as_line(
                {
                    "function": one.range.function, "address": one.range.address, "count": one.range.count,
                    "error": one.error.what, "code": code, "reason": Reason(one.error.reason).name.lower(),
                }
            )
        )  # fmt: skip


def _json_number(value: Decimal) -> int | float:
    """Return a whole number below 2**64 as int, which keeps all digits, and any other number as float."""
    return int(value) if value == value.to_integral_value() and abs(value) < 2**64 else float(value)


def _looks(rounds: Sequence[RawRegisters], function: int) -> dict[int, Look]:
    from drivers.register_values import looks

    if function < 3:
        return {}
    history = [one.words.get(function, {}) for one in rounds[:-1]]
    return {one.address: one for one in looks(rounds[-1].words[function], history)}


def _print(
    rounds: Sequence[RawRegisters], ranges: Sequence[RegisterRange], lang: str, wide: bool, is_hex: bool
) -> None:
    from drivers.register_values import UNITS, favourite

    words, last = WORDS[lang], rounds[-1]
    found: list[tuple[int, Look]] = []
    for function, registers in sorted(last.words.items()):
        click.echo(words[f"space.{function}"])
        if function >= 3:
            looks = _looks(rounds, function)
            found += [(function, look) for look in looks.values()]
            _print_words(registers, looks, words, _room(wide), is_hex)
        else:
            _print_bits(registers, words, is_hex)
        click.echo()
    if any(function >= 3 for function in last.words):
        click.echo(words["looks"])
    for function, look in found:
        how = look.type if look.order in ("", "AB") else f"{look.type} {look.order}"
        how += f", {look.registers} {words['registers']}" if look.type == "str" else ""
        how += f" x {look.scale}" if look.scale != 1 else ""
        value = (
            f'"{look.value}"'
            if isinstance(look.value, str)
            else f"{show_float(look.value)} {UNITS.get(look.quantity, '')}"
        )
        name = words["is text" if look.quantity == "text" else look.quantity].format(growth=f"{look.growth:f}")
        click.echo(f"  {_place(function, look.address, is_hex):<10} {how:<20} {value:<20} {name}".rstrip())
    if not found and any(function >= 3 for function in last.words):
        click.echo(f"  {words['nothing']}")
    best = favourite([look for _, look in found])
    if best is not None:
        click.echo(words["favourite"].format(type=best.type, order=best.order))
    if len(rounds) > 1:
        _print_changes(rounds, best, words, is_hex)
    if last.refusals:
        click.echo(f"\n{words['refused']}")
        for one in last.refusals:
            place = _place(one.range.function, one.range.address, is_hex)
            click.echo(f"  {place}+{one.range.count:<8} {_why(one.error, words, lang)}")
        for wanted in ranges:
            if wanted.other_notation and any(one.range.function == wanted.function for one in last.refusals):
                click.echo(words["other"].format(wanted=wanted, meant=wanted.other_notation))


def _why(error: LineError, words: Mapping[str, str], lang: str) -> str:
    if isinstance(error, DeviceException):
        what = _meaning(error)
        return words["exception"].format(
            code=error.code, what=EXCEPTIONS_ZH.get(error.code, what) if lang == "zh" else what
        )
    return error.what


def _room(wide: bool) -> int:
    import shutil
    import sys

    if wide:
        return 1000
    return shutil.get_terminal_size((TABLE_WIDTH, 24)).columns if sys.stdout.isatty() else TABLE_WIDTH


def _place(function: int, address: int, is_hex: bool) -> str:
    return f"{function}:0x{address:04X}" if is_hex else f"{function}:{address}"


def _print_words(
    registers: Mapping[int, int], looks: Mapping[int, Look], words: Mapping[str, str], room: int, is_hex: bool
) -> None:
    """Print a table with as many types and byte orders as fit. A star marks values that look like a known quantity."""
    from agent.cli.common import pad
    from drivers.register_values import text_of_word, value_at

    used, columns = 8 + 4 + 3, []
    for type_, order, width in COLUMNS:
        if used + width + 2 > room:
            break
        used += width + 2
        columns.append((type_, order, width))
    heads = "".join(f"{f'{t} {o}' if o != 'AB' else t} ".rjust(w + 2) for t, o, w in columns)
    click.echo(f"{pad(words['address'], 8)}{'hex':<4}{heads} {words['text']}".rstrip())
    previous = None
    for address, word in sorted(registers.items()):
        if previous is not None and address != previous + 1:
            click.echo("...")
        previous = address
        cells = []
        for type_, order, width in columns:
            value, look = value_at(registers, address, type_, order), looks.get(address)
            shown = "" if value is None else show_float(value, 5) if type_[0] == "f" else str(value)
            star = "*" if look is not None and (look.type, look.order) == (type_, order) else " "
            cells.append(f"{shown}{star}".rjust(width + 2))
        place = f"0x{address:04X}" if is_hex else str(address)
        click.echo(f"{place:<8}{word:04X}{''.join(cells)} {text_of_word(word)}".rstrip())


def _print_bits(registers: Mapping[int, int], words: Mapping[str, str], is_hex: bool) -> None:
    """Print sixteen coils or inputs per row, then the addresses of those that are 1."""
    from itertools import groupby

    ordered = sorted(registers)
    for _, group in groupby(enumerate(ordered), key=lambda item: (item[1] - item[0], item[0] // 16)):
        row = [address for _, address in group]
        bits = " ".join(str(registers[address]) for address in row)
        click.echo(f"{f'0x{row[0]:04X}' if is_hex else row[0]!s:<8}{bits}")
    on = [f"0x{address:04X}" if is_hex else str(address) for address in ordered if registers[address]]
    shown = ", ".join(on[:40]) + (f", {words['more'].format(n=len(on) - 40)}" if len(on) > 40 else "")
    click.echo(f"{words['set']} {shown}" if on else words["none set"])


def _print_changes(rounds: Sequence[RawRegisters], best: Look | None, words: Mapping[str, str], is_hex: bool) -> None:
    """Print the values that changed between the readings, with the difference between the first and the last reading.

    ``best``: type and byte order that most values seem to have; all values are shown in it. None: 16-bit registers.
    """
    from drivers.register_values import value_at

    type_, order = (best.type, best.order) if best is not None else ("u16", "AB")
    step, first = (best.registers, best.address % best.registers) if best is not None else (1, 0)
    rows = []
    for function, registers in sorted(rounds[-1].words.items()):
        for address in sorted(registers):
            if (address - first) % step:
                continue
            history = [one.words.get(function, {}) for one in rounds]
            values = [value_at(one, address, type_, order) if function > 2 else _bit(one, address) for one in history]
            if len(set(values)) > 1:
                shown = [show_float(value) if value is not None else "-" for value in values]
                text = " -> ".join(shown if len(shown) <= 4 else [shown[0], "...", shown[-1]])
                ends = values[0], values[-1]
                change = "" if None in ends else f"{float((ends[1] or 0) - (ends[0] or 0)):+.5g}"
                rows.append(f"  {_place(function, address, is_hex):<10} {text:<45} {change}".rstrip())
    click.echo(f"\n{words['changed'].format(n=len(rounds))}")
    for row in rows[:MOST_CHANGES] or ["  -"]:
        click.echo(row)
    if len(rows) > MOST_CHANGES:
        click.echo(f"  {words['more'].format(n=len(rows) - MOST_CHANGES)}")


def _bit(registers: Mapping[int, int], address: int) -> Decimal | None:
    found = registers.get(address)
    return None if found is None else Decimal(found)


def show_float(value: Decimal, digits: int = 7) -> str:
    """Return a float as text with ``digits`` significant digits, and with an exponent if it is huge or tiny."""
    size = abs(value)
    if value == value.to_integral_value() and size < 10**8:
        return str(int(value))
    if size >= 10**8 or size < Decimal("0.0001"):
        return f"{value:.3e}"
    return f"{float(value):.{digits}g}"
