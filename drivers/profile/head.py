"""The head of a profile. It describes the family as a whole: maker, limits, parameters, freshness."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from drivers.model import ConfigError, FreshnessRule, ImpossibleZeros, Limits
from drivers.profile.complaints import ProfileComplaints
from drivers.profile.register_layout import MAX_WORDS
from drivers.profile.types import Param, ProfileHead, SecondSource
from drivers.registry import DEFAULT, PACKAGES, protocols
from drivers.serial_setting import SerialSetting
from drivers.toml import TomlTable, show, suggestion

KINDS = [
    "meter",
    "inverter",
    "hybrid",
    "storage",
    "bms",
    "pcs",
    "heat",
    "cool",
    "water",
    "gas",
    "steam",
    "air",
    "plc",
    "sensor",
    "weather",
    "charger",
    "gateway",
    "logger",
    "bench",
]
EVIDENCE = ("derived", "dump", "field")
HEAD_KEYS = [
    "schema",
    "vendor",
    "models",
    "kind",
    "protocol",
    "source",
    "second_source",
    "evidence",
    "limits",
    "probe",
    "params",
    "extends",
    "remove",
    "defaults",
    "sentinels",
    "class",
    "sleeps",
    "caching",
    "fresh",
    "impossible",
    "serial",
    "identity",
    "notes",
    "point",
    "repeat",
    "variant",
    "sample",
]
LIMIT_KEYS: Mapping[str, str] = {
    "quiet": "quiet_s",
    "timeout": "timeout_s",
    "serial_timeout": "serial_timeout_s",
    "connect_delay": "connect_delay_s",
    "min_every": "min_every_s",
    "turnaround": "turnaround_s",
    "late": "late_s",
}


def read_head(document: Mapping[str, Any], complaints: ProfileComplaints, base: ProfileHead | None) -> ProfileHead:
    """Read and check the head. Missing keys are taken from ``base``, the head of the profile that this one extends."""
    table = complaints.table(document)
    table.unknown(HEAD_KEYS)
    schema = table.of_types("schema", (int,), "1")
    if schema != 1:
        what = 'the key "schema" is missing' if "schema" not in document else f"schema {show(schema)} is not supported"
        table.add("schema", what, "Write schema = 1, the only one that this version reads")
    need = base is None
    models = table.texts("models")
    if not models and need:
        table.add("models", 'the key "models" is missing', 'Write patterns of model names, such as ["EX-630*"]')
    return ProfileHead(
        vendor=table.text("vendor", required=need) or (base.vendor if base else ""),
        models=models or (base.models if base else ()),
        kind=table.choice("kind", KINDS, base.kind if base else "", required=need),
        protocol=_protocol(table, base),
        source=table.text("source", required=True),
        second_source=_second_source(table),
        evidence=table.choice("evidence", EVIDENCE, required=True),
        limits=read_limits(complaints.table(table.mapping("limits"), ("limits",), "limits")).over(
            base.limits if base else Limits()
        ),
        probe=_probe(table) or (base.probe if base else ""),
        params={**(base.params if base else {}), **_params(table)},
        accuracy=_class(table) or (base.accuracy if base else ""),
        sleeps=table.flag("sleeps", base.sleeps if base else False),
        caching=table.flag("caching", base.caching if base else False),
        fresh=_fresh(table) or (base.fresh if base else None),
        impossible=(*(base.impossible if base else ()), *_impossible(table)),
        serial=_serial(table) or (base.serial if base else ""),
        identity=table.texts("identity") or (base.identity if base else ()),
        notes={k: v for k, v in table.mapping("notes").items() if isinstance(v, str)},
    )


def _protocol(table: TomlTable, base: ProfileHead | None) -> str:
    protocol = table.text("protocol", base.protocol if base else "", required=base is None)
    if not protocol or protocol in PACKAGES or protocol in (known := protocols()):
        return protocol or DEFAULT
    near = suggestion(protocol, known)
    # any other name may be that of a protocol whose driver is installed on another machine
    if near or not re.fullmatch(r"[a-z][a-z0-9-]*", protocol):
        table.add("protocol", f"unknown protocol {show(protocol)}", near)
    return DEFAULT if near else protocol


def _second_source(table: TomlTable) -> SecondSource | None:
    """The second source, or None. It is not inherited by ``extends``, because it describes the points of this file
    only.
    """
    given = table.mapping("second_source")
    if not given:
        return None
    second = table.inner("second_source", ("second_source",), given)
    second.unknown(("source", "en", "zh"))
    return SecondSource(second.text("source"), second.text("en", required=True), second.text("zh", required=True))


def _class(table: TomlTable) -> str:
    found = table.text("class")
    if found and not re.fullmatch(r"[A-D]|(0\.[1-9]|[1-5](\.[0-9])?)(S| ?%)?", found):
        table.add("class", f"invalid accuracy class {show(found)}", 'Write for example "0.5S", "1", "B" or "1.2 %"')
        return ""
    return found


def _probe(table: TomlTable) -> str:
    probe = table.inner("probe", ("probe",), table.mapping("probe"))
    probe.unknown(("point",))
    return probe.text("point", required="probe" in table.raw)


def _serial(table: TomlTable) -> str:
    serial = table.text("serial")
    if not serial:
        return ""
    try:
        return str(SerialSetting.parse(serial, ""))
    except ConfigError as error:
        table.add("serial", error.what, error.hint)
        return ""


def read_limits(table: TomlTable) -> Limits:
    """The limits in a table. Durations are texts such as "20 ms"."""
    table.unknown(["max_words", "max_gap", "holes", "retries", "serial_retries", "connections", *LIMIT_KEYS])
    words = table.of_types("max_words", (int,), f"a whole number from 1 to {MAX_WORDS}")
    if words is not None and not 1 <= words <= MAX_WORDS:  # larger reads are not possible (field pain 28)
        table.add("max_words", f"max_words is {words}, but only 1 to {MAX_WORDS} registers per read are allowed")
        words = None
    gap = table.integer("max_gap", 0, MAX_WORDS)
    holes = table.flag("holes") if "holes" in table.raw else None
    if gap and holes is False:
        table.add(
            "max_gap",
            "max_gap and holes = false cannot be used together",
            "Remove max_gap or holes = false: max_gap allows reads across unused registers, holes = false forbids them",
        )
    if gap and holes is None:
        holes = True
    seconds = {field: table.seconds(key) for key, field in LIMIT_KEYS.items()}
    retries, serial_retries = table.integer("retries", 0, 20), table.integer("serial_retries", 0, 20)
    connections = table.integer("connections", 1, 64)
    return Limits(
        max_words=words,
        max_gap=gap,
        holes=holes,
        retries=retries,
        connections=connections,
        serial_retries=serial_retries,
        **seconds,
    )


def _params(table: TomlTable) -> dict[str, Param]:
    result: dict[str, Param] = {}
    for name, given in table.mapping("params").items():
        param = table.inner(f"parameter {name}", ("params", name), given if isinstance(given, dict) else {})
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            param.add(
                "",
                f"invalid parameter name {show(name)}",
                "Write lowercase letters, digits and _, and begin with a letter",
            )
        if isinstance(given, (int, str)) and not isinstance(given, bool):
            result[name] = Param(name, given, choices=(given,) if isinstance(given, str) else ())
        elif isinstance(given, dict):
            result[name] = _param(name, param)
        else:
            param.add("", "is neither a number nor a table")
    return result


def _param(name: str, table: TomlTable) -> Param:
    table.unknown(("default", "min", "max", "choices", "en", "zh"))
    choices = table.texts("choices")
    low, high = table.integer("min", 0, 65535, 0) or 0, table.integer("max", 0, 65535, 65535)
    default = table.of_types("default", (int, str), "a number or a string")
    if choices and default is not None and default not in choices:
        table.add("default", f"default {show(default)} is not one of the choices")
    if not choices and isinstance(default, str):
        table.add("default", f'default {show(default)} is a string, but the key "choices" is missing')
        default = None
    high = 65535 if high is None else high
    if not choices and default is not None and not low <= default <= high:
        table.add("default", f"default {show(default)} is out of range", f"Allowed: {low} to {high}")
    return Param(name, default, low, high, choices, table.text("en"), table.text("zh"))


def _fresh(table: TomlTable) -> FreshnessRule | None:
    if "fresh" not in table.raw:
        return None
    fresh = table.inner("fresh", ("fresh",), table.mapping("fresh"))
    fresh.unknown(("point", "changes_within", "equals"))
    within, equals = fresh.seconds("changes_within"), fresh.integer("equals", 0, 0xFFFFFFFF)
    given = {"changes_within", "equals"} & set(fresh.raw)  # an invalid value has its own complaint
    if len(given) == 2:
        fresh.add("point", 'the keys "changes_within" and "equals" cannot be used together')
    elif not given:
        fresh.add(
            "point",
            'the key "changes_within" or "equals" is missing',
            'Write for example changes_within = "60 s" or equals = 1',
        )
    return FreshnessRule(fresh.text("point", required=True), within, equals)


def _impossible(table: TomlTable) -> tuple[ImpossibleZeros, ...]:
    found = []
    for rule in table.tables("impossible"):
        rule.unknown(("zeros_together", "gaps"))
        together, gaps = rule.texts("zeros_together"), rule.texts("gaps")
        if not together:
            rule.add(
                "zeros_together",
                'the key "zeros_together" is missing',
                'Write the points that cannot all be 0, such as ["ac.voltage.l1", "ac.frequency"]',
            )
        elif len(together) == 1 and "*" not in together[0]:
            rule.add(
                "zeros_together",
                f"only {show(together[0])} is named, but it needs several points",
                "If a single point cannot be 0, write sentinel = 0 at the point",
            )
        else:
            found.append(ImpossibleZeros(together, gaps or ("*",)))
    return tuple(found)
