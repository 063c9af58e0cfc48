"""The stateless check of one object. It checks everything that can be checked without other packs.

So objects can be checked in any order, and on any machine.

    keys = KeyRing("park7/gw01", trust)
    check_keys(raw, topic, keys)                       # adds a keys object to the ring
    checked = check(raw, topic, keys, tables.get)      # a pack
    page = check_checkpoint(raw, topic, keys)          # a page of a checkpoint

The seam between two packs is not checked here. ``CheckedPack.link`` has the values that such a check needs, so that a
database can compare the seams of many packs at once, by the rules of ``check_seam``. ``Verifier`` uses the same code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .checkpoint import CheckedPage, read_page
from .completeness import Balance, PackCounts, PackFault, balance
from .jws import TYP_PACK
from .keyring import KeyRing, Unpinned
from .pack import BOOT, Loss, Pack, read_pack
from .point_table import PointTable
from .report import Handover
from .seam import ChainLink
from .signed import SIG_MEMBER, FoundSignature, Signed, check_signed, find_signature, is_canonical, parse_found
from .strict import MAX_OBJECT_BYTES, MAX_REASON, Columns, MissingPackage, Refused, clean, inflate, shown
from .topics import GATEWAY, PACK_KINDS, STREAM, Topic, split_topic

MAX_STREAM: Final = 200
# The check of the canonical form takes as much time as all other checks, and a signer that writes another form does so
# in all packs. So only births and packs with ``seq % FORM_EVERY == 2`` are checked. The rule depends on ``seq``, so
# that all verifiers check the same packs.
FORM_EVERY: Final = 64
# These patterns find claims in bytes that were not parsed. The claims are only used in messages, and to know the
# gateway whose keys an object waits for.
_CLAIMED_STREAM: Final = re.compile(rb'"stream":"([A-Za-z0-9_.:/-]{1,200})"')
_CLAIMED_BOOT: Final = re.compile(rb'"boot":"([0-9a-f]{16})"')
_CLAIMED_SEQ: Final = re.compile(rb'"seq":([0-9]{1,16}),$')
_CLAIMED_GATEWAY: Final = re.compile(rb'"gateway":"([A-Za-z0-9_.:/-]{1,130})"')

Tables = Callable[[str], PointTable | None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The result for bytes that are not a valid object of this gateway. The content of the bytes must not be used.

    ``stream``, ``boot`` and ``seq`` are what the bytes claim, for messages only; "" and 0 if they cannot be read.
    """

    code: str  # one stable word; docs/verify.md lists these words
    text: str  # the received and the expected value, in one line of at most 400 characters without control characters
    # True: the bytes may be valid later, because a key is not known yet or a Python package is not installed
    wait: bool = False
    stream: str = ""
    boot: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class CheckedPack:
    """A pack with a valid signature by a key of its gateway. Times are UTC in ms."""

    stream: str  # <site>/<gateway>/<name>, as it was signed
    link: ChainLink  # identity, hash, previous pack and time span, for ``check_seam``
    digest: bytes  # SHA-256 of the signed bytes; ``link.hash`` is the same hash as base64url
    kid: str  # thumbprint of the key that signed the pack
    rewritten: bool  # True: the pack was re-serialised in transit, and verified after canonicalisation
    retained: bool  # True: this is the retained copy of a birth, which is the same pack as the birth itself
    value: Mapping[str, Any]  # the whole object as parsed; do not change it
    # the point table if this is a birth, otherwise None; packs that name the birth are checked with it
    table: PointTable | None
    counts: PackCounts  # for a call of ``balance`` when the birth and all parts are known
    balance: Balance | None  # None: the completeness is not known; ``unjudged`` tells why
    losses: tuple[Loss, ...]
    synced: bool | None  # True: the clock was synchronised; None: not known
    monotonic: tuple[str, int] | None  # (boot id of Linux, monotonic clock in ms)
    early: int  # number of read times that are more than 1 s before the start of the pack
    handovers: tuple[Handover, ...]
    faults: tuple[PackFault, ...]  # rules that the pack breaks, found without other packs; a report shows the first

    @property
    def kind(self) -> str:
        """The kind of the pack: ``birth`` or ``readings``."""
        return "birth" if self.link.is_birth else "readings"

    @property
    def ok(self) -> bool:
        """True if the pack has no fault so far. If it is ``unjudged``, a later check may still find a fault."""
        return not self.faults

    @property
    def unjudged(self) -> str:
        """The reason why the completeness is not known yet; "" if it is known or the pack has a fault.

        ``birth``: the birth of the pack is not known here. ``parts``: the pack is only one part of a tick.
        """
        if self.balance is not None or self.faults:
            return ""
        return "parts" if self.link.part else "birth"


def check(raw: bytes, topic: str | None, keys: KeyRing, table: Tables) -> CheckedPack | Refusal:
    """Check one pack without any other pack. Never raises for the content of ``raw``.

    The result depends only on the arguments. The time and memory of a check are limited for any bytes, as
    docs/verify.md explains under "Upper limits of cost".

    Args:
        raw: the published bytes, compressed or not.
        topic: the pack's topic, which ends with ``readings``, ``backfill`` or ``birth``. None: the pack is from a file,
            and is not checked against a topic.
        keys: the keys of the gateway.
        table: a function that returns the point table for the hash of a birth, or None if it does not know the table.
            With ``{}.get``, no table is known. Without the table, completeness and units are not checked; the caller
            can check the same bytes again later. A birth is checked with its own table.
    """
    claims: Mapping[str, object] = {}
    try:
        place = _place(topic, PACK_KINDS, "packs")
        raw = inflate(raw)
        found = find_signature(raw, keys.keys)
        if found and found.key is None:
            claims = claims_of(raw)
            if claims:
                _check_place(str(claims["stream"]), place, keys)
            raise Refused("kid", f"signed by {shown(found.kid)}, which is in no key record of {keys.gateway}")
        value, columns = parse_found(raw, found)
        claims = value
        return check_parsed(raw, value, columns, found, place, keys, table)
    except Refused as error:
        return _refusal(error, claims)


def check_keys(raw: bytes, topic: str | None, keys: KeyRing) -> bool | Refusal:
    """Add a ``keys`` object of this gateway to its ring. If the object is refused, the ring stays unchanged.

    Returns True if the object has new content. Objects that wait for a key should then be checked again. Never raises
    for the content of ``raw``. The arguments are as in ``check``.
    """
    value: dict[str, Any] = {}
    try:
        place = _place(topic, ("keys",), "keys")
        raw = inflate(raw, MAX_OBJECT_BYTES)
        value, _ = parse_found(raw, None)
        gateway = gateway_of(raw, value, place, "keys")
        _check_gateway(gateway, keys)
        return keys.update(raw, value)
    except Refused as error:
        return _refusal(error, value)


def check_checkpoint(raw: bytes, topic: str | None, keys: KeyRing) -> CheckedPage | Refusal:
    """Check a page of a checkpoint without any other page. Arguments are as in ``check``; never raises for ``raw``.

    The caller should compare the page with other pages and with packs. These rules must hold:

    - ``prev`` is the hash of the page with the same number and ``counter`` - 1.
    - Two pages with the same number and counter are equal.
    - A page with a later counter is not signed by an older key.
    - Each head has the hash of the pack with the same boot and sequence.
    """
    value: dict[str, Any] = {}
    try:
        place = _place(topic, ("checkpoint",), "checkpoints")
        raw = inflate(raw, MAX_OBJECT_BYTES)
        found = find_signature(raw, keys.keys)
        if found and found.key is None:
            _check_gateway(claimed_gateway(raw) or keys.gateway, keys)
            raise Refused("kid", f"signed by {shown(found.kid)}, which is in no key record of {keys.gateway}")
        value, _ = parse_found(raw, found)
        _check_gateway(gateway_of(raw, value, place, "checkpoint"), keys)
        return read_page(raw, value, keys, found)
    except Refused as error:
        return _refusal(error, value)


def _check_gateway(gateway: str, keys: KeyRing) -> None:
    if gateway != keys.gateway:
        raise Refused("topic", f"object of {shown(gateway)}, but the keys are those of {keys.gateway}")


def _place(topic: str | None, kinds: Collection[str], what: str) -> Topic | None:
    place = split_topic(topic) if topic is not None else None
    if topic is not None and (place is None or place.kind not in kinds):
        raise Refused("topic", f"{shown(topic)} is not a topic of {what}")
    return place


def _refusal(error: Refused, claims: Mapping[str, object]) -> Refusal:
    wait = error.code == "kid" or isinstance(error, Unpinned | MissingPackage)
    return Refusal(error.code, clean(error.text, MAX_REASON), wait, *identity_of(claims))


def check_parsed(
    raw: bytes,
    value: dict[str, Any],
    columns: Columns | None,
    found: FoundSignature | None,
    place: Topic | None,
    keys: KeyRing,
    table: Tables,
) -> CheckedPack:
    """Do the second half of ``check``, for bytes that ``parse_found`` has parsed. Raises Refused."""
    stream = stream_of(value)
    if keys.gateway != stream.rpartition("/")[0]:
        _check_place(stream, place, keys)
    signed = check_signed(raw, value, TYP_PACK, keys.keys, found)
    _check_place(stream, place, keys)
    pack = read_pack(signed, keys.order[signed.key.kid], columns)
    keys.check_revoked(signed.key.kid, stream, pack.link.seq)
    retained = place is not None and place.kind == "birth"
    if retained and pack.table is None:
        raise Refused("shape", "the retained birth is not a birth")
    return _judge(pack, signed, retained, pack.table or table(pack.link.birth))


def _judge(pack: Pack, signed: Signed, retained: bool, table: PointTable | None) -> CheckedPack:
    link, records = pack.link, pack.records
    texts = list(pack.faults)
    if table is None:
        counts = PackCounts(link, Counter(records.names), len(records.names), pack.gaps, tuple(records.unit_changes()))
    else:
        points, wrong = table.count(records.names, records.units)
        texts += wrong
        counts = PackCounts(link, points, len(records.names), pack.gaps)
    if (link.is_birth or link.seq % FORM_EVERY == 2) and not is_canonical(signed):
        texts.append("signed over bytes that are not in canonical form")
    faults = tuple(PackFault("rule", clean(text, MAX_REASON)) for text in texts)
    judged = balance((counts,), table) if table and not link.part and not faults else None
    return CheckedPack(
        pack.stream,
        link,
        pack.digest,
        signed.key.kid,
        signed.rewritten,
        retained,
        signed.value,
        pack.table,
        counts,
        judged,
        pack.losses,
        pack.synced,
        pack.monotonic,
        records.early,
        pack.handovers,
        faults + judged.faults if judged else faults,
    )


def stream_of(value: Mapping[str, Any]) -> str:
    """Return the stream that a parsed pack names. Raises Refused."""
    stream = value.get("stream")
    if not isinstance(stream, str) or len(stream) > MAX_STREAM:
        raise Refused("shape", f"stream {shown(stream)}, expected <site>/<gateway>/<name>")
    return stream


def gateway_of(raw: bytes, value: Mapping[str, Any], place: Topic | None, what: str) -> str:
    """Return the gateway that a keys object or a checkpoint page names. Raises Refused if it does not fit the topic."""
    if len(raw) > MAX_OBJECT_BYTES:
        raise Refused("size", f"a {what} object of {len(raw)} bytes, at most {MAX_OBJECT_BYTES} are read")
    gateway = value.get("gateway")
    if not isinstance(gateway, str) or not GATEWAY.fullmatch(gateway):
        raise Refused("shape", f"{what} object of gateway {shown(gateway)}, expected <site>/<gateway>")
    if place and what == "checkpoint" and (place.gateway != gateway or place.page != shown(value.get("page"))):
        page = shown(value.get("page"))
        raise Refused("topic", f"checkpoint page {page} of {gateway} published at {place.text}")
    if place and place.gateway != gateway:
        raise Refused("topic", f"{what} object of {gateway} published at {place.gateway}: replayed across topics")
    return gateway


def _check_place(stream: str, place: Topic | None, keys: KeyRing) -> None:
    """Raise Refused if a pack is on the topic of another stream, or belongs to another gateway than the keys."""
    if place is not None and stream != place.stream:
        raise Refused("topic", f"pack of {shown_name(stream)} published at {place.text}: replayed across topics")
    if stream.rpartition("/")[0] != keys.gateway:
        raise Refused("topic", f"pack of {shown_name(stream)}, but the keys are those of {keys.gateway}")


def shown_name(stream: str) -> str:
    """Return a valid name unchanged; shorten any other text for a message."""
    return stream if STREAM.fullmatch(stream) else shown(stream)


def claims_of(raw: bytes) -> dict[str, object]:
    """Find ``stream``, ``boot`` and ``seq`` in canonical bytes without parsing them.

    Returns {} if no stream is found.
    """
    sig = raw.rfind(SIG_MEMBER)
    stream = _CLAIMED_STREAM.search(raw, sig)
    if not stream:
        return {}
    boot, seq = _CLAIMED_BOOT.search(raw), _CLAIMED_SEQ.search(raw, max(0, sig - 32), sig)
    return {"stream": stream[1].decode(), "boot": boot and boot[1].decode(), "seq": seq and int(seq[1])}


def claimed_gateway(raw: bytes) -> str:
    """Find the gateway in the bytes of a keys object or checkpoint without parsing them.

    Returns "" if none is found.
    """
    found = _CLAIMED_GATEWAY.search(raw)
    return found[1].decode() if found else ""


def identity_of(value: Mapping[str, object]) -> tuple[str, str, int]:
    """Return (stream, boot, sequence) as an object claims them; "" or 0 for a missing or invalid claim."""
    stream, boot, seq = value.get("stream"), value.get("boot"), value.get("seq")
    return (
        stream if isinstance(stream, str) and STREAM.fullmatch(stream) else "",
        boot if isinstance(boot, str) and BOOT.fullmatch(boot) else "",
        seq if type(seq) is int and 0 < seq < 1 << 53 else 0,
    )
