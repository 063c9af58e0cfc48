"""Which streams were requested: names and patterns of the last parts of their names, such as ``inv1`` and ``meter-*``.

A gateway's configuration has such a list for each destination, a platform or a verifier has its own. Only the
verifier's own list counts: nothing that a gateway sends can shorten it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Final

from .strict import shown
from .topics import GATEWAY, NAME

ALWAYS: Final = "_gateway"  # the gateway's own events, which are always expected
_NAME: Final = re.compile(NAME)
PATTERN: Final = re.compile(r"[A-Za-z0-9_*?][A-Za-z0-9_.:*?-]{0,63}\Z")  # ``*``: any characters, ``?``: one


def is_asked(name: str, patterns: Collection[str]) -> bool:
    """Was a stream requested? ``name``: the last part of its name. Without patterns all were."""
    return not patterns or name == ALWAYS or any(fnmatchcase(name, pattern) for pattern in patterns)


class AgreedStreams:
    """The streams that were agreed with gateways.

    Args:
        entries: names and patterns; ``park7/gw01=inv1`` for that gateway alone, ``inv1`` for each gateway. All streams
            are requested of a gateway without entries.

    Raises:
        ValueError: an entry that is neither.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._everywhere: list[str] = []
        self._of_gateway: dict[str, list[str]] = {}
        for entry in entries:
            gateway, named, pattern = entry.rpartition("=")
            if not PATTERN.match(pattern) or (named and not GATEWAY.fullmatch(gateway)):
                raise ValueError(
                    f"stream {shown(entry)}, expected a name or pattern such as inv1, meter-* or park7/gw01=inv1"
                )
            (self._of_gateway.setdefault(gateway, []) if named else self._everywhere).append(pattern)

    def __bool__(self) -> bool:
        return bool(self._everywhere or self._of_gateway)

    @property
    def entries(self) -> list[str]:
        """All entries, in order of their text."""
        own = (f"{gateway}={pattern}" for gateway, patterns in self._of_gateway.items() for pattern in patterns)
        return sorted({*own, *self._everywhere})

    def has_list(self, gateway: str) -> bool:
        """Were only some streams of this gateway requested?"""
        return bool(self._everywhere or gateway in self._of_gateway)

    @property
    def gateways(self) -> frozenset[str]:
        """Those that an entry names."""
        return frozenset(self._of_gateway)

    def names(self, stream: str) -> bool:
        """Does an entry match this stream, ``<site>/<gateway>/<name>``?"""
        gateway, _, name = stream.rpartition("/")
        return any(fnmatchcase(name, own) for own in (*self._everywhere, *self._of_gateway.get(gateway, ())))

    def asked(self, stream: str) -> bool:
        """Was this stream requested?"""
        gateway, _, name = stream.rpartition("/")
        return not self.has_list(gateway) or name == ALWAYS or self.names(stream)

    def unheard(self, known: Collection[str], gateways: Collection[str], every: bool) -> list[str]:
        """Agreed names that nothing mentions, in order. Patterns are left out: which streams they mean is unknown.

        Args:
            known: streams that are known, if only because a checkpoint names them.
            gateways: those to look at.
            every: whether these are all gateways. A name that was agreed with each gateway may belong to any of them.
        """
        missing = {
            f"{gateway}/{name}"
            for gateway in gateways
            for name in self._of_gateway.get(gateway, ())
            if _NAME.fullmatch(name) and f"{gateway}/{name}" not in known
        }
        if gateways and every:
            front = f"{min(gateways)}/" if len(gateways) == 1 else ""
            found = {stream.rpartition("/")[2] for stream in known}
            missing |= {f"{front}{name}" for name in self._everywhere if _NAME.fullmatch(name) and name not in found}
        return sorted(missing)
