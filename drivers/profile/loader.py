"""Turns the TOML file of a family into a Profile. If the file has faults, raises one error with all of them."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from drivers.encoding import base64url
from drivers.model import PACES, Limits, Point, ProfileError
from drivers.profile.complaints import ProfileComplaints
from drivers.profile.find import default_dirs, find_profile
from drivers.profile.head import read_head, read_limits
from drivers.profile.points import build_point
from drivers.profile.register_layout import (
    MAX_WORDS,
    ORDERS,
    REGISTERS,
    Defaults,
    order_hint,
    read_function,
    read_type,
)
from drivers.profile.repeat import described_points
from drivers.profile.samples import read_samples
from drivers.profile.types import Param, Profile, ProfileHead, Sample, Variant
from drivers.profile.variants import condition_error, holds, identity_holds
from drivers.profile.vocabulary import vocabulary
from drivers.registry import maps_registers
from drivers.toml import KeyPath, TomlTable, read_source, show, suggestion, toml_loads

MOST_KEPT = 128  # profiles; a scan tries all that are shipped
VARIANT_KEYS = ("name", "firmware", "identity", "point", "repeat", "remove", "limits")
_loads = lru_cache(MOST_KEPT)(toml_loads)  # nothing changes the tables of a profile, so they can be shared
_SAME = re.compile(r"device\.(vendor|model|serial|firmware|hardware|protocol)(\..*)?")


@dataclass(slots=True)
class _Layer:
    """One file of a chain of ``extends``. In a list of layers, the first one is the base."""

    document: Mapping[str, Any]
    complaints: ProfileComplaints
    head: ProfileHead
    defaults: Defaults
    cache: dict[tuple[KeyPath, tuple[tuple[str, int | str], ...]], list[Point]] = field(default_factory=dict)

    def points(self, document: Mapping[str, Any], path: KeyPath, params: Mapping[str, int | str]) -> list[Point]:
        """The points that this file describes below ``path``."""
        key = (path, tuple(sorted(params.items())))
        if key not in self.cache:
            self.cache[key] = self._build(document, path, params)
        return self.cache[key]

    def _build(self, document: Mapping[str, Any], path: KeyPath, params: Mapping[str, int | str]) -> list[Point]:
        points: dict[str, Point] = {}
        for described, here in described_points(document, path, params, self.complaints):
            table = self.complaints.table(described, here)
            point = build_point(table, self.defaults, vocabulary())
            if point is None:
                continue
            if point.name in points:
                table.add("name", f"duplicate point {show(point.name)}")
            points[point.name] = point
        return list(points.values())


# path of a profile, and folder and text of each file in its chain of ``extends`` -> the profile
_KEPT: dict[tuple[Path, tuple[tuple[Path, str | None], ...]], Profile] = {}


def load_profile(path: Path, search_dirs: Sequence[Path] | None = None) -> Profile:
    """Read and check one profile.

    Raises:
        ProfileError: ``complaints`` holds all errors, each with file, line, key, the value found and the value
        expected.

    The files are read at each call. If their content is known from an earlier call, that profile is returned.
    """
    try:
        layers = _layers(path, search_dirs, ())
        key = (path, tuple((layer.complaints.source.folder, layer.complaints.source.text) for layer in layers))
        if (kept := _KEPT.get(key)) is not None:
            return kept
        profile = _assemble(path, layers)
        for layer in layers:
            layer.complaints.check()
    except RecursionError:  # from tomllib, or from our own code if the nesting is just small enough for tomllib
        raise ProfileError("brackets are nested too deep", where=_short(path)) from None
    if len(_KEPT) >= MOST_KEPT:
        _KEPT.clear()
    _KEPT[key] = profile
    return profile


def _layers(path: Path, dirs: Sequence[Path] | None, seen: tuple[Path, ...]) -> list[_Layer]:
    complaints = ProfileComplaints()
    complaints.source, document = read_source(path, complaints, name=_short(path), loads=_loads)
    complaints.check()
    layers: list[_Layer] = []
    base = document.get("extends")
    if isinstance(base, str):
        if path in seen:
            cycle = " -> ".join(_short(p) for p in (*seen, path))
            complaints.at(("extends",), f'the key "extends" forms a cycle: {cycle}')
        else:
            try:
                found = find_profile(base, dirs if dirs is not None else None)
                # this is a site profile that extends the shipped profile of the same name
                if found.resolve() == path.resolve():
                    found = find_profile(
                        base, [d for d in _dirs(dirs) if d.resolve() not in path.resolve().parents[1:2]]
                    )
                layers = _layers(found, dirs, (*seen, path))
                for layer in layers:
                    layer.complaints.check()
            except ProfileError as error:
                complaints.at(("extends",), f"extends {show(base)}: {error.what}", error.hint)
        complaints.check()  # stop here, because without the base each inherited key would be reported as missing
    head = read_head(document, complaints, layers[-1].head if layers else None)
    limits = head.limits
    inherited = layers[-1].defaults if layers else Defaults()
    defaults = _defaults(document, complaints, inherited, head, limits)
    layers.append(_Layer(document, complaints, head, defaults))
    return layers


def _dirs(dirs: Sequence[Path] | None) -> Sequence[Path]:
    return default_dirs() if dirs is None else dirs


def _short(path: Path) -> str:
    """VENDOR/FAMILY.toml, preceded by the folder above it, for messages."""
    return str(Path(*path.parts[-3:]))


def _defaults(
    document: Mapping[str, Any], complaints: ProfileComplaints, inherited: Defaults, head: ProfileHead, limits: Limits
) -> Defaults:
    table = complaints.table(document)
    given = table.inner("defaults", ("defaults",), table.mapping("defaults"))
    given.unknown(("function", "type", "order", "pace", "ratio", "barrier"))
    type_, sure = read_type(given)
    values: dict[str, Any] = {
        "function": read_function(given),
        "type": type_,
        "order": _default_order(given),
        "pace": given.choice("pace", PACES),
        "ratio": given.choice("ratio", ("apply", "done")),
        "barrier": given.flag("barrier"),
    }
    sentinels = dict(inherited.sentinels)
    own = table.inner("sentinels", ("sentinels",), table.mapping("sentinels"))
    own.unknown(REGISTERS)
    for name in own.raw:
        value = own.of_types(name, (int, list, bool), "a raw value, a list of raw values, or false")
        items = [] if value is False or value is None else value if isinstance(value, list) else [value]
        if all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in items):
            sentinels[name] = tuple(items)
        else:
            own.add(name, f"the sentinels of {name} must be raw values", "Write the raw bits, such as 0x7FFF")
    return Defaults(
        values={**inherited.values, **{k: v for k, v in values.items() if v}},
        sentinels=sentinels,
        sleeps=head.sleeps,
        max_words=limits.max_words or MAX_WORDS,
        maps_registers=maps_registers(head.protocol),
        unsure=not sure or inherited.unsure,
    )


def _default_order(given: TomlTable) -> str:
    """The byte order in the defaults. An invalid order gives one complaint here, not one more for each point."""
    order = given.text("order")
    allowed = dict.fromkeys(one for orders in ORDERS.values() for one in orders)
    if order and order not in allowed:
        given.complain(None, "order", f"unknown value {show(order)}", order_hint(order, allowed))
        return "ABCD"
    return order


def _assemble(path: Path, layers: list[_Layer]) -> Profile:
    last = layers[-1]
    head = last.head
    variants = [item for layer in layers for item in _variants(layer)]

    def expand(params: Mapping[str, int | str], chosen: frozenset[int]) -> tuple[tuple[Point, ...], Limits]:
        return expanded(tuple(params.items()), chosen)

    @lru_cache(maxsize=16)  # a site has many devices of one family, with few different parameters
    def expanded(given: tuple[tuple[str, int | str], ...], chosen: frozenset[int]) -> tuple[tuple[Point, ...], Limits]:
        params = dict(given)
        points: dict[str, Point] = {}
        limits = head.limits
        for layer in layers:
            _remove(points, layer.complaints.table(layer.document))
            points.update((p.name, p) for p in layer.points(layer.document, (), params))
        for number, (layer, table, _) in enumerate(variants):
            if number not in chosen:
                continue
            _remove(points, table)
            points.update((p.name, p) for p in layer.points(table.raw, table.path, params))
            limits = _variant_limits(table).over(limits)
        return tuple(points.values()), limits

    def matches(firmware: str | None, identity: Mapping[str, str]) -> frozenset[int]:
        found = {**({"device.firmware": firmware} if firmware is not None else {}), **identity}
        return frozenset(
            i
            for i, (_, _, v) in enumerate(variants)
            if (not v.firmware or (firmware is not None and all(holds(c, firmware) for c in v.firmware)))
            and identity_holds(v.identity, found)
        )

    params = {n: _trial(p) for n, p in head.params.items()}
    points, limits = expand(params, frozenset())
    names = {p.name for p in points}
    for number in range(len(variants)):  # check every variant, even those that do not apply by default
        more, _ = expand(params, frozenset({number}))
        names.update(p.name for p in more)
        _check_groups(variants[number][0], more, limits)
        _check_zeros(variants[number][0], more)
    _check_groups(last, points, limits)
    _check_zeros(last, points)
    _check_names(last, points, names)
    for chosen in _sample_params(last.document, head.params):  # these parameters may produce more points
        names.update(p.name for p in expand({**params, **chosen}, frozenset())[0])
    samples: tuple[Sample, ...] = read_samples(last.complaints.table(last.document), names, head.protocol)
    wanted = [n for _, _, v in variants for n in v.identity]
    identity = [p.name for p in points if _SAME.fullmatch(p.name) or p.name in wanted or p.name in head.identity]
    return Profile(
        id=f"{path.parent.name}/{path.stem}",
        path=path,
        **{key.name: getattr(head, key.name) for key in fields(head)},
        variants=tuple(v for _, _, v in variants),
        samples=samples,
        identity_points=tuple(identity),
        hash=_hash([layer.document for layer in layers]),
        _expand=expand,
        _matches=matches,
        document=last.document,
    )


def _trial(param: Param) -> int | str:
    if param.default is not None:
        return param.default
    return param.choices[0] if param.choices else max(param.low, 1)


def _sample_params(document: Mapping[str, Any], known: Mapping[str, Param]) -> list[dict[str, int | str]]:
    """The parameters that samples set and the profile allows. (Invalid parameters are reported elsewhere.)"""
    samples = document.get("sample")
    tables = (
        [s["params"] for s in samples if isinstance(s, dict) and "params" in s] if isinstance(samples, list) else []
    )
    allowed = [{k: v for k, v in t.items() if k in known and _fits(v, known[k])} for t in tables if isinstance(t, dict)]
    return [chosen for chosen in allowed if chosen]


def _fits(value: Any, param: Param) -> bool:
    if param.choices or isinstance(value, bool):
        return value in param.choices
    return isinstance(value, int) and param.low <= value <= param.high


def _variants(layer: _Layer) -> list[tuple[_Layer, TomlTable, Variant]]:
    result: list[tuple[_Layer, TomlTable, Variant]] = []
    for number, table in enumerate(layer.complaints.table(layer.document).tables("variant")):
        table.unknown(VARIANT_KEYS)
        conditions = tuple(c.strip() for text in table.texts("firmware") for c in text.split(","))
        for condition in conditions:
            if error := condition_error(condition):
                table.add(
                    "firmware",
                    f"invalid firmware condition {show(condition)}: {error}",
                    "Write for example >=3, <V2.1, ==1.4 or V100*",
                )
        identity = table.mapping("identity")
        if not all(isinstance(v, str) for v in identity.values()):
            table.add("identity", "identity: patterns must be strings", 'Write for example { "device.model" = "EX-*" }')
            identity = {}
        if not conditions and not identity:
            layer.complaints.at(
                table.path, f"variant {number + 1} has no condition", 'Add the key "firmware" or "identity"'
            )
        name = table.text("name") or ", ".join([*conditions, *(f"{k} {v}" for k, v in identity.items())])
        _variant_limits(table)
        result.append((layer, table, Variant(name, conditions, identity)))
    return result


def _variant_limits(table: TomlTable) -> Limits:
    return read_limits(table.inner("limits", (*table.path, "limits"), table.mapping("limits")))


def _remove(points: dict[str, Point], table: TomlTable) -> None:
    for glob in table.texts("remove"):
        gone = [name for name in points if fnmatch.fnmatchcase(name, glob)]
        if not gone:
            table.add(
                "remove", f'the pattern {show(glob)} in the key "remove" matches no point', suggestion(glob, points)
            )
        for name in gone:
            del points[name]


def _check_groups(layer: _Layer, points: Sequence[Point], limits: Limits) -> None:
    """Add a complaint for each ``together`` group that does not fit into one request."""
    longest = limits.max_words or MAX_WORDS
    groups: dict[str, list[Point]] = {}
    for point in points:
        if point.together:
            groups.setdefault(point.together, []).append(point)
    for name, members in groups.items():
        span = max(p.address + p.count for p in members) - min(p.address for p in members)
        if len({p.function for p in members}) > 1:
            layer.complaints.at(
                (),
                f"the points with together = {show(name)} have different function codes",
                "One request can use only one function code",
            )
        elif span > longest and members[0].type != "bits":
            layer.complaints.at(
                (),
                f"the points with together = {show(name)} span {span} registers, but one read takes at most {longest}",
            )
        elif wrong := _undecodable(members):
            layer.complaints.at(
                (),
                f"the points with together = {show(name)} cannot be read in one request that begins with "
                f"{wrong[1].name}: {wrong[0].name} has {wrong[0].count} coils and begins at bit "
                f"{(wrong[0].address - wrong[1].address) % 8} of a byte, so it takes 9 bytes of the answer, but a "
                "point can take at most 8",
                f'Leave {wrong[0].name} out of the group, or give all points of the group the same "pace"',
            )


def _check_zeros(layer: _Layer, points: Sequence[Point]) -> None:
    """Add a complaint for each rule of zeros whose points cannot be compared."""
    for table in layer.complaints.table(layer.document).tables("impossible"):
        globs = table.texts("zeros_together")
        members = [p for p in points if any(fnmatch.fnmatchcase(p.name, glob) for glob in globs)]
        for point in members:
            if point.is_text:
                table.add("zeros_together", f"{point.name} is a text, which cannot be 0", "Name points with numbers")
            elif point.pace != members[0].pace:
                table.add(
                    "zeros_together",
                    f'{members[0].name} has the pace "{members[0].pace}", but {point.name} has "{point.pace}"',
                    "Only values of one visit are compared, so give the points the same pace",
                )


def _undecodable(members: Sequence[Point]) -> tuple[Point, Point] | None:
    """Return (point of coils, first point of a request) if a request for some paces cannot be decoded; else None."""
    paces = sorted({point.pace for point in members})
    for chosen in range(1, 1 << len(paces)):
        due = [point for point in members if chosen >> paces.index(point.pace) & 1]
        first = min(due, key=lambda point: point.address)
        for point in due:
            if not point.is_decodable_from(first.address):
                return point, first
    return None


def _check_names(layer: _Layer, points: Sequence[Point], names: set[str]) -> None:
    head, complaints = layer.head, layer.complaints
    if not names:
        complaints.at((), "the profile has no points")
    for path, name in ((("probe", "point"), head.probe), (("fresh", "point"), head.fresh.point if head.fresh else "")):
        if name and name not in names:
            complaints.at(path, f"{path[0]}: unknown point {show(name)}", suggestion(name, names))
    for rule in complaints.table(layer.document).tables("impossible"):
        for key in ("zeros_together", "gaps"):
            for glob in rule.texts(key):
                if not any(fnmatch.fnmatchcase(name, glob) for name in names):
                    rule.add(key, f"{key}: unknown point {show(glob)}", suggestion(glob, names))
    for name in head.identity:
        if name not in names:
            complaints.at(("identity",), f"identity: unknown point {show(name)}", suggestion(name, names))


def _hash(documents: list[Mapping[str, Any]]) -> str:
    """The SHA-256 of the content, in base64url without padding. Comments, spacing and the order of keys do not change
    it.
    """
    text = json.dumps(documents, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return base64url(hashlib.sha256(text.encode()).digest())
