"""The verifier: give it what was received, ask it for the verdict."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from agent.verify.checkpoint import Checkpoints
from agent.verify.history import Place
from agent.verify.judge import add_up, judge
from agent.verify.jws import TYP_PACK
from agent.verify.keyring import KeyRing, Unpinned
from agent.verify.pack import Pack, check_units, read_pack
from agent.verify.quick import Quick, Sketch
from agent.verify.report import Fault, Faults, Report, Verdict, held_back, latest
from agent.verify.signed import Signed, check_signed, check_sketched
from agent.verify.stream import StreamState
from agent.verify.strict import MAX_OBJECT_BYTES, Refused, Unread, inflate, parse_object

MAX_HELD: Final = 1000  # objects that came before the keys that they need
MAX_HELD_BYTES: Final = 16 << 20
MAX_EARLY: Final = 20
MAX_GATEWAYS: Final = 1000
MAX_STREAMS: Final = 10_000  # about 30 KB each
PREFIX: Final = "meterhouse/v1/"


class Outcome(Enum):
    """What became of one object."""

    VERIFIED = "verified"  # a pack that holds as far as can be checked now
    REDELIVERED = "redelivered"
    FAILED = "failed"
    HELD = "held"  # its key is not known yet
    UNREAD = "unread"  # a package is missing here, see the report's reasons
    TAKEN = "taken"  # keys, a checkpoint, a retained birth
    IGNORED = "ignored"  # a topic without signed objects


class Verifier:
    """Takes packs, keys and checkpoints of any number of gateways, in any order, for any time.

    Not safe for use by several threads at once.

    Args:
        trust: thumbprints got out of band, one key of each chain; ``park7/gw01=<thumbprint>`` for that gateway alone.
            Without any nothing proves the origin.
    """

    def __init__(self, trust: Iterable[str] = ()) -> None:
        self._trust = frozenset(trust)
        self._only: set[str] = set()
        self._rings: dict[str, KeyRing] = {}
        self._streams: dict[str, StreamState] = {}
        self._checkpoints = Checkpoints()
        self._quick = Quick()
        self._held: deque[tuple[bytes, str | None, str, str]] = deque()
        self._held_bytes = 0
        self._early: list[tuple[bytes, dict[str, Any], str, str]] = []  # keys objects without a pinned key
        self._faults = Faults()  # of what belongs to no stream, or whose signature does not hold
        self._first_bad: Fault | None = None
        self._read: set[str] | None = None  # in files: gateways whose keys object came in the one that is being read
        self._unread: dict[str, int] = {}  # why -> objects or files
        self.bad_signatures = 0

    def narrow(self, names: Iterable[str]) -> None:
        """Files are of these streams only (last parts of their names): others may be held back."""
        self._only.update(names)

    def new_file(self) -> None:
        """What comes now lies in a file of its own: nothing says that it was published after what is known."""
        self._read = set()
        self._checkpoints.new_file()

    def feed(self, raw: bytes, topic: str | None = None, where: str = "") -> Outcome:
        """Take one received object; a fault in it is counted, never raised.

        Args:
            raw: the published bytes, compressed or not.
            topic: where it was published; None for files, then nothing binds it to a topic.
            where: file and line, for messages.
        """
        parts = topic.removeprefix(PREFIX).split("/") if topic is not None else []
        if topic is not None and not _signed_topic(topic, parts):
            return Outcome.IGNORED
        value: dict[str, Any] = {}
        try:
            raw = inflate(raw)
            if (sketch := self._quick.read(raw)) is not None:
                value = sketch.value  # for the message, should it be refused
                outcome = self._take_sketched(raw, sketch, topic, parts, where or topic or "")
                if outcome is not None:
                    return outcome
            value = parse_object(raw)
            return self._route(raw, value, topic, parts, where or topic or "")
        except Refused as error:
            self._refuse(error, value, where or topic or "")
            return Outcome.UNREAD if isinstance(error, Unread) else Outcome.FAILED

    def refuse(self, error: Refused, where: str) -> None:
        """Count something that could not even be read, such as a damaged file."""
        self._refuse(error, {}, where)

    def counts(self) -> tuple[int, int, int]:
        """(packs, readings, failed) so far, without a look at what is missing."""
        each = [state.counts() for state in self._streams.values()]
        packs, readings, failed = (sum(column) for column in zip(*each, strict=True)) if each else (0, 0, 0)
        return packs, readings, failed + self._faults.count

    def report(self, now_ms: float | None = None) -> Report:
        """The verdict on all that was taken so far. May be asked at any time; it costs a look at every stream.

        Args:
            now_ms: UTC where it is known, to tell what is late from what is still arriving; else the packs say.
        """
        return self._report(now_ms or 0)

    def _report(self, now_ms: float) -> Report:
        rings, ended = self._rings, math.isinf(now_ms)
        states = sorted(self._streams.items())
        streams = {name: state.report(ended, rings.get(name.rpartition("/")[0])) for name, state in states}
        total = Report(Verdict.VERIFIED, [], {ring.gateway: ring.first for ring in self._rings.values()}, streams)
        total.bad_signatures = self.bad_signatures
        total.checkpoints = self._checkpoints.count
        until_ms = latest(streams)
        total.checkpointed = self._checkpoints.newest_ms(rings)
        total.beyond = {
            name: max(0, until_ms[name] - ms) for name, ms in total.checkpointed.items() if name in until_ms
        }
        total.withheld = held_back(streams, self._only)
        total.only = sorted(self._only)
        total.torn_checkpoints = self._checkpoints.torn(
            rings, {gateway: max(now_ms, until_ms.get(gateway, now_ms)) for gateway in rings}
        )
        total.held = len(self._held)
        add_up(total, self._faults, self._first_bad)
        used = {name.rpartition("/")[0] for name in streams}
        proven = all(ring.proven for gateway, ring in rings.items() if gateway in used)
        judge(total, self._unread, self._checkpoints.forgotten, proven)
        return total

    def _route(self, raw: bytes, value: dict[str, Any], topic: str | None, parts: list[str], where: str) -> Outcome:
        kind = parts[2] if parts else "keys" if "records" in value else "checkpoint" if "heads" in value else ""
        if kind == "keys":
            return self._take_keys(raw, value, "/".join(parts[:2]), where)
        if kind == "checkpoint":
            return self._take_checkpoint(raw, value, topic, parts, where)
        return self._take_pack(raw, value, topic, parts, where)

    def _take_keys(self, raw: bytes, value: dict[str, Any], bound: str, where: str) -> Outcome:
        if len(raw) > MAX_OBJECT_BYTES:
            raise Refused("size", f"a keys object of {len(raw)} bytes, at most {MAX_OBJECT_BYTES} are read")
        gateway = value.get("gateway")
        if not isinstance(gateway, str) or not 1 <= len(gateway) <= 130:
            raise Refused("shape", f"keys object of gateway {gateway!r}")
        if bound and bound != gateway:
            raise Refused("topic", f"keys object of {gateway} published at {bound}: replayed across topics")
        ring = self._rings.get(gateway) or KeyRing(gateway, self._trust)
        try:
            news = ring.update(raw, value, unordered=self._read is not None and gateway not in self._read)
        except Unpinned:
            if gateway in self._rings or len(self._early) >= MAX_EARLY:
                raise
            self._early.append((raw, value, where, gateway))  # the chain may go on to a key that is pinned
            return Outcome.HELD
        if self._read is not None:
            self._read.add(gateway)
        if news:
            if gateway not in self._rings and len(self._rings) >= MAX_GATEWAYS:
                raise Refused("size", f"more than {MAX_GATEWAYS} gateways")
            self._rings[gateway] = ring
            self._settle_early(gateway)
            self._release(gateway)
        return Outcome.TAKEN

    def _settle_early(self, gateway: str | None = None) -> None:
        """A pinned chain is here, or will never be: what came before is part of it, or refused."""
        waiting, self._early = self._early, []
        for raw, value, where, owner in waiting:
            if gateway not in (None, owner):
                self._early.append((raw, value, where, owner))
                continue
            ring = self._rings.get(owner) or KeyRing(owner, self._trust)
            try:
                ring.update(raw, value)
            except Refused as error:
                self._refuse(error, value, where)

    def _take_checkpoint(
        self, raw: bytes, value: dict[str, Any], topic: str | None, parts: list[str], where: str
    ) -> Outcome:
        if len(raw) > MAX_OBJECT_BYTES:
            raise Refused("size", f"a checkpoint page of {len(raw)} bytes, at most {MAX_OBJECT_BYTES} are read")
        gateway = value.get("gateway")
        if not isinstance(gateway, str):
            raise Refused("shape", f"checkpoint of gateway {gateway!r}")
        if parts and ("/".join(parts[:2]) != gateway or parts[3] != str(value.get("page"))):
            raise Refused("topic", f"checkpoint page {value.get('page')} of {gateway} published at {topic}")
        ring = self._rings.get(gateway)
        if ring is None:
            return self._hold(raw, topic, where, gateway)
        for named in self._checkpoints.take(raw, value, ring, filed=topic is None):
            self._state(named.stream).head(named, ring)
        return Outcome.TAKEN

    def _take_pack(self, raw: bytes, value: dict[str, Any], topic: str | None, parts: list[str], where: str) -> Outcome:
        stream = value.get("stream")
        if not isinstance(stream, str) or len(stream) > 200:
            raise Refused("shape", f"stream {str(stream)[:80]!r}, <site>/<gateway>/<name> is wanted")
        gateway = stream.rpartition("/")[0]
        ring = self._rings.get(gateway)
        if ring is None:
            return self._hold(raw, topic, where, gateway)
        try:
            signed = check_signed(raw, value, TYP_PACK, ring.keys)
        except Refused as error:
            if error.code == "kid":  # a new key may be on its way
                return self._hold(raw, topic, where, gateway)
            raise
        if topic is not None and stream != "/".join(parts[:3]):
            raise Refused("topic", f"pack of {stream} published at {topic}: replayed across topics")
        pack = read_pack(signed, ring.order[signed.key.kid])
        ring.check_revoked(signed.key.kid, stream, pack.edge.seq)
        if not signed.rewritten:
            self._quick.learn(raw, value)
        state = self._state(stream)
        if parts and parts[3] == "birth":
            return self._take_retained(state, pack)
        return self._book(state, pack, signed, where)

    def _take_sketched(
        self, raw: bytes, sketch: Sketch, topic: str | None, parts: list[str], where: str
    ) -> Outcome | None:
        """As ``_take_pack``; None, and nothing has happened, where anything is not as usual: the long way says what."""
        stream = sketch.value["stream"]
        ring = self._rings.get(stream.rpartition("/")[0])
        if ring is None or (parts and (stream != "/".join(parts[:3]) or parts[-1] not in ("readings", "backfill"))):
            return None
        if parts and parts[2] == "checkpoint":  # no device is called so, and a topic that begins so has checkpoints
            return None
        signed = check_sketched(raw, sketch.value, TYP_PACK, ring.keys)
        if signed is None:
            return None
        try:
            pack = read_pack(signed, ring.order[signed.key.kid], sketch)
            ring.check_revoked(signed.key.kid, stream, pack.edge.seq)
        except Refused:
            return None
        state = self._state(stream)
        table = state.tables.get(pack.edge.birth)
        if table and not (table.suits(sketch.units) and not check_units(sketch.records, table)):
            return None
        return self._book(state, pack, signed, where)

    def _book(self, state: StreamState, pack: Pack, signed: Signed, where: str) -> Outcome:
        place, holds = state.take(pack, signed, where)
        self._first_bad = self._first_bad or state.first_fault
        if place in (Place.AGAIN, Place.AGAIN_OLD):
            return Outcome.REDELIVERED
        return Outcome.VERIFIED if holds else Outcome.FAILED

    def _state(self, stream: str) -> StreamState:
        state = self._streams.get(stream)
        if state is None:
            if len(self._streams) >= MAX_STREAMS:
                raise Refused("size", f"more than {MAX_STREAMS} streams")
            state = self._streams[stream] = StreamState(stream)
        return state

    def _take_retained(self, state: StreamState, pack: Pack) -> Outcome:
        """The copy of a birth on its own topic: it teaches the table, and is no pack of the stream."""
        if pack.table is None:
            raise Refused("shape", "the retained birth is no birth")
        _, kept = state.history.find(pack.edge.boot, pack.edge.seq)
        if kept and kept != pack.digest[:16]:
            raise Refused("fork", "the retained birth is not the pack that was published with this identity")
        state.know(pack.edge.hash, pack.table)
        return Outcome.TAKEN

    def _hold(self, raw: bytes, topic: str | None, where: str, gateway: str) -> Outcome:
        """Keep what came before its keys; the oldest is refused when there is too much of it."""
        self._held.append((raw, topic, where, gateway))
        self._held_bytes += len(raw)
        while len(self._held) > MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
            old, old_topic, old_where, old_gateway = self._held.popleft()
            self._held_bytes -= len(old)
            self._refuse(self._no_key(old_gateway), parse_object(old), old_where or old_topic or "")
        return Outcome.HELD

    def _release(self, gateway: str) -> None:
        """Its keys are here: take what waited for them."""
        waiting, self._held, self._held_bytes = self._held, deque(), 0
        for raw, topic, where, owner in waiting:
            if owner == gateway:
                self.feed(raw, topic, where)
            else:
                self._held.append((raw, topic, where, owner))
                self._held_bytes += len(raw)

    def finish(self, now_ms: float | None = None) -> Report:
        """The last verdict: what still waits for its key is refused now.

        Args:
            now_ms: UTC, where one stopped listening while more may have been on its way.
        """
        self._settle_early()
        for raw, topic, where, gateway in self._held:
            self._refuse(self._no_key(gateway), parse_object(raw), where or topic or "")
        self._held.clear()
        self._held_bytes = 0
        return self._report(math.inf if now_ms is None else now_ms)

    def _no_key(self, gateway: str) -> Refused:
        if gateway in self._rings:
            return Refused("kid", f"signed by a key that no key record of {gateway} names")
        return Refused("kid", f"no keys object of {gateway} that could be trusted was seen")

    def _refuse(self, error: Refused, value: dict[str, Any], where: str) -> None:
        if isinstance(error, Unread):
            self._unread[error.text] = self._unread.get(error.text, 0) + 1
            return
        stream, boot, seq = value.get("stream"), value.get("boot"), value.get("seq")
        fault = Fault(
            error.code,
            error.text,
            stream if isinstance(stream, str) and len(stream) <= 200 else "",
            boot if isinstance(boot, str) and len(boot) == 16 else "",
            seq if type(seq) is int and 0 < seq < 1 << 53 else 0,
            where,
        )
        self.bad_signatures += error.code in _SIGNATURE_CODES
        self._first_bad = self._first_bad or fault
        self._faults.add(fault)


_SIGNATURE_CODES: Final = frozenset(("signature", "header", "typ", "alg", "kid", "revoked"))


def _signed_topic(topic: str, parts: list[str]) -> bool:
    """keys, checkpoint/<page> or <stream>/readings, backfill, birth."""
    if not topic.startswith(PREFIX):
        return False
    if len(parts) == 3:
        return parts[2] == "keys"
    return len(parts) == 4 and (parts[2] == "checkpoint" or parts[3] in ("readings", "backfill", "birth"))
