"""Checks whether a device's values are consistent. A hint tells a person what is odd, and what to do. No I/O.

The checks never mark or change a reading, because a hint may be wrong, and the readings in signed packs must not depend
on a guess.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from drivers.model import FIRST_REASON, FLOATS, DeviceSpec, Kind, Point, Quality, Reading
from drivers.plan import ratio_of
from drivers.plan.image import plain
from drivers.profile.register_layout import REGISTERS, orders_of
from drivers.registry import find_protocol
from drivers.units import unit_factor
from ext.decode import ORDERS_24, Plan

PHASES = ("l1", "l2", "l3")
LEAST_VA, LEAST_W = 50.0, 200.0  # smaller loads (in VA and in W) give no hints
# at least this many zero values give a hint; fewer zeros may be normal, as in a new water meter
LEAST_ZEROS = 4
TINY = Decimal("1e-6")  # a smaller float that is not 0 was probably read in the wrong byte order
# base unit -> range in which a value is believed after its bytes were reordered
_SENSIBLE: Mapping[str, tuple[str, str]] = {
    "Hz": ("45", "65"), "V": ("20", "40000"), "A": ("0.01", "20000"), "W": ("1", "1e9"), "VA": ("1", "1e9"),
    "var": ("1", "1e9"), "Cel": ("-50", "1500"), "%": ("0.1", "120"), "Wh": ("1", "1e13"), "varh": ("1", "1e13"),
}  # fmt: skip
_ORDER_OF_TRIAL = ("CDAB", "ABCD", "BADC", "DCBA", "GHEFCDAB", "ABCDEFGH", "BADCFEHG", "HGFEDCBA", *ORDERS_24)

_TEXTS: Mapping[str, tuple[str, str]] = {  # text of each hint, in English and in Chinese
    "order": (
        '{name} is {now}; with order "{order}" instead of "{old}" this would be {value}{more}. Correct order in the '
        "profile",
        "{name} 为 {now}；若字节序为“{order}”而不是“{old}”，则为 {value}{more_zh}。请在设备模板中更正 order",
    ),
    "more": (" (and {n} more)", "（另有 {n} 个测点）"),
    "scale": (
        "{name} is {now}; with scale = {scale} this would be {value}. Correct scale in the profile",
        "{name} 为 {now}；若 scale = {scale}，则为 {value}。请在设备模板中更正 scale",
    ),
    "phases": (
        "{name} is {now}, but {product} gives {expected} W. Are voltage and current inputs of different phases, or "
        "is a register or scale wrong?",
        "{name} 为 {now}，而{product_zh}为 {expected} W。请检查电压与电流是否接在不同相，"
        "或寄存器、比例是否有误",
    ),
    "ratio": (
        "{name} is {now}, but {product} gives {expected} W: a factor of {times}. If that is the "
        "current transformer ratio, only one of the two values includes it: set ratio = {{ ct = ... }} for the "
        "device, or check the ratio set in the meter. Otherwise a scale, unit or type is wrong",
        "{name} 为 {now}，而{product_zh}为 {expected} W，相差 {times} 倍。若与电流互感器"
        "变比相符，则一个为二次值、一个为一次值：请设置设备的 ratio = {{ ct = … }}，"
        "或检查表内设置的变比；否则是比例、单位或类型有误",
    ),
    "unit": (
        "{name} is {now}, but {product} gives {expected} W: a factor of {times}. Is a unit wrong, such as W instead of "
        "kW? Otherwise a scale or type is wrong, or only one of the two values includes the current transformer "
        "ratio: set ratio = {{ ct = ... }} for the device",
        "{name} 为 {now}，而{product_zh}为 {expected} W，相差 {times} 倍。单位是否有误（如把 kW 写成 W）？"
        "否则是比例或类型有误，或只有一方已乘电流互感器变比：请设置设备的 ratio = {{ ct = … }}",
    ),
    "zero": (
        "all {count} values are zero, such as {name}. Are the profile and the unit or address correct? Is the "
        "measuring voltage connected? `meterhouse identify` shows which profiles fit",
        "{count} 个值全部为零，如 {name}。设备模板和从站（地址）是否正确？测量电压是否接入？"
        "`meterhouse identify` 可列出匹配的模板",
    ),
    "product": ("voltage x current", "电压×电流"),
    "product.factor": ("voltage x current x power factor", "电压×电流×功率因数"),
    "sign.phase": (
        "{name} is {now}, opposite in sign to {others}. The current transformer of this phase is reversed (swap k and "
        "l), unless only this phase feeds in",
        "{name} 为 {now}，与其他两相符号相反。该相电流互感器接反（请对调 k、l），除非该相确有单相反送电",
    ),
    "sum": (
        "{name} is {now}, but its phases add up to {expected} W. {advice}",
        "{name} 为 {now}，而三相之和为 {expected} W。{advice_zh}",
    ),
    "sum.scale": ("The scale or unit of one is wrong", "其中一方的比例或单位有误"),
    "sum.amounts": ("The device adds the phases without their sign", "设备按绝对值相加各相"),
    "sum.other": (
        "A register, type or order is wrong, or a ratio was applied to one only",
        "寄存器、类型或字节序有误，或变比只作用于其中一方",
    ),
    "sign.role": (
        "{name} is {now}: the wrong direction for the role {role}. Are the current transformers reversed? If so, set "
        "reversed = true for the device, or swap k and l. Otherwise the role is wrong",
        "{name} 为 {now}，与角色 {role} 的功率方向相反。电流互感器是否接反？若是，请设置设备的 reversed = true，"
        "或对调 k、l；否则角色有误",
    ),
    "counter.other": (
        "{other} counts instead of {name}, contrary to the sign of {power} ({now}). Is a current transformer "
        "reversed, or are the two registers swapped in the profile?",
        "计数的是 {other} 而不是 {name}，与 {power}（{now}）的方向不符。"
        "请检查电流互感器是否接反，或设备模板中两个寄存器是否颠倒",
    ),
    "counter": (
        "{name} grew by {grown} Wh, but {power} ({now}) amounts to {expected} Wh in that time. A scale, unit or "
        "ratio of one of the two is wrong",
        "{name} 增加了 {grown} Wh，而按 {power}（{now}）应增加 {expected} Wh。"
        "其中一方的比例、单位或变比有误",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hint:
    """One inconsistency. ``kind`` is zero, order, scale, ratio, phases, sum, sign or counter."""

    kind: str
    points: tuple[str, ...]
    en: str
    zh: str

    def text(self, lang: str) -> str:
        """The text of the hint: Chinese if ``lang`` is ``zh``, otherwise English."""
        return self.zh if lang == "zh" else self.en


def hints(spec: DeviceSpec, readings: Mapping[str, Reading], roles: Mapping[str, str] | None = None) -> list[Hint]:
    """The hints about readings that were taken at the same time.

    Args:
        readings: by point name. Their ``raw`` bytes are used to try other byte orders.
        roles: part of the device -> configured role. The sign of power must fit the role.
    """
    values = _Values(readings)
    found = [*all_zero(spec.points, readings), *_orders(spec, readings), *_scales(spec, readings)]
    for prefix in _prefixes(readings):
        found += _products(values, prefix)
        found += _phase_sum(values, prefix)
    return [*found, *_signs(values, roles or {})]


def all_zero(points: Iterable[Point], readings: Mapping[str, Reading]) -> Iterator[Hint]:
    """Yield a hint if every measured or counted value is zero.

    In that case the registers exist but are not those of the profile, or a gateway answers for an absent device.
    """
    found: list[str] = []
    for point in points:
        reading = readings.get(point.name)
        if point.kind not in (Kind.GAUGE, Kind.COUNTER) or point.name.startswith("device.") or point.clock:
            continue
        if reading is None or not isinstance(reading.value, (Decimal, int)):
            continue
        if reading.value:
            return
        found.append(point.name)
    if len(found) >= LEAST_ZEROS:
        yield _hint("zero", tuple(found), "zero", count=len(found))


def growth_hints(
    spec: DeviceSpec, first: Mapping[str, Reading], last: Mapping[str, Reading], seconds: float
) -> list[Hint]:
    """Hints about counters whose growth between two readings does not fit the power. No hints if too little time has
    passed.
    """
    before, after = _Values(first), _Values(last)
    found: list[Hint] = []
    for prefix in _prefixes(last):
        for power, forward, backward in (
            ("power.active", "energy.import", "energy.export"),
            ("power.generation", "energy.generation", "energy.import"),
        ):  # fmt: skip
            ends = before.of(f"{prefix}{power}"), after.of(f"{prefix}{power}")
            if ends[0] is None or ends[1] is None or ends[0] * ends[1] <= 0:
                continue
            mean = (ends[0] + ends[1]) / 2
            names = (forward, backward) if mean > 0 else (backward, forward)
            own, other = (f"{prefix}{name}" for name in names)
            found += _growth(spec, before, after, f"{prefix}{power}", own, other, abs(mean) * seconds / 3600)
    return found


class _Values:
    """The numbers among the readings that are good, in their base units, by point name."""

    def __init__(self, readings: Mapping[str, Reading]) -> None:
        self.readings = readings

    def of(self, name: str) -> float | None:
        reading = self.readings.get(name)
        if reading is None or reading.quality != Quality.GOOD or not isinstance(reading.value, (Decimal, int)):
            return None
        factor = unit_factor(reading.unit, _base(reading.unit))
        return None if factor is None else float(Decimal(reading.value) * factor)

    def shown(self, name: str) -> str:
        reading = self.readings[name]
        return _number(reading.value, reading.unit)


def _base(unit: str) -> str:
    """The unit without its prefix: kW becomes W."""
    return next((base for base in _SENSIBLE if unit_factor(unit, base) is not None), unit) if unit else ""


def _prefixes(readings: Iterable[str]) -> list[str]:
    """The prefix of the point names in each alternating-current part, such as "ac." or "meter.ac."."""
    found = (name[: name.index("ac.") + 3] for name in readings if name.startswith("ac.") or ".ac." in name)
    return list(dict.fromkeys(found))


# --- one value alone


Reordered = list[tuple[Point, Reading, Decimal]]  # each value was recomputed with another byte order


def order_that_fits(spec: DeviceSpec, readings: Mapping[str, Reading]) -> tuple[str, Reordered]:
    """Find the byte order in which most of the implausible values become plausible.

    Returns (order, these points with their new values), or ("", []) if no order does.
    """
    found: dict[str, list[tuple[Point, Reading, Decimal]]] = {}
    for point in spec.points:
        reading = readings.get(point.name)
        if reading is None or not _is_absurd(point, reading):
            continue
        for order in _ORDER_OF_TRIAL:
            if order != point.order and order in orders_of(point.type, point.count):
                value = _in_order(point, reading.raw, order, spec)
                if value is not None and _is_sensible(value, point.unit):
                    found.setdefault(order, []).append((point, reading, value))
    if not found:
        return "", []
    order = max(found, key=lambda one: (len(found[one]), -_ORDER_OF_TRIAL.index(one)))
    return order, found[order]


def _orders(spec: DeviceSpec, readings: Mapping[str, Reading]) -> Iterator[Hint]:
    order, found = order_that_fits(spec, readings)
    if not found:
        return
    point, reading, value = found[0]
    names = tuple(one.name for one, _, _ in found)
    more, more_zh = (text.format(n=len(names) - 1) if len(names) > 1 else "" for text in _TEXTS["more"])
    shown = {"now": _number(reading.value, point.unit), "value": _number(value, point.unit)}
    yield _hint("order", names, "order", order=order, old=point.order, more=more, more_zh=more_zh, **shown)


def _hint(kind: str, points: tuple[str, ...], text: str, **facts: object) -> Hint:
    shown = {key: _plain(fact) if isinstance(fact, float) else fact for key, fact in facts.items()}
    en, zh = (words.format(name=points[0], **shown) for words in _TEXTS[text])
    return Hint(kind, points, en, zh)


def _number(value: Decimal | int | str | float | None, unit: str) -> str:
    return f"{_plain(float(value or 0), 5)} {unit}".rstrip()


def _plain(value: float, digits: int = 4) -> str:
    """The number as text with this many significant digits. Only small numbers, and numbers from 1e9 on, are written
    with an exponent.
    """
    if 10**digits <= abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{float(f'{value:.{digits}g}'):.9g}"


def _is_absurd(point: Point, reading: Reading) -> bool:
    if point.kind not in (Kind.GAUGE, Kind.COUNTER) or not isinstance(reading.value, (Decimal, int)) or not reading.raw:
        return False
    if point.parts or point.count < 2 or not REGISTERS.get(point.type):
        return False
    tiny = point.type in FLOATS and 0 < abs(Decimal(reading.value)) < TINY
    return reading.quality == Quality.RANGE or tiny


def _in_order(point: Point, raw: bytes, order: str, spec: DeviceSpec) -> Decimal | None:
    if len(raw) != 2 * REGISTERS[point.type]:
        return None
    plan = Plan(len(raw))
    plan.add(0, 0, point.type, order, sentinels=point.sentinels)
    ((_, mantissa, exponent, quality),) = plan.values(raw)
    if quality >= FIRST_REASON:
        return None
    return (Decimal(plain(mantissa, exponent)) + point.offset) * point.scale * ratio_of(point, spec)


def _is_sensible(value: Decimal, unit: str) -> bool:
    base = _base(unit)
    if base not in _SENSIBLE:
        return Decimal("0.001") <= abs(value) <= Decimal("1e7")
    low, high = map(Decimal, _SENSIBLE[base])
    size = value * (unit_factor(unit, base) or Decimal(1))
    return low <= (size if base in {"Hz", "Cel", "%"} else abs(size)) <= high


def _scales(spec: DeviceSpec, readings: Mapping[str, Reading]) -> Iterator[Hint]:
    """Yield a hint if a frequency has the wrong scale, such as 5001 Hz instead of 50.01 Hz."""
    for point in spec.points:
        reading = readings.get(point.name)
        if (
            reading is None
            or point.unit != "Hz"
            or reading.quality != Quality.RANGE
            or not point.name.startswith("ac.")
        ):
            continue
        for power in (-1, -2, -3, 1, 2, 3):
            value = float(reading.value or 0) * 10.0**power
            if 49 <= value <= 51 or 59 <= value <= 61:
                scale = f"{point.scale.scaleb(power).normalize():f}"
                shown = {"now": _number(reading.value, "Hz"), "value": _number(value, "Hz")}
                yield _hint("scale", (point.name,), "scale", scale=scale, **shown)
                break


# --- several values together


def _products(values: _Values, ac: str) -> Iterator[Hint]:
    """Yield a hint if power is not voltage x current x power factor. Checks each phase. If no phase gives a hint,
    checks the total.
    """
    odd: list[tuple[str, float, float, bool]] = []
    kinds = ("power.active", "power.generation")
    for phase in PHASES:
        power = next((n for kind in kinds if values.of(n := f"{ac}{kind}.{phase}") is not None), "")
        volts, amps = values.of(f"{ac}voltage.{phase}"), values.of(f"{ac}current.{phase}")
        if power and volts is not None and amps is not None:
            odd += _compare(values, power, abs(volts * amps), values.of(f"{ac}power.factor.{phase}"))
    power = next((n for kind in kinds if values.of(n := f"{ac}{kind}") is not None), "")
    apparent = _apparent(values, ac)
    if power and apparent is not None and not odd:
        odd += _compare(values, power, apparent, values.of(f"{ac}power.factor"))
    if not odd:
        return
    name, ratio, expected, has_factor = odd[0]
    product, product_zh = _TEXTS["product.factor" if has_factor else "product"]
    times = max(ratio, 1 / ratio)
    kind = "phases" if times < 2 else "ratio"
    text = "unit" if 800 < times < 1250 else kind
    facts = {"product": product, "product_zh": product_zh, "expected": expected, "times": _plain(times, 3)}
    yield _hint(kind, tuple(one[0] for one in odd), text, now=values.shown(name), **facts)


def _apparent(values: _Values, ac: str) -> float | None:
    """Voltage x current, added over the phases, in VA. None if a value is missing."""
    amps = [values.of(f"{ac}current.{phase}") for phase in PHASES]
    known = [one for one in amps if one is not None]
    volts = [values.of(f"{ac}voltage.{phase}") for phase in PHASES]
    if len(known) == 3 and None not in volts:
        return sum(abs((u or 0.0) * i) for u, i in zip(volts, known, strict=True))
    lines = [one for pair in ("l12", "l23", "l31") if (one := values.of(f"{ac}voltage.{pair}")) is not None]
    if len(known) == 3 and lines:
        return sum(lines) / len(lines) / math.sqrt(3) * sum(map(abs, known))
    single = values.of(f"{ac}voltage"), values.of(f"{ac}current")
    return None if single[0] is None or single[1] is None else abs(single[0] * single[1])


def _compare(
    values: _Values, name: str, apparent: float, factor: float | None
) -> Iterator[tuple[str, float, float, bool]]:
    """If the power is implausible, yield (point, power / expected power, expected power, whether a power factor was
    used).
    """
    power = abs(values.of(name) or 0.0)
    has_factor = factor is not None and 0.02 < abs(factor) <= 1
    expected = apparent * abs(factor) if has_factor and factor is not None else apparent
    if max(power, expected) < LEAST_VA or expected <= 0:
        return
    ratio = power / expected
    # the range is wide, because the values of one visit may be seconds apart, and loads change suddenly
    low = 0.6 if has_factor else 0.0
    if not low <= ratio <= 1.6 and abs(power - expected) > LEAST_VA / 2 and power > 0:
        yield name, ratio, expected, has_factor


def _phase_sum(values: _Values, ac: str) -> Iterator[Hint]:
    """Yield hints if the total is not the sum of the phases, or if the power of a single phase has another sign than
    the others.
    """
    kind = "power.active" if values.of(f"{ac}power.active.l1") is not None else "power.generation"
    total = values.of(f"{ac}{kind}")
    names = [f"{ac}{kind}.{phase}" for phase in PHASES]
    known = [values.of(name) for name in names]
    phases = [one for one in known if one is not None]
    if len(phases) < 3:
        return
    size, whole = sum(map(abs, phases)), sum(phases)
    if size < LEAST_W:
        return
    turned = [n for n, one in zip(names, phases, strict=True) if one * (whole or 1.0) < 0 and abs(one) > 0.05 * size]
    if len(turned) == 1:
        others = ", ".join(name for name in names if name not in turned)
        yield _hint("sign", tuple(turned), "sign.phase", now=values.shown(turned[0]), others=others)
    if total is None or abs(total - whole) <= max(0.3 * size, LEAST_VA):
        return
    ratio = abs(total / whole) if whole else 0.0
    name = f"{ac}{kind}"
    if any(0.9 < ratio / power < 1.1 for power in (1000.0, 0.001, 10.0, 0.1, 100.0, 0.01)):
        why = "sum.scale"
    else:
        why = "sum.amounts" if abs(abs(total) - size) <= 0.08 * size else "sum.other"
    advice, advice_zh = _TEXTS[why]
    yield _hint(
        "sum", (name, *names), "sum", now=values.shown(name), expected=whole, advice=advice, advice_zh=advice_zh
    )


def _signs(values: _Values, roles: Mapping[str, str]) -> Iterator[Hint]:
    """Yield hints if power flows against the role: into a generator, or out of a load."""
    for part, role in roles.items():
        fronts = (f"{part}." if part else "ac.", f"{part}.ac." if part else "ac.")
        for front in dict.fromkeys(fronts):
            for name, sign in ((f"{front}power.active", -1), (f"{front}power.generation", 1)):
                wanted = sign if role.startswith("generation") else 1 if role.startswith("load") and sign < 0 else 0
                value = values.of(name)
                if value is None or not wanted or value * wanted > -LEAST_W:
                    continue
                yield _hint("sign", (name,), "sign.role", now=values.shown(name), role=role)


def _growth(
    spec: DeviceSpec, before: _Values, after: _Values, power: str, own: str, other: str, expected_wh: float
) -> Iterator[Hint]:
    grown = _grown(before, after, own)
    point = next((point for point in spec.points if point.name == own), None)
    if grown is None or point is None:
        return
    if expected_wh < 10 * _step(spec, point, after.of(own) or 0.0):
        return
    facts = {"power": power, "now": after.shown(power), "expected": expected_wh, "grown": grown}
    if grown < 0.2 * expected_wh < (_grown(before, after, other) or 0.0):
        yield _hint("counter", (own, other), "counter.other", other=other, **facts)
    elif not 0.5 <= grown / expected_wh <= 2:
        yield _hint("counter", (own,), "counter", **facts)


def _grown(before: _Values, after: _Values, name: str) -> float | None:
    first, last = before.of(name), after.of(name)
    return None if first is None or last is None else last - first


def _step(spec: DeviceSpec, point: Point, value_wh: float) -> float:
    """The smallest growth that the counter can show, in Wh. Behind transformers, it is that of the primary side."""
    factor = float(unit_factor(point.unit, "Wh") or 1)
    if point.type in FLOATS:
        return max(abs(value_wh) * 2.0 ** (-23 if point.type == "f32" else -52), 0.1)
    protocol = find_protocol(spec.protocol)
    resolution = protocol.resolution if protocol is not None and point.key else None
    return float(point.scale * (resolution or 1) * ratio_of(point, spec)) * factor


def sentences(found: Sequence[Hint], lang: str) -> list[str]:
    """The texts of the hints, without duplicates."""
    return list(Counter(one.text(lang) for one in found))
