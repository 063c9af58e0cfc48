"""Lists the keys of agent.toml in which two configurations differ, for the answer to a reload and for the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Final

from agent.config import Config, DerivedConfig, WebConfig
from drivers.model import PACES

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
ACCEPTED = "accepted"  # the reload accepts that a device was replaced by another device
LISTS: Final = ("line", "device", "uplink", "derived")
TABLES: Final = ("store", "pack", "ring", "interval", "indicators", "control", "web")
# Field of a configuration object -> its key in agent.toml. Two kinds of fields are not listed: those with the same name
# as their key, and those whose name is the key with a unit suffix, such as _ms.
_KEYS: Final[Mapping[str, str]] = {
    "ratio_ct": "ratio", "ratio_pt": "ratio", "accuracy": "class", "password": "password", "plan_hash": "plan",
    "demand_period_ms": "demand", "demand_slip_ms": "demand", "length_ms": "length", "max_gap_ms": "max_gap",
    "host": "url", "port": "url", "tls": "url",
}  # fmt: skip
# objects whose fields have other keys
_KEYS_OF: Final[Mapping[type, Mapping[str, str]]] = {
    WebConfig: {"host": "listen", "port": "listen"},
    DerivedConfig: {"terms": "sum", "device": "heat", "flow": "heat", "supply": "heat", "back": "heat"},
}
_UNITS: Final = ("_bytes", "_ms", "_s")


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """An added, removed or changed part of the configuration.

    ``kind`` is line, device, uplink, derived, or the name of a table that exists only once. ``keys`` are the changed
    keys.
    """

    kind: str
    name: str
    change: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        keys = f": {', '.join(self.keys)}" if self.keys else ""
        return f"{' '.join(filter(None, (self.kind, self.name)))} {self.change}{keys}"

    def as_json(self) -> dict[str, Any]:
        """Return the change as JSON values, for the answer to the reload request."""
        return asdict(self) | {"keys": list(self.keys)}


def config_changes(old: Config, new: Config, renewed: Iterable[str] = ()) -> tuple[ConfigChange, ...]:
    """Return all differences.

    The differences of lines, devices, uplinks and derived points come first, then those of the other tables.

    Args:
        renewed: devices that get a new driver or point table. If the table of such a device in agent.toml and its
            derived heat are unchanged, its profile must have changed, and the file of its profile is listed as the
            changed key.
    """
    found: list[ConfigChange] = []
    for kind in LISTS:
        found += _of_list(kind, getattr(old, _member(kind)), getattr(new, _member(kind)))
    named = {change.name for change in found if change.kind == "device"}
    moved = {change.name for change in found if change.kind == "line"}
    lines = {device.name: device.line for device in new.devices}
    if not any((old.timezone != new.timezone, old.place != new.place)):
        found += [
            ConfigChange("device", name, CHANGED, ("the file of its profile",))
            for name in renewed
            if name not in named and lines.get(name) not in moved and _heat(old, name) == _heat(new, name)
        ]
    for table in TABLES:
        if keys := differing(getattr(old, table), getattr(new, table)):
            found.append(ConfigChange(table, "", CHANGED, keys))
    site = tuple(
        key
        for key, member in (("label", "site_label"), ("latitude, longitude", "place"), ("timezone", "timezone"))
        if getattr(old, member) != getattr(new, member)
    )
    if site:
        found.append(ConfigChange("site", "", CHANGED, site))
    if old.key != new.key:
        found.append(ConfigChange("key", "", CHANGED))
    if old.profiles_dir != new.profiles_dir:
        found.append(ConfigChange("paths", "", CHANGED, ("profiles_dir",)))
    return tuple(found)


def _member(kind: str) -> str:
    return kind if kind == "derived" else f"{kind}s"


def _heat(config: Config, device: str) -> list[DerivedConfig]:
    return [one for one in config.derived if one.device == device]


def _of_list(kind: str, old: Sequence[Any], new: Sequence[Any]) -> Iterable[ConfigChange]:
    before, after = {one.name: one for one in old}, {one.name: one for one in new}
    for name, entry in after.items():
        if name not in before:
            yield ConfigChange(kind, name, ADDED)
        elif keys := differing(before[name], entry):
            yield ConfigChange(kind, name, CHANGED, keys)
    yield from (ConfigChange(kind, name, REMOVED) for name in before if name not in after)


def differing(old: Any, new: Any) -> tuple[str, ...]:
    """Return the keys of agent.toml in which two objects of one kind differ.

    Each limit and each pace is a separate key.
    """
    found: list[str] = []
    for field in fields(new):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if not field.compare or before == after:
            continue
        if field.name == "periods_ms":
            found += [f"every.{pace}" for pace, a, b in zip(PACES, before, after, strict=True) if a != b]
        elif field.name == "limits" and is_dataclass(after):
            found += [f"limits.{key}" for key in differing(before, after)]
        else:
            found.append(_KEYS_OF.get(type(new), _KEYS).get(field.name) or _key(field.name))
    return tuple(dict.fromkeys(found))


def _key(name: str) -> str:
    return next((name.removesuffix(unit) for unit in _UNITS if name.endswith(unit)), name)
