"""The verifier. It is fed with received objects, and returns the verdict."""

from __future__ import annotations

import math
import re
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from .agreed import AgreedStreams
from .checkpoint import CheckpointPages
from .history import Arrival
from .jws import PublicKey
from .keyring import KeyRing, Unpinned, split_pin
from .report import Fault, Faults, Report, Verdict, held_back, latest
from .signed import FoundSignature, find_signature, parse_found
from .stateless import (
    CheckedPack,
    check_parsed,
    claimed_gateway,
    claims_of,
    gateway_of,
    identity_of,
    stream_of,
)
from .stream import StreamState, WaitingBytes
from .strict import MAX_REASON, Columns, MissingPackage, Refused, clean, count_items, inflate, shown
from .topics import GATEWAY, NAME, PREFIX, Topic, is_known_type, split_topic
from .verdict import LISTED, add_up, decide, shared_pins

MAX_HELD: Final = 1000  # limit of the objects that wait for their keys; beyond the limit, the oldest object is refused
MAX_HELD_BYTES: Final = 16 << 20
MAX_EARLY: Final = 20
MAX_GATEWAYS: Final = 1000
MAX_STREAMS: Final = 10_000  # limit of the streams; a stream takes about 30 KB
# limits, in objects and in bytes, of the valid objects that are kept to recognise copies
MAX_RECENT, MAX_RECENT_BYTES = 64, 4 << 20
MAX_WHERE: Final = 300  # only this many characters of a file's name or a topic are kept
# limit of the unknown content types that are counted, and of the characters that are kept of each
MAX_TYPES, MAX_TYPE = 20, 60
REFUSAL: Final = 100  # cost of a refused object, in addition to its brackets and commas
_MANY_KEYS: Final = "one file has too many `keys` objects that contain no pinned key"
_LAST: Final = re.compile(NAME)


class Outcome(Enum):
    """The verdict on one object."""

    VERIFIED = "verified"  # a pack without a fault so far
    REDELIVERED = "redelivered"
    FAILED = "failed"
    HELD = "held"  # the object waits, because its key is not known yet
    UNREAD = "unread"  # the Python package to read the object is missing; the report's reasons name it
    TAKEN = "taken"  # the object is valid, but does not count as a pack: keys, a checkpoint or a retained birth
    IGNORED = "ignored"  # no signed objects are published on the object's topic


@dataclass(slots=True)
class _Received:
    """A received object, and the facts that the verifier knows about it so far."""

    raw: bytes  # the bytes after decompression
    topic: str | None
    place: Topic | None  # None if the object is from a file
    where: str
    retained: bool
    found: FoundSignature | None = None
    value: dict[str, Any] = field(default_factory=dict)
    columns: Columns | None = None
    gateway: str = ""  # the gateway for whose keys the object waits
    kid: str = ""  # thumbprint of the key for which the object waits; "" if it is not known


class Verifier:
    """Takes packs, keys and checkpoints of any number of gateways, in any order, without a time limit.

    Only one thread at a time may use it.

    Args:
        trust: thumbprints obtained out of band, one for each chain of keys. ``park7/gw01=<thumbprint>`` is valid only
            for that gateway. With several gateways, each thumbprint needs a gateway name. Without thumbprints, nothing
            proves the origin.
        streams: names and patterns of the streams that were agreed, such as ``inv1`` or ``park7/gw01=meter-*``. If
            empty, all streams must be there. Neither a gateway nor a file can change this list.
        max_gateways: objects of more gateways are refused (code ``size``).
        max_streams: objects of more streams are refused (code ``size``); a stream takes about 30 KB of memory.

    Raises:
        ValueError: an entry of ``streams`` is neither a name nor a pattern.
    """

    def __init__(
        self,
        trust: Iterable[str] = (),
        *,
        streams: Iterable[str] = (),
        max_gateways: int = MAX_GATEWAYS,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self._agreed = AgreedStreams(streams)
        self._max_gateways, self._max_streams = max_gateways, max_streams
        self._trust = frozenset(trust)
        self._is_bare = any(not split_pin(pin)[0] for pin in self._trust)
        self._only: set[str] = set()
        self._rings: dict[str, KeyRing] = {}
        self._signers: dict[str, PublicKey] = {}  # thumbprint -> key, for the keys of all rings
        self._streams: dict[str, StreamState] = {}
        self._waiting: dict[str, WaitingBytes] = {}  # by gateway
        self._checkpoints = CheckpointPages()
        # Recent valid objects and their streams. They are kept so that a million copies of a short object cost little
        # time.
        self._recent: OrderedDict[tuple[bytes, str | None, bool], StreamState | None] = OrderedDict()
        self._recent_bytes = 0
        self._last_state: StreamState | None = None
        self._held: deque[_Received] = deque()
        self._held_bytes = 0
        # keys objects without a pinned key; they wait, because a later object may continue their chain to a pinned key
        self._early: list[tuple[bytes, str, str, Unpinned]] = []
        self._faults = Faults()  # faults of objects that belong to no stream, or have an invalid signature
        self._first_bad: Fault | None = None
        # gateways with a keys object in the current file; None: objects do not come from files
        self._read: set[str] | None = None
        self._unread: dict[str, int] = {}  # reason -> number of objects or files that could not be read
        self._cut_short: list[str] = []  # texts about files that were not read to the end
        self._content_types: dict[str, int] = {}
        self.bad_signatures = 0
        self.rejected_cost = 0  # cost of invalid objects; the reader of files stops at a limit
        self._thumbprints = [split_pin(pin)[1].encode() for pin in self._trust]
        # cost that keys objects without a pinned key may still have; further ones are not read. None: no limit
        self.keys_left: int | None = None

    def narrow(self, names: Iterable[str]) -> None:
        """Record that the export has only these streams (last parts of names). Other streams may be absent."""
        self._only.update(name for name in names if _LAST.fullmatch(name))

    def new_file(self) -> None:
        """Call this before each file, because objects of different files have no known order."""
        self._read = set()
        self._forget()
        self._checkpoints.new_file()

    def feed(self, raw: bytes, topic: str | None = None, where: str = "", *, retained: bool = False) -> Outcome:
        """Process one received object. Faults in the object are counted, never raised.

        Args:
            raw: the published bytes, compressed or not.
            topic: the topic of the object. None: the object is from a file, and is not checked against a topic.
            where: file and line, for messages.
            retained: True if the object is from a file with copies of retained births.
        """
        key = raw, topic, retained
        if key in self._recent:
            if state := self._recent[key]:
                state.count_duplicate()
            return Outcome.REDELIVERED
        self._last_state = None
        outcome = self._take(raw, topic, where, retained)
        if outcome in (Outcome.VERIFIED, Outcome.REDELIVERED, Outcome.TAKEN):
            self._remember(key, None if outcome is Outcome.TAKEN else self._last_state)
        return outcome

    def _remember(self, key: tuple[bytes, str | None, bool], state: StreamState | None) -> None:
        self._recent[key] = state
        self._recent_bytes += len(key[0])
        while len(self._recent) > MAX_RECENT or self._recent_bytes > MAX_RECENT_BYTES:
            (raw, *_), _ = self._recent.popitem(last=False)
            self._recent_bytes -= len(raw)

    def _forget(self) -> None:
        self._recent.clear()
        self._recent_bytes = 0

    def _take(self, raw: bytes, topic: str | None, where: str, retained: bool) -> Outcome:
        place = split_topic(topic) if topic is not None else None
        if topic is not None and place is None:
            return Outcome.IGNORED
        got = _Received(raw, topic, place, where or topic or "", retained)
        is_parsed = False
        try:
            got.raw = raw = inflate(raw)
            found = got.found = find_signature(raw, self._signers)
            if found and found.key is None and not _may_be_keys(raw, place) and (claims := _claims_of(raw, place)):
                got.value, got.kid = claims, found.kid
                return self._hold(got, claims["gateway"])
            if self._is_exhausted and self._is_unpinned(raw, place, found):
                return self._skip_keys(1)
            is_parsed = True
            got.value, got.columns = parse_found(raw, found)
            if retained and isinstance(stream := got.value.get("stream"), str) and stream.count("/") == 2:
                got.topic = f"{PREFIX}{stream}/birth"
                got.place = split_topic(got.topic)
            return self._route(got)
        except Refused as error:
            self._charge(count_items(got.raw) if is_parsed else 0, isinstance(error, Unpinned))
            self._refuse(error, got.value, got.where)
            return Outcome.UNREAD if isinstance(error, MissingPackage) else Outcome.FAILED

    def note_content_type(self, kind: str) -> None:
        """Count a message with an unknown content type. It is not a fault, because only the bytes are judged."""
        if not is_known_type(kind):
            key = clean(kind, MAX_TYPE)
            key = key if key in self._content_types or len(self._content_types) < MAX_TYPES else "others"
            self._content_types[key] = self._content_types.get(key, 0) + 1

    def refuse(self, error: Refused, where: str) -> None:
        """Count a file or connection that could not be read to its end, such as a damaged file."""
        self._refuse(error, {}, where)
        if not isinstance(error, MissingPackage) and len(self._cut_short) < LISTED:
            self._cut_short.append(f"{clean(where, MAX_WHERE)}: {clean(error.text, MAX_REASON)}")

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of packs, readings and failed packs so far. Does not look for missing packs."""
        each = [state.counts() for state in self._streams.values()]
        packs, readings, failed = (sum(column) for column in zip(*each, strict=True)) if each else (0, 0, 0)
        return packs, readings, failed + self._faults.count

    def report(self, now_ms: float | None = None) -> Report:
        """Return the report on everything so far.

        Can be called at any time, but takes long, as it looks at every stream.

        Args:
            now_ms: the current time in UTC ms. It tells whether absent pages of a checkpoint are missing or may still
                arrive. None: the time of the newest packs is used instead.
        """
        return self._report(now_ms or 0)

    def _report(self, now_ms: float) -> Report:
        rings, ended = self._rings, math.isinf(now_ms)
        states = sorted(self._streams.items())
        streams = {name: state.report(ended, rings.get(name.rpartition("/")[0])) for name, state in states}
        for name, stream in streams.items():
            if not self._agreed.asked(name):
                stream.waive()
        total = Report(Verdict.VERIFIED, [], {ring.gateway: ring.first for ring in self._rings.values()}, streams)
        total.bad_signatures = self.bad_signatures
        total.checkpoints = self._checkpoints.count
        until_ms = latest(streams)
        total.checkpointed = self._checkpoints.newest_ms(rings)
        total.beyond = {
            name: max(0, until_ms[name] - ms) for name, ms in total.checkpointed.items() if name in until_ms
        }
        total.withheld = held_back(streams, self._only, self._agreed)
        total.agreed, total.content_types = self._agreed.entries, dict(self._content_types)
        total.unknown = self._unknown(total, ended)
        total.only = sorted(self._only)
        total.torn_checkpoints = self._checkpoints.incomplete(
            rings, {gateway: max(now_ms, until_ms.get(gateway, now_ms)) for gateway in rings}
        )
        total.held = len(self._held)
        add_up(total, self._faults, self._first_bad)
        used = {name.rpartition("/")[0] for name in streams}
        proven = all(ring.proven for gateway, ring in rings.items() if gateway in used)
        broken = shared_pins(sorted(rings)) if self._is_bare and len(rings) > 1 else []
        decide(total, self._unread, self._checkpoints.forgotten, proven, [*broken, *self._cut_short])
        if broken and total.first_bad is None:
            total.first_bad = Fault("pin", broken[0], where="--trust")
        return total

    def _unknown(self, total: Report, ended: bool) -> list[str]:
        """Return the agreed streams that neither a pack nor a checkpoint names.

        From a broker, streams of a known gateway are returned only after the gateway's first checkpoint, because a
        checkpoint names all streams.
        """
        known = {name for name, stream in total.streams.items() if stream.packs or stream.head_seq}
        here, named = self._rings.keys(), self._agreed.gateways
        if ended:
            return self._agreed.unheard(known, named | {name.rpartition("/")[0] for name in known}, every=True)
        done = total.checkpointed.keys()
        return self._agreed.unheard(known, (named - here) | done, every=here <= done)

    def _route(self, got: _Received) -> Outcome:
        place, value = got.place, got.value
        kind = place.kind if place else "keys" if "records" in value else "checkpoint" if "heads" in value else ""
        if kind == "keys":
            return self._take_keys(got.raw, value, place, got.where)
        return self._take_checkpoint(got) if kind == "checkpoint" else self._take_pack(got)

    def _take_keys(self, raw: bytes, value: dict[str, Any], place: Topic | None, where: str) -> Outcome:
        gateway = gateway_of(raw, value, place, "keys")
        if self._is_exhausted and not self._trust:
            return self._skip_keys(count_items(raw))
        ring = self._rings.get(gateway) or KeyRing(gateway, self._trust)
        try:
            news = ring.update(raw, value, unordered=self._read is not None and gateway not in self._read)
        except Unpinned as error:
            if gateway in self._rings or len(self._early) >= MAX_EARLY:
                raise
            # wait, because a later object may continue this chain to a pinned key
            self._early.append((raw, where, gateway, error))
            return Outcome.HELD
        if self._read is not None:
            self._read.add(gateway)
        if not self._trust:
            # without pins, anyone can make us check keys objects, so each adds to the cost that the reader of files
            # limits
            self._charge(REFUSAL * (len(value["records"]) if gateway in self._rings else 1), True)
        if news:
            if gateway not in self._rings and len(self._rings) >= self._max_gateways:
                raise Refused("size", f"more than {self._max_gateways} gateways")
            self._rings[gateway] = ring
            self._signers |= ring.keys
            self._forget()  # a key may have been revoked, so all objects must be checked again
            self._settle_early(gateway)
            self._release(gateway)
        return Outcome.TAKEN

    @property
    def _is_exhausted(self) -> bool:
        """True if the file had too many keys objects without a pinned key, so that further ones are not read."""
        return self.keys_left is not None and self.keys_left < 0

    def _is_unpinned(self, raw: bytes, place: Topic | None, found: FoundSignature | None) -> bool:
        """True if unparsed bytes may be a keys object, but contain no pinned key, and are signed by no known key."""
        is_known = found is not None and found.key is not None
        return _may_be_keys(raw, place) and not is_known and not any(pin in raw for pin in self._thumbprints)

    def _skip_keys(self, cost: int) -> Outcome:
        self._unread[_MANY_KEYS] = self._unread.get(_MANY_KEYS, 0) + 1
        self.rejected_cost += cost
        return Outcome.UNREAD

    def _charge(self, cost: int, is_unpinned: bool) -> None:
        """Add the cost of an object that is invalid, or of a keys object without a pinned key.

        Keys objects have their own limit in a file, because the objects after them may be valid.
        """
        if is_unpinned and self.keys_left is not None:
            self.keys_left -= cost
            cost = 1
        self.rejected_cost += cost

    def _settle_early(self, gateway: str | None = None) -> None:
        """Process the keys objects that waited for a pinned chain of ``gateway``.

        Those that are not part of it are refused.

        If ``gateway`` is None, nothing more will arrive, so all waiting keys objects are refused.
        """
        waiting, self._early = self._early, []
        for raw, where, owner, error in waiting:
            if gateway is None:
                self._refuse(error, {}, where)
            elif gateway != owner:
                self._early.append((raw, where, owner, error))
            else:
                try:
                    self._rings[owner].update(raw, parse_found(raw, None)[0])
                except Refused as refusal:
                    self._refuse(refusal, {}, where)

    def _take_checkpoint(self, got: _Received) -> Outcome:
        raw, value, place = got.raw, got.value, got.place
        gateway = gateway_of(raw, value, place, "checkpoint")
        ring = self._rings.get(gateway)
        if ring is None:
            got.value = {}
            return self._hold(got, gateway)
        for named in self._checkpoints.take(raw, value, ring, got.found, filed=got.topic is None):
            self._state(named.stream).head(named, ring)
        self._forget()  # a copy of an older page may now be a fault, so it must be checked again
        return Outcome.TAKEN

    def _take_pack(self, got: _Received) -> Outcome:
        stream = stream_of(got.value)
        gateway = stream.rpartition("/")[0]
        ring = self._rings.get(gateway)
        if ring is None:
            return self._hold_pack(got, gateway)
        known = self._streams.get(stream) or _UNKNOWN
        try:
            checked = check_parsed(got.raw, got.value, got.columns, got.found, got.place, ring, known.tables.get)
        except Refused as error:
            if error.code == "kid":  # the key is not known, but its keys object may still arrive
                return self._hold_pack(got, gateway)
            raise
        state = self._state(stream)
        return self._take_retained(state, checked) if checked.retained else self._add_pack(state, checked, got)

    def _add_pack(self, state: StreamState, checked: CheckedPack, got: _Received) -> Outcome:
        place, holds = state.take(checked, got.where, len(got.raw))
        self._last_state = state
        self._first_bad = self._first_bad or state.first_fault
        if place in (Arrival.DUPLICATE, Arrival.OLD_DUPLICATE):
            return Outcome.REDELIVERED
        return Outcome.VERIFIED if holds else Outcome.FAILED

    def _state(self, stream: str) -> StreamState:
        state = self._streams.get(stream)
        if state is None:
            if len(self._streams) >= self._max_streams:
                raise Refused("size", f"more than {self._max_streams} streams")
            waiting = self._waiting.setdefault(stream.rpartition("/")[0], WaitingBytes())
            state = self._streams[stream] = StreamState(stream, waiting)
        return state

    def _take_retained(self, state: StreamState, pack: CheckedPack) -> Outcome:
        """Process the retained copy of a birth. Its point table is used, but the copy does not count as a pack."""
        _, kept = state.history.find(pack.link.boot, pack.link.seq)
        if kept and kept != pack.digest[:16]:
            raise Refused("fork", "the retained birth is not the pack that was published with this identity")
        if pack.table:
            state.add_table(pack.link.hash, pack.table)
        return Outcome.TAKEN

    def _hold_pack(self, got: _Received, gateway: str) -> Outcome:
        claims = {name: got.value.get(name) for name in ("stream", "boot", "seq")}
        got.value = {name: claim for name, claim in claims.items() if isinstance(claim, int) or _is_short(claim)}
        return self._hold(got, gateway)

    def _hold(self, got: _Received, gateway: str) -> Outcome:
        """Keep an object until its key arrives. If too many objects wait, the oldest is refused.

        ``got.value`` must have only the claims that the text of a refusal shows.
        """
        got.gateway, got.found, got.columns = gateway, None, None
        self._held.append(got)
        self._held_bytes += len(got.raw)
        while len(self._held) > MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
            old = self._held.popleft()
            self._held_bytes -= len(old.raw)
            self._refuse(self._no_key(old.gateway), old.value, old.where)
        return Outcome.HELD

    def _release(self, gateway: str) -> None:
        """Process the objects that waited for keys of this gateway. Called when keys have arrived."""
        waiting, self._held, self._held_bytes = self._held, deque(), 0
        for held in waiting:
            if held.gateway == gateway and (not held.kid or held.kid in self._signers):
                self.feed(held.raw, held.topic, held.where, retained=held.retained)
            else:
                self._held.append(held)
                self._held_bytes += len(held.raw)

    def finish(self, now_ms: float | None = None) -> Report:
        """Return the last report. Objects that still wait for their key are refused.

        Args:
            now_ms: the current time in UTC ms, if the caller stops listening although more objects may arrive. None:
                nothing more can arrive.
        """
        self._settle_early()
        for held in self._held:
            self._refuse(self._no_key(held.gateway), held.value, held.where)
        self._held.clear()
        self._held_bytes = 0
        return self._report(math.inf if now_ms is None else now_ms)

    def _no_key(self, gateway: str) -> Refused:
        if gateway in self._rings:
            return Refused("kid", f"signed by a key that is in no key record of {gateway}")
        name = gateway if GATEWAY.fullmatch(gateway) else shown(gateway)
        return Refused("kid", f"there is no trusted key record of {name}")

    def _refuse(self, error: Refused, value: dict[str, Any], where: str) -> None:
        if isinstance(error, MissingPackage):
            self._unread[error.text] = self._unread.get(error.text, 0) + 1
            return
        unpinned = isinstance(error, Unpinned)
        text, place = clean(error.text, MAX_REASON), clean(where, MAX_WHERE)
        fault = Fault(error.code, text, *identity_of(value), place, unpinned)
        self._charge(REFUSAL, unpinned)
        self.bad_signatures += error.code in _SIGNATURE_CODES
        self._first_bad = self._first_bad or fault
        self._faults.add(fault)


_UNKNOWN: Final = StreamState("", WaitingBytes())  # stands for a stream without packs; no pack is ever added to it
_SIGNATURE_CODES: Final = frozenset(("signature", "header", "typ", "alg", "kid", "revoked"))


def _may_be_keys(raw: bytes, place: Topic | None) -> bool:
    """True if the bytes may be a keys object. A keys object does not wait for keys, because it contains them."""
    return place.kind == "keys" if place else b'"records":' in raw


def _claims_of(raw: bytes, place: Topic | None) -> dict[str, Any]:
    """Return the claims in unparsed canonical bytes: ``gateway``, and for a pack ``stream``, ``boot`` and ``seq``.

    Returns {} if the bytes name no gateway, or a gateway that differs from the gateway of their topic.
    """
    if claims := claims_of(raw):
        return {"gateway": str(claims["stream"]).rpartition("/")[0], **claims}
    here = place.gateway if place else ""
    name = claimed_gateway(raw) or here
    return {"gateway": name} if name and (name == here or not place) else {}


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 200
