"""Which streams were asked for: names and patterns of the last parts of their names, such as ``inv1`` and ``meter-*``.

A gateway's configuration has such a list for each destination, a platform or a verifier has its own. Only the own list
counts: nothing that a gateway sends can shorten it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Final

from .strict import shown
from .topics import GATEWAY, NAME

ALWAYS: Final = "_gateway"  # the gateway's own events go with whatever was asked for
_NAME: Final = re.compile(NAME)
PATTERN: Final = re.compile(r"[A-Za-z0-9_*?][A-Za-z0-9_.:*?-]{0,63}\Z")  # ``*``: any characters, ``?``: one


def is_asked(name: str, patterns: Collection[str]) -> bool:
    """Was a stream asked for? ``name``: the last part of its name. Without patterns all were."""
    return not patterns or name == ALWAYS or any(fnmatchcase(name, pattern) for pattern in patterns)


class AgreedStreams:
    """The streams that were agreed with gateways.

    Args:
        entries: names and patterns; ``park7/gw01=inv1`` for that gateway alone, ``inv1`` for each gateway. A gateway
            without any was asked for all of its streams.

    Raises:
        ValueError: an entry that is neither.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._everywhere: list[str] = []
        self._of_gateway: dict[str, list[str]] = {}
        for entry in entries:
            gateway, named, pattern = entry.rpartition("=")
            if not PATTERN.match(pattern) or (named and not GATEWAY.fullmatch(gateway)):
                raise ValueError(f"stream {shown(entry)}, expected such as inv1, meter-* or park7/gw01=inv1")
            (self._of_gateway.setdefault(gateway, []) if named else self._everywhere).append(pattern)

    def __bool__(self) -> bool:
        return bool(self._everywhere or self._of_gateway)

    @property
    def entries(self) -> list[str]:
        """All entries, in order of their text."""
        own = (f"{gateway}={pattern}" for gateway, patterns in self._of_gateway.items() for pattern in patterns)
        return sorted({*own, *self._everywhere})

    def has_list(self, gateway: str) -> bool:
        """Was this gateway asked for some streams only?"""
        return bool(self._everywhere or gateway in self._of_gateway)

    def asked(self, stream: str) -> bool:
        """Was this stream, ``<site>/<gateway>/<name>``, asked for?"""
        gateway, _, name = stream.rpartition("/")
        return is_asked(name, [*self._everywhere, *self._of_gateway.get(gateway, ())])

    def unheard(self, streams: Iterable[str], gateways: Collection[str]) -> list[str]:
        """Agreed names of which there is no trace, in order. What a pattern stands for is not known, so none is here.

        Args:
            streams: of which something is known, if only that a checkpoint names it.
            gateways: those to look at; one that an entry names and that is not here is looked at as well.
        """
        known = set(streams)
        last_parts = {stream.rpartition("/")[2] for stream in known}
        missing = {
            f"{gateway}/{name}"
            for gateway, names in self._of_gateway.items()
            for name in names
            if _NAME.fullmatch(name) and f"{gateway}/{name}" not in known
        }
        single = next(iter(gateways)) + "/" if len(gateways) == 1 else ""  # of several, it may be any of them
        missing |= {f"{single}{name}" for name in self._everywhere if _NAME.fullmatch(name) and name not in last_parts}
        return sorted(missing)
