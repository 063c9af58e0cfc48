"""Warnings of `profiles check` about a valid profile, in English and Chinese. A warning never rejects a profile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from drivers.model import FLOATS, Point
from drivers.profile.find import shipped_dir
from drivers.profile.types import Profile
from drivers.registry import maps_registers
from drivers.units import unit_factor

_TEXTS: Mapping[str, tuple[str, str]] = {
    "template": (
        "models or source still has the text of the template: enter the models and the document you used",
        "models 或 source 仍是模板原文：请填写型号和所依据的文档",
    ),
    "overlap": (
        "{a} ({a_at}) and {b} ({b_at}) share register {shared} and neither lies inside the other: one address, type or "
        "count is wrong",
        "{a}（{a_at}）与 {b}（{b_at}）重叠于寄存器 {shared}，且互不包含：其中一个的地址、类型或数量有误",
    ),
    "inside": (
        "{b} ({b_at}) lies inside the float {a} ({a_at}): half of a float is not a separate value",
        "{b}（{b_at}）位于浮点数 {a}（{a_at}）之内：浮点数的一半不是独立的值",
    ),
    "notation": (
        "{name} has address {at} with function {function}: if the manual counts its registers from {first}, "
        "write address = {meant} ({count} points have such addresses)",
        "{name} 的地址为 {at}（功能码 {function}）：若手册从 {first} 起计，则应为 address = {meant}"
        "（共 {count} 个测点）",
    ),
    "coarse": (
        "{name}: one count is {scale}{unit}, and {usual} are usual: is scale or unit wrong?",
        "{name} 的一个计数为 {scale}{unit}，通常为 {usual_zh}：scale 或 unit 是否有误？",
    ),
    "sample": (
        'sample "{sample}": {name} is {value}{unit}, which cannot be: is scale, unit, type or order wrong?',
        "样本“{sample}”中 {name} 为 {value}{unit}，不可能：scale、unit、type 或 order 是否有误？",
    ),
}  # fmt: skip
TEMPLATE_SOURCE = "TITLE, REVISION (DATE)"  # the source that `profiles new` writes
_FIRST = {3: 40001, 4: 30001}  # function -> number of its first register in 4x notation
_GRID = re.compile(r"(?:.+\.)?ac\.(voltage|frequency|power\.factor)(?:\.l[123]{1,2})?")
# (quantity, unit) -> (scale from which on an integer is too coarse, the same limit for a float, usual scale in English,
# usual scale in Chinese)
_COARSE: Mapping[tuple[str, str], tuple[Decimal, Decimal, str, str]] = {
    ("voltage", "V"): (Decimal(10), Decimal(10), "0.01 to 1 V", "0.01 至 1 V"),
    ("voltage", "kV"): (Decimal("0.1"), Decimal(10), "0.001 to 0.01 kV", "0.001 至 0.01 kV"),
    ("frequency", "Hz"): (Decimal(1), Decimal(10), "0.001 to 0.1 Hz", "0.001 至 0.1 Hz"),
    ("power.factor", ""): (Decimal("0.05"), Decimal(10), "0.0001 to 0.01", "0.0001 至 0.01"),
}
_MOST_V = 40_000  # no park is connected to a grid of a higher voltage
_MEASURED = ("dump", "field")  # values of "evidence" which mean that the addresses were tested on a device


def remarks(profile: Profile) -> list[tuple[str, str]]:
    """All warnings about a profile, as (English, Chinese), in the order of the registers."""
    template = [_remark("template")] if "MODEL*" in profile.models or profile.source == TEMPLATE_SOURCE else []
    if not maps_registers(profile.protocol):
        return template
    points = [p for p in profile.points if not p.is_object and p.function >= 3]
    points.sort(key=lambda p: (p.function, p.address, -p.count))
    return [*template, *_overlaps(points), *_notation(profile, points), *_coarse(points), *_samples(profile)]


def _overlaps(points: Sequence[Point]) -> Iterator[tuple[str, str]]:
    """Warn about points that overlap partly, or that lie inside a float. Points inside an integer, such as bits, are
    allowed.
    """
    for n, a in enumerate(points):
        for b in points[n + 1 :]:
            if b.function != a.function or b.address >= a.address + a.count:
                break
            ends = a.address + a.count, b.address + b.count
            places = {"a": a.name, "a_at": _place(a), "b": b.name, "b_at": _place(b), "shared": b.address}
            if a.parts or b.parts:  # the parts of a point may lie apart, with registers of other points between them
                continue
            if b.address > a.address and ends[1] > ends[0]:
                yield _remark("overlap", **places)
            elif a.type in FLOATS and b.count < a.count:
                yield _remark("inside", **places)


def _place(point: Point) -> str:
    return f"{point.function}:{point.address} {point.type}"


def _notation(profile: Profile, points: Sequence[Point]) -> Iterator[tuple[str, str]]:
    """Warn once about addresses that look like 4x notation. It is only a warning, because many devices have such
    addresses.
    """
    if profile.evidence in _MEASURED or profile.path.is_relative_to(shipped_dir()):
        return
    for function, first in _FIRST.items():
        found = [p for p in points if p.function == function and first <= p.address < first + 9999]
        if found:
            one = found[0]
            facts = {"name": one.name, "at": one.address, "function": function, "first": first}
            yield _remark("notation", **facts, meant=one.address - first, count=len(found))


def _coarse(points: Sequence[Point]) -> Iterator[tuple[str, str]]:
    """Warn about a step so large that the scale must be wrong, such as 100 V, 1 Hz, or 0.05 for a power factor."""
    for point in points:
        grid = _GRID.fullmatch(point.name)
        if grid is None or (limits := _COARSE.get((grid[1], point.unit))) is None or point.parts:
            continue
        most, most_float, usual, usual_zh = limits
        if abs(point.scale) >= (most_float if point.type in FLOATS else most):
            yield _remark("coarse", name=point.name, scale=f"{point.scale:f}", unit=_unit(point), usual=usual,
                          usual_zh=usual_zh)  # fmt: skip


def _samples(profile: Profile) -> Iterator[tuple[str, str]]:
    """Warn about a value in ``expect`` that is outside the range of its point, and about voltages above ``_MOST_V``."""
    for sample in profile.samples:
        for point in profile.resolve(sample.params, sample.firmware, sample.identity).points:
            value = sample.expect.get(point.name)
            if not isinstance(value, (Decimal, int)):
                continue
            is_out = any((point.low is not None and value < point.low, point.high is not None and value > point.high))
            grid, factor = _GRID.fullmatch(point.name), unit_factor(point.unit, "V")
            is_out |= bool(grid and factor is not None and abs(Decimal(value)) * factor > _MOST_V)
            if is_out:
                shown = f"{value:f}" if isinstance(value, Decimal) else value
                yield _remark("sample", sample=sample.name, name=point.name, value=shown, unit=_unit(point))


def _unit(point: Point) -> str:
    return f" {point.unit}" if point.unit else ""


def _remark(text: str, **facts: object) -> tuple[str, str]:
    en, zh = _TEXTS[text]
    return en.format(**facts), zh.format(**facts)
