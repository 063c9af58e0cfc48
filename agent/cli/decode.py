"""`meterhouse decode`: explains bytes without hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from agent.cli.decode_counter import command as counter
from agent.cli.decode_output import hex_bytes, read_json, run
from agent.cli.options import json_option, param_option, parse_params, profiles_option
from drivers.explain import BrokenInput, Explainer, Json, by_address, reading_json, register_words, show_quality
from drivers.model import FIRST_REASON, FrameError, Kind, Point, Quality, Reading, Reason, UsageError
from drivers.plan import read_image
from drivers.plan.compiled import characters, in_text_order
from drivers.plan.image import image_spec, plain, resolve_image
from drivers.profile import Profile
from drivers.profile.register_layout import REGISTERS
from drivers.registry import DEFAULT, has_registers
from ext.decode import ORDERS, ORDERS_24, TYPES, Plan

MAX_POWER = 100  # limit of the power of ten in a scale
MAX_DIGITS = 20  # a value has at most this many digits before it is scaled: those of the largest u64
_HALVES = {"u8h": "u8l", "u8l": "u8h", "i8h": "i8l", "i8l": "i8h"}


class DecodeGroup(click.Group):
    """A group with the commands of this module and of the protocols.

    A protocol is imported only when one of its commands is called.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        from drivers.registry import all_protocols

        return sorted((*self.commands, *(one.name for p in all_protocols() for one in p.all_explainers())))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        found = _explainer(cmd_name)
        return _command(found) if found is not None else None


def _explainer(name: str) -> Explainer | None:
    from drivers.registry import all_protocols

    named_so = sorted(all_protocols(), key=lambda protocol: not name.startswith(protocol.name))
    return next((one for protocol in named_so for one in protocol.all_explainers() if one.name == name), None)


def _command(explainer: Explainer) -> click.Command:
    """Return the command for the explainer of a protocol."""

    def of_bytes(words: tuple[str, ...], as_json: bool) -> None:
        run(lambda: explainer.explain(hex_bytes(words)), as_json)

    def of_file(file: Path, as_json: bool) -> None:
        run(lambda: explainer.explain(read_json(file)), as_json)

    named = click.command(explainer.name, help=explainer.help)
    if explainer.takes_json:
        kind = click.Path(dir_okay=False, path_type=Path, allow_dash=True)
        return named(click.argument("file", type=kind)(json_option(of_file)))
    return named(click.argument("words", metavar="HEX", nargs=-1, required=True)(json_option(of_bytes)))


@click.group(cls=DecodeGroup)
def decode() -> None:
    """Explain bytes and registers; no hardware is needed.

    HEX may be written in any usual way (68 61, 6861, 68:61, 0x68 0x61, 68h 61h). If HEX is -, the bytes are read from
    stdin. With --json, every subcommand prints one JSON object. After success it contains ok, frame and readings; after
    an error it contains ok, error, a hint and the part that could be decoded.

    \b
    Examples:
      meterhouse decode registers --type i32 --order CDAB --scale 0.1 "C5 68 FF FF"
      meterhouse decode profile goodwe/dt dump.json

    \b
    Exit codes: 0 good, 2 wrong usage, 3 bad profile, 4 the bytes cannot be decoded.
    """


@decode.command()
@click.option("--type", "type_", required=True, type=click.Choice([*TYPES, "str"]), help="Data type of the bytes.")
@click.option(
    "--order", default="", help="Order of the bytes on the wire; A is the most significant: AB BA ABCD CDAB ..."
)
@click.option(
    "--scale",
    default="1",
    show_default=True,
    help="Multiply each value by this decimal number; the table shows all digits of the result.",
)
@click.option("--bit", type=click.IntRange(0, 63), help="Show only this bit of each value.")
@click.argument("hex_text", metavar="HEX", nargs=-1, required=True)
@json_option
def registers(type_: str, order: str, scale: str, bit: int | None, hex_text: tuple[str, ...], as_json: bool) -> None:
    """Decode values from register bytes. If HEX is longer than one value, it is decoded as several values, one after
    the other.

    Only NaN, infinity, doubles of 1E+308 or more and invalid BCD digits count as "not available"; every other value is
    shown as it is.

    \b
    Examples:
      meterhouse decode registers --type f32 --order CDAB "80 00 43 66"
      meterhouse decode registers --type u16 --bit 3 0008
    """
    factor = _scale(scale)
    order = order.upper()
    if order and order not in (orders := (*ORDERS, *ORDERS_24)):
        raise UsageError(f"unknown order {order!r}", where="--order", hint=f"Choose one of {', '.join(orders)}")
    run(lambda: _registers(type_, order, factor, bit, hex_bytes(hex_text)), as_json)


def _scale(text: str) -> Decimal:
    try:
        factor = Decimal(text)
    except InvalidOperation:
        factor = Decimal("NaN")
    if not factor.is_finite() or not factor or abs(factor.adjusted()) > MAX_POWER:
        raise UsageError(
            f"invalid scale {text!r}", where="--scale", hint="Write a number such as 0.1 or 1e-6, but not 0"
        )
    return factor


def _registers(type_: str, order: str, factor: Decimal, bit: int | None, raw: bytes) -> Json:
    if not raw:
        raise BrokenInput("no bytes given")
    frame: Json = {"type": type_, "order": order, "size": len(raw)}
    if type_ in {"str", "bits"}:
        _whole_registers(raw, frame)
        if bit is not None or factor != 1:
            what = "--bit" if bit is not None else "--scale"
            raise UsageError(f"{what} has no effect on {type_}", where=what, hint="Leave this setting out")
        if order in ORDERS_24:
            raise UsageError(f"order {order} is for u24 and i24", where="--order", hint="Write for example BA or CDAB")
        swapped = in_text_order(raw, order)
        values: Sequence[str | bool] = [characters(swapped) or ""] if type_ == "str" else _bits(swapped)
        return {"frame": frame, "readings": [_plain(i, value, raw) for i, value in enumerate(values)]}
    size = _size(type_, len(raw))
    if len(raw) % size:
        raise BrokenInput(f"{len(raw)} bytes are not a multiple of {size}, the size of {type_}", {"frame": frame})
    readings: list[Json] = []
    for at in range(0, len(raw), size):
        piece = raw[at : at + size]
        readings.append(_plain(at // 2, _number(type_, order, factor, bit, piece), piece))
    return {"frame": frame, "readings": readings}


def _whole_registers(raw: bytes, frame: Json) -> None:
    if len(raw) % 2:
        raise BrokenInput(f"{len(raw)} bytes are not a whole number of registers", {"frame": frame})


def _size(type_: str, length: int) -> int:
    if type_ == "mod10k":  # a value of this type has 1 to 4 registers, so all bytes are taken as one value
        return length if length <= 8 and length % 2 == 0 else 2
    return 2 * REGISTERS[type_]


def _number(type_: str, order: str, factor: Decimal, bit: int | None, piece: bytes) -> Decimal | None:
    """Decode one value with the decode kernel, as the agent does. Returns None if the value is not available."""
    if type_ in _HALVES:
        type_, order = (_HALVES[type_] if order == "BA" else type_), order if order not in {"AB", "BA"} else ""
    plan = Plan(len(piece))
    options: Json = {"bit": bit} if bit is not None else {}
    try:
        size = len(piece) if type_ == "mod10k" else 0
        plan.add(0, 0, type_, order, size=size, sentinels=(), **options)
    except ValueError as error:
        raise UsageError(str(error).partition(": ")[2] or str(error), where=f"--type {type_}") from error
    ((_, mantissa, exponent, quality),) = plan.values(piece)
    # The value is scaled here, because the decode kernel has 64 bits and would overflow for 0.5 times the largest u64.
    if quality >= FIRST_REASON:
        return None
    value = plain(mantissa, exponent)
    return Context(prec=len(factor.as_tuple().digits) + MAX_DIGITS).multiply(factor, value)


def _bits(raw: bytes) -> list[bool]:
    """Return the bits of all bytes, with the lowest bit of each byte first. This is the order of coils."""
    return [bool(byte >> bit & 1) for byte in raw for bit in range(8)]


def _plain(number: int, value: Decimal | int | str | bool | None, raw: bytes) -> Json:
    quality = Quality.GOOD if value is not None else Reason.SENTINEL
    shown = reading_json(Reading(str(number), value, "", quality, raw))
    if isinstance(value, Decimal):
        shown["value"] = value  # with all digits, which the table shows
    if isinstance(value, bool):
        del shown["raw"]
    return shown


@decode.command()
@click.argument("profile_id", metavar="ID")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@profiles_option
@click.option("--firmware", help="Firmware version, instead of the one in the dump.")
@param_option
@click.option(
    "--reversed",
    "reversed_",
    multiple=True,
    metavar="PREFIX",
    help="Prefix of the points whose current transformer is reversed.",
)
@json_option
def profile(
    profile_id: str,
    file: Path,
    dirs: tuple[Path, ...],
    firmware: str | None,
    params: tuple[str, ...],
    reversed_: tuple[str, ...],
    as_json: bool,
) -> None:
    """Decode a register dump with a profile: ID is the profile's id, or the path of the profile's file.

    FILE is JSON. If FILE is -, the JSON is read from stdin. Example:
    {"address": 1, "holding": {"35000": 1}, "input": {"0": 17254}}

    Points whose registers are not in the dump are listed under "missing". Firmware and model in the dump choose the
    variant of the profile.
    """
    from agent.cli.target import load_profile_of
    from drivers.registry import find_protocol

    found = load_profile_of(profile_id, dirs, "ID")
    # set each parameter to 1, so that optional parts such as a battery, which are left out by default, are decoded too
    chosen: dict[str, int | str] = {p.name: 1 for p in found.params.values() if p.high == 1 and not p.choices}
    chosen |= parse_params(params)

    protocol = find_protocol(found.protocol)
    if protocol is None or not protocol.has_registers:
        raise UsageError(
            f"the profile {found.id} reads frames, not registers",
            where="ID",
            hint=f"Use `meterhouse decode {found.protocol} HEX`",
        )

    def explain() -> Json:
        dump = _dump(file)
        image = _image(dump)
        if not protocol.maps_registers:
            return _models(found, found.resolve(chosen, firmware).points, image, dump.get("address"))
        resolved, identity = resolve_image(found, image, chosen, firmware)
        if reversed_:
            prefixes = frozenset(reversed_)
            resolved = found.resolve(chosen, identity.get("device.firmware"), identity, prefixes)
        spec = image_spec(found, resolved.points, frozenset(reversed_))
        readings, missing = read_image(image, resolved.points, spec)
        if not readings:
            raise BrokenInput(f"none of the registers of {found.id} is in the dump", {"missing": missing})
        by_name = {p.name: p for p in resolved.points}
        readings.sort(key=lambda r: (by_name[r.name].function, by_name[r.name].address))
        frame: Json = {"profile": found.id, "variant": resolved.variant, "protocol": found.protocol}
        frame |= {"address": dump.get("address"), "identity": identity}
        return {
            "frame": frame,
            "readings": [_profile_json(r, by_name[r.name]) for r in readings],
            "missing": missing,
        }

    run(explain, as_json)


def _models(found: Profile, points: tuple[Point, ...], image: Mapping[int, Mapping[int, int]], address: object) -> Json:
    """Explain the dump of a device that describes its own register map. The driver finds the points in this map."""
    from drivers.samples import read_sample

    try:
        readings = read_sample(found, points, image)
    except FrameError as error:
        raise BrokenInput(f"{error.what}. {error.hint}" if error.hint else error.what) from error
    identity = {n: str(r.value) for n, r in readings.items() if n in found.identity_points and r.value is not None}
    by_name = {p.name: p for p in points}
    frame: Json = {"profile": found.id, "variant": None, "protocol": found.protocol}
    shown = [_profile_json(reading, by_name[name]) for name, reading in readings.items()]
    for reading in shown:
        # the profile does not have the addresses of these points, because only the device knows them
        del reading["address"]
    return {
        "frame": frame | {"address": address, "identity": identity},
        "readings": shown,
        "missing": [p.name for p in points if p.name not in readings],
    }


def _dump(file: Path) -> Mapping[str, Any]:
    dump = read_json(file)
    if not isinstance(dump, dict):
        raise BrokenInput(f"{file} does not contain a JSON object")
    if not has_registers(str(dump.get("protocol", DEFAULT))):
        raise BrokenInput(f"{file} is a dump of {dump['protocol']!r}, which has no registers")
    return dump


def _image(dump: Mapping[str, Any]) -> dict[int, dict[int, int]]:
    """Return the registers of a dump as {function: {address: word}}.

    A dump may have ``registers`` and ``function`` as a short form for the registers of one function.
    """
    spaces = {"coils": 1, "inputs": 2, "discrete": 2, "holding": 3, "input": 4}
    image: dict[int, dict[int, int]] = {}
    for key, function in spaces.items():
        if key in dump:
            image.setdefault(function, {}).update(_known(register_words(dump[key], key)))
    if "registers" in dump:
        function = dump.get("function", 3)
        words = register_words(by_address(dump), "registers")
        image.setdefault(function if function in {1, 2, 3, 4} else 3, {}).update(_known(words))
    if not image:
        raise BrokenInput(
            "the dump has no registers",
            hint='Write the registers as "holding": {address: word} or "input": {address: word}',
        )
    return image


def _known(words: Mapping[int, int | None]) -> dict[int, int]:
    return {address: word for address, word in words.items() if word is not None}


def _profile_json(reading: Reading, point: Point) -> Json:
    shown = reading_json(reading)
    shown["unit"] = reading.unit
    shown["address"] = point.address
    if point.kind is Kind.STATE and isinstance(reading.value, int):
        if label := _label(point, reading.value):
            shown["label"] = label
        if point.states:
            shown["state"] = point.states.get(reading.value, "unknown")
    if reading.quality != Quality.GOOD:
        shown["quality"] = show_quality(reading.quality)
    return shown


def _label(point: Point, value: int) -> str:
    if value in point.labels:
        return point.labels[value]
    return ", ".join(text for bit, text in point.bit_labels.items() if value >> bit & 1)


decode.add_command(counter)
