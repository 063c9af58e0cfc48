"""The facts that a birth states about its device: identity, transformer ratios, register map and counter epoch.

The agent compares the facts of two births to find a swapped meter, new firmware, another ratio or another map. Each of
these begins a new counter epoch. Counter readings of different epochs must never be subtracted from each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ext.canon import dumps

# these items are versions: a change of any other item, except a ratio, means that this is another device
FIRMWARE = frozenset({"firmware", "protocol"})
RATIO = "ratio."  # prefix of the items with the transformer ratios that the device itself reports

Change = tuple[str, Mapping[str, Any], Mapping[str, Any]]  # (event name, old facts, new facts)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that must not change within a counter epoch. Values are texts, as in a birth.

    ``counters``: name of the counter -> digest of how it is read.
    """

    epoch: int
    identity: Mapping[str, str]  # item (without "device.") -> value, for known items only; the firmware is one of them
    ratio: Mapping[str, Any]  # the members ct, pt and reversed
    map: Mapping[str, Any]  # the members profile and variant
    counters: Mapping[str, str]

    @classmethod
    def of(cls, device: Mapping[str, Any], epoch: int, counters: Mapping[str, str]) -> Facts:
        """Make the facts from the ``device`` object of a birth's table."""
        texts = {**(device.get("identity") or {}), "firmware": device.get("firmware")}
        return cls(
            epoch,
            {name: text for name, text in sorted(texts.items()) if text is not None},
            {**(device.get("ratio") or {}), "reversed": list(device.get("reversed") or ())},
            {"profile": device.get("profile"), "variant": device.get("variant")},
            counters,
        )

    def encode(self) -> bytes:
        """Return the facts as canonical JSON, for the store."""
        return dumps(
            {
                "counters": dict(self.counters),
                "epoch": self.epoch,
                "identity": dict(self.identity),
                "map": dict(self.map),
                "ratio": dict(self.ratio),
            }
        )

    @classmethod
    def decode(cls, text: bytes | str) -> Facts | None:
        """The reverse of ``encode``. Returns None if the text is damaged."""
        try:
            parsed = json.loads(text)
            return cls(int(parsed["epoch"]), parsed["identity"], parsed["ratio"], parsed["map"], parsed["counters"])
        except (ValueError, KeyError, TypeError):
            return None


def changes(old: Facts, new: Facts) -> list[Change]:
    """Return the differences as events. The list is empty if the counter epoch continues.

    An item of the identity that only one side has is ignored.
    """
    both = old.identity.keys() & new.identity.keys()
    differ = {name for name in both if old.identity[name] != new.identity[name]}
    ratios = {name for name in differ if name.startswith(RATIO)}
    versions = differ & FIRMWARE
    found: list[Change] = []
    if differ - ratios - versions:
        found.append(("identity", dict(old.identity), dict(new.identity)))
    elif versions:
        found.append(("firmware", _some(old.identity, versions), _some(new.identity, versions)))
    if ratios or old.ratio != new.ratio:
        before, after = _some(old.identity, ratios), _some(new.identity, ratios)
        found.append(("ratio", {**old.ratio, **before}, {**new.ratio, **after}))
    moved = sorted(n for n in old.counters.keys() & new.counters.keys() if old.counters[n] != new.counters[n])
    if not found and (old.map != new.map or moved):
        found.append(("variant", {**old.map, "moved": moved}, {**new.map, "moved": moved}))
    return found


def contradicts(known: Mapping[str, str | None], read: Mapping[str, str | None]) -> bool:
    """Return True if an item has different values in ``known`` and ``read``.

    An item that only one of them has is ignored.
    """
    return any(known.get(name) not in (None, text) for name, text in read.items() if text is not None)


def counters_of(points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return, for each counter in a birth's ``points``, a digest of how it is read.

    The digest covers, for example, source, unit and ratio. The key is the name of the counter.
    """
    read = ("bits", "digits", "du", "ratio", "source", "u")
    return {
        str(point["n"]): hashlib.sha256(dumps({k: point[k] for k in read if k in point})).hexdigest()[:12]
        for point in points
        if point["kind"] == "counter"
    }


def _some(texts: Mapping[str, str], names: set[str]) -> dict[str, str]:
    return {name: texts[name] for name in sorted(names)}
