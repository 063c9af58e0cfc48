"""The list of streams that a verifier requests.

An entry is the last part of a stream's name, or a pattern (``meter-*``).

A gateway's configuration has such a list for each destination. A platform or a verifier has its own list. Here only
the verifier's own list is used, so nothing that a gateway sends can shorten it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Final

from .strict import shown
from .topics import GATEWAY, NAME

ALWAYS: Final = "_gateway"  # the stream of the gateway's own events, which is always expected
_NAME: Final = re.compile(NAME)
# ``*`` stands for any characters, ``?`` for one
PATTERN: Final = re.compile(r"[A-Za-z0-9_*?][A-Za-z0-9_.:*?-]{0,63}\Z")


def is_asked(name: str, patterns: Collection[str]) -> bool:
    """True if a stream was requested. If ``patterns`` is empty, all streams are requested.

    ``name``: the last part of the stream's name.
    """
    return not patterns or name == ALWAYS or any(fnmatchcase(name, pattern) for pattern in patterns)


class AgreedStreams:
    """The streams that a verifier requests, as agreed with the operators of the gateways.

    Args:
        entries: names and patterns. ``park7/gw01=inv1`` applies only to that gateway, ``inv1`` to each gateway. If no
            entry applies to a gateway, all its streams are requested.

    Raises:
        ValueError: an entry is neither a name nor a pattern.
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
        """Return all entries, sorted."""
        own = (f"{gateway}={pattern}" for gateway, patterns in self._of_gateway.items() for pattern in patterns)
        return sorted({*own, *self._everywhere})

    def has_list(self, gateway: str) -> bool:
        """True if only some streams of this gateway were requested."""
        return bool(self._everywhere or gateway in self._of_gateway)

    @property
    def gateways(self) -> frozenset[str]:
        """The gateways that are named in entries."""
        return frozenset(self._of_gateway)

    def names(self, stream: str) -> bool:
        """True if an entry matches this stream, ``<site>/<gateway>/<name>``."""
        gateway, _, name = stream.rpartition("/")
        return any(fnmatchcase(name, own) for own in (*self._everywhere, *self._of_gateway.get(gateway, ())))

    def asked(self, stream: str) -> bool:
        """True if this stream was requested."""
        gateway, _, name = stream.rpartition("/")
        return not self.has_list(gateway) or name == ALWAYS or self.names(stream)

    def unheard(self, known: Collection[str], gateways: Collection[str], every: bool) -> list[str]:
        """Return the agreed names that are not in ``known``, sorted.

        Patterns are left out, because they name no stream.

        Args:
            known: the streams that packs or checkpoints name.
            gateways: only agreed names of these gateways are returned.
            every: True if ``gateways`` contains all gateways. Then entries without a gateway are returned too. Their
                stream can belong to any gateway.
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
