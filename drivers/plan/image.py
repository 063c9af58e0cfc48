"""Reads points from a register image. An image comes from a recorded dump, a sample of a profile, or a technician's
file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from drivers.clocks import time_ms
from drivers.model import FIRST_REASON, PACES, DeviceSpec, Kind, Point, Quality, Reading, Reason
from drivers.plan.compiled import compile_block, text_of
from drivers.plan.timing import Block
from drivers.plan.zeros import ZeroGuard
from drivers.profile import Profile, Resolved

Image = Mapping[int, Mapping[int, int]]  # function (1 coils, 2 inputs, 3 holding, 4 input registers) -> address -> word


def image_spec(profile: Profile, points: Sequence[Point], reversed: frozenset[str] = frozenset()) -> DeviceSpec:
    """A spec for reading images: no stream, no periods, ratio 1."""
    return DeviceSpec(
        name="image",
        stream="",
        address="",
        protocol=profile.protocol,
        profile=profile.id,
        points=tuple(points),
        periods_ms=(0,) * len(PACES),
        reversed=reversed,
        impossible=profile.impossible,
    )


def image_bytes(point: Point, image: Image) -> bytes | None:
    """The bytes that a device with this image would send for a point. None if the image does not have all its words."""
    words = image.get(point.function, {})
    found = [words.get(a) for a in range(point.address, point.address + point.count)]
    # the image may end where the text ends, if the registers are in the order of reading
    if None in found and point.type == "str" and not point.text and point.order in ("", "AB", "BA"):
        # a NUL in either byte ends the text: which byte comes first depends on the order
        end = next(i for i, w in enumerate(found) if w is None or 0 in w.to_bytes(2))
        if found[end] is not None:
            found[end + 1 :] = [0] * (len(found) - end - 1)
    if any(w is None for w in found):
        return None
    if point.function >= 3:
        return b"".join((w or 0).to_bytes(2) for w in found)
    packed = sum(1 << i for i, w in enumerate(found) if w)
    return packed.to_bytes((point.count + 7) // 8, "little")


def read_image(image: Image, points: Sequence[Point], spec: DeviceSpec) -> tuple[list[Reading], list[str]]:
    """Return (readings of the points whose registers are in the image, names of all other points), in the order of the
    points.
    """
    readings: dict[int, Reading] = {}
    missing: list[str] = []
    zeros: set[int] = set()
    for number, point in enumerate(points):
        raw = image_bytes(point, image)
        if raw is None:
            missing.append(point.name)
            continue
        readings[number] = _reading(number, point, raw, points, spec)
        if not any(raw):
            zeros.add(number)
    for number in ZeroGuard(points, spec.impossible).lost(zeros):
        readings[number] = replace(readings[number], value=None, quality=Reason.SENTINEL)
    return list(readings.values()), missing


def _reading(number: int, point: Point, raw: bytes, points: Sequence[Point], spec: DeviceSpec) -> Reading:
    if point.kind is Kind.TEXT:
        text = text_of(point, raw)
        quality: int = Quality.GOOD if text is not None else Reason.SENTINEL
        if text and point.name.rpartition(".")[2] == "time" and time_ms(text, "UTC") is None:
            quality = Quality.SUSPECT  # this date is impossible: the clock was never set, or the profile does not fit
        return Reading(point.name, text, "", quality, raw)
    if point.clock:  # the value is the clock's difference to the time of the reading, which an image does not contain
        return Reading(point.name, None, point.unit, Reason.ABSENT, raw)
    block = Block(point.function, point.address, point.count, (number,))
    ((_, mantissa, exponent, quality),) = compile_block(block, points, spec).values(raw)
    value = None if quality >= FIRST_REASON else plain(mantissa, exponent)
    return Reading(point.name, value, point.unit, quality, raw)


def plain(mantissa: int, exponent: int) -> Decimal | int:
    """``mantissa * 10**exponent``, as an int if it is a whole number."""
    if exponent >= 0:
        return mantissa * int(10**exponent)
    digits = str(abs(mantissa))
    value = Decimal((int(mantissa < 0), tuple(map(int, digits)), exponent))
    return int(value) if value == value.to_integral_value() else value


def resolve_image(
    profile: Profile, image: Image, params: Mapping[str, int | str] | None = None, firmware: str | None = None
) -> tuple[Resolved, dict[str, str]]:
    """Return (points of the device from which an image was taken, identity of the device from its registers).

    ``firmware``, if given, replaces the firmware in the image.
    """
    base = profile.resolve(params)
    wanted = [p for p in base.points if p.name in profile.identity_points]
    readings, _ = read_image(image, wanted, image_spec(profile, wanted))
    identity = {r.name: str(r.value) for r in readings if r.value is not None}
    if firmware is not None:
        identity["device.firmware"] = firmware
    return profile.resolve(params, identity.get("device.firmware"), identity), identity
