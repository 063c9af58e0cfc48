"""Checks one message alone, without other packs of its stream. The keeper checks the seams between packs later.

The verdict comes from ``agent.verify.check``; this module provides the keys and point tables that it needs. Any worker
may check any message, in any order.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from agent.verify import (
    Balance,
    CheckedPack,
    CheckedPage,
    KeyRing,
    PointTable,
    Refusal,
    Refused,
    Topic,
    check,
    check_checkpoint,
    split_topic,
)
from agent.verify.keyring import Unpinned
from agent.verify.strict import MAX_OBJECT_BYTES, inflate, parse_object
from agent.verify.topics import GATEWAY, PREFIX
from drivers.model import clean_text

# A worker keeps at most this many entries in memory. Beyond that, the oldest are dropped and queried again when needed.
MAX_RINGS, MAX_TABLES, MAX_BIRTHS = (
    20_000,
    20_000,
    200_000,
)
ASK_AGAIN_S: Final = 5.0  # minimum time between two lookups of an unknown gateway
MAX_STATUS: Final = 4096
# A pack that states more due readings gets a finding. Even a thousand points per second would take three years.
MAX_DUE: Final = 10**11
T = TypeVar("T")


class NotYet(Exception):
    """The message needs a key or a birth that is not there yet, but may still arrive."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class UnknownGateway(Exception):
    """The gateway is not enrolled."""

    def __init__(self, gateway: str) -> None:
        super().__init__(gateway)
        self.gateway = gateway


class Directory(Protocol):
    """The queries of a worker about gateways. Each method raises psycopg.Error while the database cannot be reached."""

    def pins(self, gateway: str) -> list[str]:
        """The trusted thumbprints of a gateway. An empty list if the gateway is not enrolled."""

    def keys(self, gateway: str) -> Sequence[bytes]:
        """The newest ``keys`` object of each chain of a gateway. Empty if the database has none."""

    def points(self, birth: str) -> dict[str, Any] | None:
        """The point table of a birth. ``birth`` is the hash of the birth. None if the birth is not stored."""


@dataclass(slots=True)
class PackMessage:
    """A pack with a valid signature.

    ``balance`` is None as long as the pack's birth, or another part of the pack's tick, is missing.
    """

    checked: CheckedPack
    body: bytes
    balance: Balance | None
    codes: list[str] = field(default_factory=list)  # codes of rules that this pack breaks, regardless of other packs

    @property
    def points(self) -> dict[str, Any] | None:
        """The point table of a birth, with which the completeness of later packs is checked. None for other packs."""
        return points_of(self.checked) if self.checked.link.is_birth else None


@dataclass(slots=True)
class KeysMessage:
    """A keys object that was accepted.

    ``revoked``: place of a revoked key in the gateway's chain of keys -> last trusted sequence of each stream.
    """

    gateway: str
    body: bytes
    counter: int
    revoked: dict[int, dict[str, int]]


@dataclass(slots=True)
class PageMessage:
    """A page of a checkpoint. ``signer``: place of the signing key in the gateway's chain of keys."""

    page: CheckedPage
    body: bytes
    signer: int


@dataclass(slots=True)
class StatusMessage:
    """The status message of a gateway. It is not signed, so it is never evidence, only a hint."""

    gateway: str
    online: bool
    version: str
    ack_lists: bool


AnyMessage = PackMessage | KeysMessage | PageMessage | StatusMessage


class Checker:
    """Checks messages one by one, and caches keys and point tables.

    Args:
        directory: answers queries for keys and point tables from the database.
        clock: monotonic seconds.
    """

    def __init__(self, directory: Directory, clock: Callable[[], float] = monotonic) -> None:
        self._directory, self._clock = directory, clock
        self._rings: OrderedDict[str, KeyRing] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()  # gateway -> time of the last lookup of its keys or pins
        self._tables: OrderedDict[bytes, PointTable] = OrderedDict()  # the key is the ``points_hash`` of the table
        self._births: OrderedDict[str, PointTable] = OrderedDict()

    def check(self, topic: str, raw: bytes, *, patient: bool = True) -> AnyMessage | None:
        """Check one message. None: the platform does not store messages of this topic.

        Args:
            patient: if the birth of a pack is unknown, True raises NotYet, and False returns the pack with ``balance``
            None.

        Raises:
            Refused: the message cannot be trusted.
            UnknownGateway: no key of the gateway is trusted.
            NotYet: the message needs a key or a birth that may still arrive.
        """
        place = split_topic(topic)
        if place is None:
            parts = topic.removeprefix(PREFIX).split("/")
            is_status = topic.startswith(PREFIX) and len(parts) == 3 and parts[2] == "status"
            gateway = "/".join(parts[:2])
            return _status(gateway, raw) if is_status and GATEWAY.fullmatch(gateway) else None
        if not GATEWAY.fullmatch(place.gateway):
            return None  # the topic has an invalid gateway name
        if place.kind == "keys":
            return self._keys(place, raw)
        ring = self._ring(place.gateway)
        if place.kind == "checkpoint":
            page = self._with_new_keys(ring, lambda: check_checkpoint(raw, topic, ring))
            return PageMessage(page, inflate(raw, MAX_OBJECT_BYTES), ring.order[page.kid])
        if place.kind == "birth":
            return None  # a retained copy is not needed: the birth itself also arrives as a pack
        return self._pack(raw, topic, ring, patient)

    def forget_all(self) -> None:
        """Clear the caches of keys and births. They may contain data of messages that the database did not store."""
        for kept in (self._rings, self._asked, self._births):
            kept.clear()

    def _ring(self, gateway: str) -> KeyRing:
        ring = self._rings.get(gateway)
        if ring is not None:
            return ring
        if not self._may_ask(gateway):
            raise UnknownGateway(gateway)
        if not (pins := self._directory.pins(gateway)):
            raise UnknownGateway(gateway)
        ring = KeyRing(gateway, pins)
        self._take_keys(ring)
        _keep(self._rings, gateway, ring, MAX_RINGS)
        return ring

    def _may_ask(self, gateway: str) -> bool:
        now = self._clock()
        if now - self._asked.get(gateway, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return False
        _keep(self._asked, gateway, now, MAX_RINGS)
        return True

    def _take_keys(self, ring: KeyRing) -> bool:
        """Add newer keys that another worker has stored to ``ring``. Returns True if there were any."""
        return add_chains(ring, self._directory.keys(ring.gateway))

    def _with_new_keys(self, ring: KeyRing, judge: Callable[[], T | Refusal]) -> T:
        """Call ``judge`` and return its result. If it does not know the key, read the keys from the database and call
        it again.
        """
        result = judge()
        if isinstance(result, Refusal) and result.wait and self._may_ask(ring.gateway) and self._take_keys(ring):
            result = judge()
        if isinstance(result, Refusal):
            if result.wait:
                raise NotYet(result)
            raise Refused(result.code, result.text)
        return result

    def _keys(self, place: Topic, raw: bytes) -> KeysMessage:
        ring = self._ring(place.gateway)
        plain = inflate(raw, MAX_OBJECT_BYTES)
        value = parse_object(plain, MAX_OBJECT_BYTES)
        try:
            # unordered, because another worker may have stored a newer object: an older object is not a fault here
            ring.update(plain, value, unordered=True)
        except Unpinned:
            raise UnknownGateway(place.gateway) from None
        except Refused as error:
            # the keys of a replacement box wait in the list of unknown gateways until they are enrolled
            if error.code in ("key-chain", "counter") and ring.is_foreign(value):
                raise UnknownGateway(place.gateway) from None
            raise
        return keys_message(ring, plain, value)

    def _pack(self, raw: bytes, topic: str, ring: KeyRing, patient: bool) -> PackMessage:
        raw = inflate(raw)
        pack = self._with_new_keys(ring, lambda: check(raw, topic, ring, self._table))
        birth = pack.link.birth
        codes = [*dict.fromkeys(fault.code for fault in pack.faults), *implausible(pack.balance)]
        made = PackMessage(pack, raw, pack.balance, codes)
        if pack.table is not None and made.points is not None:
            _keep(self._births, birth, self._share(made.points), MAX_BIRTHS)
        elif pack.unjudged == "birth" and patient:
            raise NotYet(Refusal("birth", f"its birth {birth} is not known"))
        return made

    def _table(self, birth: str) -> PointTable | None:
        table = self._births.get(birth)
        if table is None and (value := self._directory.points(birth)):
            table = self._share(value)
            _keep(self._births, birth, table, MAX_BIRTHS)
        return table

    def _share(self, value: dict[str, Any]) -> PointTable:
        key = points_hash(value)
        table = self._tables.get(key)
        if table is None:
            table = PointTable(value)
            _keep(self._tables, key, table, MAX_TABLES)
        return table


def add_chains(ring: KeyRing, chains: Iterable[bytes]) -> bool:
    """Add stored keys objects, one of each chain, to ``ring``. Returns True if there was anything new.

    A chain is left out if none of its keys is trusted any more: the keys that belong to a new thumbprint have not
    arrived yet.
    """
    found = False
    for raw in chains:
        with suppress(Unpinned):
            found = ring.update(raw, parse_object(raw), unordered=True) or found
    return found


def keys_message(ring: KeyRing, raw: bytes, value: Mapping[str, Any]) -> KeysMessage:
    """The message for a keys object that ``ring`` has accepted."""
    places = ring.order
    revoked = {places[kid]: dict(last) for kid, last in ring.revoked.items() if kid in places}
    return KeysMessage(ring.gateway, raw, value["counter"], revoked)


def implausible(balance: Balance | None) -> list[str]:
    """Return [``implausible``] if a pack states so many due readings that it would distort every total. Otherwise
    [].
    """
    return ["implausible"] if balance is not None and balance.due > MAX_DUE else []


def points_of(birth: CheckedPack) -> dict[str, Any]:
    """The part of a birth's point table that the database stores."""
    table = birth.value["table"]
    return {"epoch": table.get("epoch"), "points": table["points"]}


def points_hash(value: Mapping[str, Any]) -> bytes:
    """A hash that identifies a point table. With it, births with equal points share one row of the database."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()


def _status(gateway: str, raw: bytes) -> StatusMessage | None:
    try:
        value = parse_object(raw, MAX_STATUS)
    except Refused:
        return None
    version, accepts = value.get("version"), value.get("accepts")
    lists = isinstance(accepts, list) and "acks" in accepts
    return StatusMessage(
        gateway, value.get("state") == "online", clean_text(version, 40) if isinstance(version, str) else "", lists
    )


def _keep(kept: OrderedDict[Any, Any], key: object, value: object, most: int) -> None:
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)
