"""One message, judged alone: what it proves by itself, and what can only be told beside its neighbours.

The verdict is that of ``agent.verify``; this module adds where keys and point tables come from, and turns the result
into what ``store`` writes. Any worker may judge any message, in any order.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from time import monotonic
from typing import Any, Final, Protocol

from agent.verify.checkpoint import NamedHead, read_page
from agent.verify.jws import TYP_CHECKPOINT, TYP_PACK
from agent.verify.keyring import KeyRing, Unpinned
from agent.verify.pack import STREAM, Pack, read_pack
from agent.verify.point_table import Gap, PointTable
from agent.verify.readings import check_units
from agent.verify.signed import Signed, check_signed, find_signature, payload_of
from agent.verify.strict import (
    MAX_LOOSE_BYTES,
    MAX_LOOSE_ITEMS,
    MAX_OBJECT_BYTES,
    Columns,
    Refused,
    inflate,
    parse_columns,
    parse_object,
)

PREFIX: Final = "meterhouse/v1/"
MAX_RINGS, MAX_TABLES, MAX_BIRTHS = 20_000, 20_000, 200_000  # kept in memory by one worker; others are asked for again
ASK_AGAIN_S: Final = 5.0  # a gateway that was not known is looked up at most this often


class NotYet(Exception):
    """This message needs a key or a birth that may still be on its way: ``what`` says which."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code, self.what = code, what


class UnknownGateway(Exception):
    """Nobody enrolled this gateway."""

    def __init__(self, gateway: str) -> None:
        super().__init__(gateway)
        self.gateway = gateway


class Directory(Protocol):
    """What a worker asks the database of a gateway. Raises psycopg.Error while that is away."""

    def pins(self, gateway: str) -> list[str]:
        """Trusted thumbprints; none: not enrolled."""

    def keys(self, gateway: str) -> bytes | None:
        """Its newest keys object."""

    def points(self, birth: str) -> dict[str, Any] | None:
        """The table of a birth, by the birth's hash."""


@dataclass(slots=True)
class JudgedPack:
    """A pack whose signature holds. ``due`` is None while its birth or another part is not known."""

    pack: Pack
    body: bytes
    gateway: str
    codes: list[str]  # of rules that it breaks by itself
    points: dict[str, Any] | None = None  # of a birth
    readings: int = 0
    due: int | None = None
    gaps: int = 0
    asleep: int = 0
    reasons: dict[str, int] = field(default_factory=dict)  # of these gaps
    results: list[dict[str, Any]] = field(default_factory=list)  # of _indicators


@dataclass(slots=True)
class JudgedKeys:
    """A keys object that continues what is known. ``revoked`` tells the last trusted sequence by signer and stream."""

    gateway: str
    body: bytes
    counter: int
    revoked: dict[int, dict[str, int]]


@dataclass(slots=True)
class JudgedPage:
    """A page of a checkpoint."""

    gateway: str
    body: bytes
    page: int
    pages: int
    counter: int
    digest: bytes
    time_ms: int
    signer: int
    heads: list[NamedHead]


@dataclass(slots=True)
class JudgedStatus:
    """A gateway's unsigned status: a hint about its version, never evidence."""

    gateway: str
    online: bool
    version: str
    ack_lists: bool


Judged = JudgedPack | JudgedKeys | JudgedPage | JudgedStatus


class Judge:
    """Judges messages one by one; keeps keys and tables that it has needed.

    Args:
        directory: answers from the database of the gateway at hand.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._rings: OrderedDict[str, KeyRing] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()  # gateway -> when it was looked up in vain
        self._tables: OrderedDict[bytes, PointTable] = OrderedDict()  # births of equal points share one
        self._births: OrderedDict[str, PointTable] = OrderedDict()
        self._audited: OrderedDict[str, None] = OrderedDict()  # births of which one pack was canonicalised

    def judge(self, topic: str, raw: bytes, *, patient: bool = True) -> Judged | None:
        """None: not a message of ours.

        Args:
            patient: raise NotYet where the birth is not known, in place of a pack whose completeness is open.

        Raises:
            Refused: nothing of it can be trusted.
            UnknownGateway: its keys are not trusted by anybody.
            NotYet: a key, or a birth, may still be on its way.
        """
        parts = topic.removeprefix(PREFIX).split("/")
        if not topic.startswith(PREFIX) or not all(parts):
            return None
        if len(parts) == 3 and parts[2] == "status":
            return _status("/".join(parts[:2]), raw)
        if len(parts) == 3 and parts[2] == "keys":
            return self._keys("/".join(parts[:2]), inflate(raw, MAX_OBJECT_BYTES))
        if len(parts) == 4 and parts[2] == "checkpoint":
            return self._page("/".join(parts[:2]), parts[3], inflate(raw, MAX_OBJECT_BYTES))
        if len(parts) == 4 and parts[3] in ("readings", "backfill"):
            return self._pack("/".join(parts[:3]), inflate(raw), patient)
        return None

    def forget_all(self) -> None:
        """What was learned from messages may not be in the database: ask again."""
        for kept in (self._rings, self._asked, self._births, self._audited):
            kept.clear()

    def _ring(self, gateway: str) -> KeyRing:
        ring = self._rings.get(gateway)
        if ring is not None:
            self._rings.move_to_end(gateway)
            return ring
        if monotonic() - self._asked.get(gateway, -ASK_AGAIN_S) < ASK_AGAIN_S:
            raise UnknownGateway(gateway)
        if not (pins := self._directory.pins(gateway)):
            self._note_unknown(gateway)
            raise UnknownGateway(gateway)
        ring = KeyRing(gateway, pins)
        if keys := self._directory.keys(gateway):
            ring.update(keys, parse_object(keys))
        _keep(self._rings, gateway, ring, MAX_RINGS)
        return ring

    def _note_unknown(self, gateway: str) -> None:
        _keep(self._asked, gateway, monotonic(), MAX_RINGS)

    def _renew(self, gateway: str, ring: KeyRing) -> None:
        """The database may know newer keys than this worker."""
        if monotonic() - self._asked.get(gateway, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return
        self._note_unknown(gateway)
        if keys := self._directory.keys(gateway):
            ring.update(keys, parse_object(keys), unordered=True)

    def _signed(self, raw: bytes, ring: KeyRing, typ: str) -> tuple[Signed, Columns | None]:
        """The object behind a signature. Bytes that no key of the gateway signed must be small to be parsed at all."""
        if not ring.keys:
            self._renew(ring.gateway, ring)
        found = find_signature(raw, ring.keys)
        if found is not None and found.key is None:
            self._renew(ring.gateway, ring)
            found = find_signature(raw, ring.keys)
            if found is None or found.key is None:
                raise NotYet("kid", "signed by a key that is in no key record of its gateway")
        if found and found.payload is not None:
            value, columns = parse_columns(raw, records="e")
        else:
            value, columns = parse_columns(raw, MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS, "e")
        return check_signed(raw, value, typ, ring.keys, found), columns

    def _keys(self, gateway: str, raw: bytes) -> JudgedKeys:
        value = parse_object(raw, MAX_OBJECT_BYTES)
        if value.get("gateway") != gateway:
            raise Refused("topic", f"keys object of another gateway published at {gateway}: replayed across topics")
        ring = self._ring(gateway)
        try:
            ring.update(raw, value)
        except Unpinned:
            raise UnknownGateway(gateway) from None
        return judged_keys(ring, raw, value)

    def _page(self, gateway: str, number: str, raw: bytes) -> JudgedPage:
        ring = self._ring(gateway)
        signed, _ = self._signed(raw, ring, TYP_CHECKPOINT)
        if signed.value.get("gateway") != gateway:
            raise Refused("topic", f"checkpoint of another gateway published at {gateway}: replayed across topics")
        page, heads = read_page(signed, gateway)
        if number != str(page.number):
            raise Refused("topic", f"page {page.number} of a checkpoint published at page {number[:20]}")
        for head in heads:
            ring.check_revoked(signed.key.kid, head.stream, head.head[1])
        signer = ring.order[signed.key.kid]
        return JudgedPage(
            gateway, raw, page.number, page.pages, page.counter, signed.digest, page.time_ms, signer, heads
        )

    def _pack(self, stream: str, raw: bytes, patient: bool) -> JudgedPack:
        if not STREAM.fullmatch(stream):
            raise Refused("topic", "no name of a stream in the topic, expected <site>/<gateway>/<name>")
        gateway = stream.rpartition("/")[0]
        ring = self._ring(gateway)
        signed, columns = self._signed(raw, ring, TYP_PACK)
        if signed.value.get("stream") != stream:
            raise Refused("topic", f"pack of another stream published at {stream}: replayed across topics")
        pack = read_pack(signed, ring.order[signed.key.kid], columns)
        ring.check_revoked(signed.key.kid, stream, pack.link.seq)
        made = JudgedPack(pack, raw, gateway, ["rule"] if pack.faults else [], readings=len(pack.records.names))
        if pack.table is not None:
            made.points = {"points": signed.value["table"]["points"], "epoch": signed.value["table"].get("epoch")}
            _keep(self._births, pack.link.birth, self._share(made.points), MAX_BIRTHS)
        if stream.endswith("/_indicators"):
            results = signed.value.get("results", [])
            made.results = [one for one in results if isinstance(one, dict)] if isinstance(results, list) else []
        table = self._table(pack.link.birth)
        if table is None:
            if patient:
                raise NotYet("birth", f"its birth {pack.link.birth} is not known")
            return made
        self._check_form(made, signed, table)
        if pack.link.part is None and not made.codes:
            settle(made, table, pack.records.names, pack.gaps)
        elif made.codes:
            made.due = 0  # nothing of it counts
        return made

    def _check_form(self, made: JudgedPack, signed: Signed, table: PointTable) -> None:
        """Units of all records; the canonical form once a birth, as an error in it appears in all packs of that birth."""
        link = made.pack.link
        if check_units(made.pack.records.pairs, table):
            made.codes = ["rule"]
        if link.is_birth or link.birth not in self._audited:
            if not link.is_birth:
                _keep(self._audited, link.birth, None, MAX_BIRTHS)
            if payload_of(signed.value) != signed.payload:
                made.codes = ["rule"]

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


def settle(made: JudgedPack, table: PointTable, names: list[str], gaps: tuple[Gap, ...]) -> None:
    """Compare the readings and gaps of one pack, or of all parts of a tick, with what was due; fills in ``made``."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    link = made.pack.link
    balance = table.balance(counts, gaps, link.from_ms, link.to_ms)
    if balance.faults:
        made.codes, made.due = ["due"], 0
        return
    made.due, made.gaps = balance.due, sum(balance.gaps.values())
    made.asleep, made.reasons = balance.gaps.get("asleep", 0), balance.gaps


def judged_keys(ring: KeyRing, raw: bytes, value: dict[str, Any]) -> JudgedKeys:
    """A keys object that ``ring`` has taken."""
    places = ring.order
    revoked = {places[kid]: dict(last) for kid, last in ring.revoked.items() if kid in places}
    return JudgedKeys(ring.gateway, raw, value["counter"], revoked)


def points_hash(value: dict[str, Any]) -> bytes:
    """The name of a point table: births with equal points share one."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()


def _status(gateway: str, raw: bytes) -> JudgedStatus | None:
    try:
        value = parse_object(raw, 4096)
    except Refused:
        return None
    version, accepts = value.get("version"), value.get("accepts")
    lists = isinstance(accepts, list) and "acks" in accepts
    return JudgedStatus(gateway, value.get("state") == "online", str(version)[:40] if version else "", lists)


def _keep(kept: OrderedDict[Any, Any], key: object, value: object, most: int) -> None:
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)

