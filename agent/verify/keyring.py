"""The keys of one gateway. They form a chain of key records, each signed by the previous key. Some keys are pinned."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from .canonical import MAX_SAFE
from .jws import TYP_KEYS, PublicKey, check_signature, public_key
from .signed import check_signed, payload_of, without_signature
from .strict import Refused, shown

_THUMBPRINT = re.compile(r"[0-9A-Za-z_-]{43}")
MAX_RECORDS = 1000
MAX_SINCE = 1 << 43  # limit for all times in objects, in seconds since 1970
MAX_ROOTS = 20
# with pins, a longer chain is checked only if it is known or claims a pinned key, because each check takes time
MANY_RECORDS = 16


class _Chain(NamedTuple):
    """The chain of keys in a ``keys`` object."""

    counter: int
    keys: Mapping[str, PublicKey]  # kid -> key, in the order of the records
    records: list[bytes]  # each record in canonical form, without its signature
    says: bytes  # the whole object in canonical form, without its signatures
    since: int  # not_before of the first key
    revoked: Mapping[str, Mapping[str, int]]


def split_pin(pin: str) -> tuple[str, str]:
    """Split a pin into (gateway, thumbprint). The gateway is "" if the pin is valid for any gateway."""
    gateway, _, thumb = pin.rpartition("=")
    return gateway, thumb


def is_pin(pin: str) -> bool:
    """True if a text is a thumbprint, with or without a gateway before it (``park7/gw01=``)."""
    owner, thumb = split_pin(pin)
    return _THUMBPRINT.fullmatch(thumb) is not None and ("=" not in pin or owner.count("/") == 1)


def check_pin(pin: object) -> None:
    """Raise Refused for an invalid thumbprint."""
    if not isinstance(pin, str) or not is_pin(pin):
        hint = (
            "expected the 43 characters that `meterhouse keys show` prints, or park7/gw01= followed by these characters"
        )
        raise Refused("pin", f"invalid thumbprint {shown(pin)}: {hint}")


class Unpinned(Refused):
    """The chain has no pinned key. It belongs to another gateway, or it ends before the pinned key."""


class KeyRing:
    """The keys of a gateway. Each ``keys`` object can add keys. No key is ever removed.

    Args:
        pins: thumbprints, one of which must be in the chain. ``park7/gw01=<thumbprint>`` is valid for that gateway
            only. If ``pins`` is empty, any chain is accepted, and nothing proves the origin. Any key of the chain may
            be pinned, because each key signs its successor and the newest key signs the object. If a lost key is
            replaced, a second chain begins, which needs a pin of its own.

    Raises:
        Refused: a thumbprint is invalid, or ``pins`` is one text instead of a list.
    """

    def __init__(self, gateway: str, pins: Collection[str] = ()) -> None:
        if isinstance(pins, str | bytes):
            raise Refused("pin", f"pins {shown(pins)} is one text: give a list of thumbprints, [] for none")
        for pin in pins:
            check_pin(pin)
        self.gateway = gateway
        self.keys: dict[str, PublicKey] = {}
        self.order: dict[str, int] = {}  # kid -> number of the key; a later key has a higher number
        self._strict = bool(pins)
        self._pins = frozenset(thumb for owner, thumb in map(split_pin, pins) if owner in ("", gateway))
        self._chains: dict[str, _Chain] = {}  # kid of the first key -> chain
        self._revoked: dict[str, Mapping[str, int]] = {}  # kid of a revoked key -> stream -> last trusted sequence

    @property
    def first(self) -> str | None:
        """The thumbprint of the first key of the first chain; None before the first ``keys`` object."""
        return next(iter(self._chains), None)

    @property
    def proven(self) -> bool:
        """True if each chain has a pinned key."""
        return bool(self._chains) and all(self._pins & chain.keys.keys() for chain in self._chains.values())

    def update(self, raw: bytes, value: dict[str, Any], *, unordered: bool = False) -> bool:
        """Add a ``keys`` object. Returns False if its content is known already.

        Args:
            unordered: True if the object may be older than the known objects.

        Raises:
            Refused: the object is invalid; the known keys stay unchanged.
        """
        if value.get("v") != 1:
            raise Refused("shape", f"keys object of format {shown(value.get('v'))}, 1 is known")
        if value.get("gateway") != self.gateway:
            raise Refused("topic", f"keys object of gateway {shown(value.get('gateway'))} at {shown(self.gateway)}")
        counter, records = value.get("counter"), value.get("records")
        if type(counter) is not int or not 0 <= counter < MAX_SAFE:
            raise Refused("shape", f"keys object with counter {shown(counter)}")
        if not isinstance(records, list) or not 1 <= len(records) <= MAX_RECORDS:
            raise Refused("shape", f"keys object without records, or with more than {MAX_RECORDS}")
        if len(records) > MANY_RECORDS and self._is_foreign(records):
            raise Unpinned("key-chain", f"unknown key chain: none of its {len(records)} keys is pinned")
        keys, revoked = _chain(records)
        check_signed(raw, value, TYP_KEYS, {(newest := next(reversed(keys))): keys[newest]})
        written = [payload_of(record) for record in records]
        # ES256 signatures are random, so a ``keys`` object that was signed again has the same content in other bytes
        says = payload_of({**value, "records": [without_signature(record) for record in records]})
        since = int(records[0]["not_before"])
        return self._follows(_Chain(counter, keys, written, says, since, revoked), unordered)

    def _follows(self, new: _Chain, unordered: bool) -> bool:
        """Add a chain.

        It must be the first chain, a longer version of a known chain, or a new chain with its own pinned key.

        Returns False if all records of the chain are known already. Raises Refused for any other chain.
        """
        first = next(iter(new.keys))
        known = self._chains.get(first)
        if known is not None and not self._pins & new.keys.keys() and self._is_part(new, known):
            return False  # the chain ends before the pinned key, and its records are the beginning of the known chain
        if known is None and self._chains and not self._begins_anew(new):
            known = next(reversed(self._chains.values()))
        if known is not None:
            if new.says == known.says:
                return False
            if new.counter < known.counter and unordered:
                if new.records != known.records[: len(new.records)]:
                    raise Refused("key-chain", "the known records do not begin with these older records")
                return False
            if new.counter < known.counter:
                raise Refused(
                    "counter", f"keys object with counter {new.counter} after {known.counter}: an old retained one"
                )
            if new.counter == known.counter:
                raise Refused("counter", f"two different keys objects with counter {new.counter}")
            if new.records[: len(known.records)] != known.records:
                raise Refused("key-chain", "the records do not begin with the known records")
        if self._strict and not self._pins & new.keys.keys():
            raise Unpinned("key-chain", f"unknown key chain: its first key is {first}, and none of its keys is pinned")
        self._chains[first] = new
        self.keys = {kid: key for chain in self._chains.values() for kid, key in chain.keys.items()}
        self.order = {
            kid: chain.since * MAX_RECORDS + place
            for chain in self._chains.values()
            for place, kid in enumerate(chain.keys)
        }
        self._revoked = {}
        for chain in self._chains.values():
            for kid, last in chain.revoked.items():
                before = self._revoked.get(kid)
                self._revoked[kid] = last if before is None else _lower(before, last)
        return True

    def _is_foreign(self, records: list[Any]) -> bool:
        """True if a chain is not known and does not even claim to have a pinned key."""
        kids = [record.get("kid") for record in records if isinstance(record, dict)]
        claimed = {kid for kid in kids if isinstance(kid, str)}
        return self._strict and not self._pins & claimed and not (kids and kids[0] in self._chains)

    def is_foreign(self, value: Mapping[str, Any]) -> bool:
        """True if a ``keys`` object claims neither a pinned nor a known key. It may belong to a replacement box."""
        records = value.get("records")
        if not isinstance(records, list) or not self._is_foreign(records):
            return False
        return not any(isinstance(record, dict) and record.get("kid") in self.keys for record in records)

    def _is_part(self, old: _Chain, known: _Chain) -> bool:
        return self._strict and old.counter < known.counter and old.records == known.records[: len(old.records)]

    def _begins_anew(self, new: _Chain) -> bool:
        """True if a chain with another first key may be added.

        It must have a pinned key, and no key of a known chain.
        """
        return (
            bool(self._pins & new.keys.keys())
            and not new.keys.keys() & self.keys.keys()
            and len(self._chains) < MAX_ROOTS
        )

    @property
    def revoked(self) -> Mapping[str, Mapping[str, int]]:
        """Revoked key -> stream -> last trusted sequence."""
        return self._revoked

    def is_revoked(self, kid: str) -> bool:
        """True if this key was revoked by a later key."""
        return kid in self._revoked

    def is_cut(self, kid: str, stream: str, seq: int) -> bool:
        """True if the key is revoked and ``seq`` is above the last trusted sequence of the stream."""
        last = self._revoked.get(kid)
        return last is not None and seq > last.get(stream, 0)

    def check_revoked(self, kid: str, stream: str, seq: int) -> None:
        """Raise Refused if the key is revoked and ``seq`` is above the last trusted sequence of the stream."""
        if self.is_cut(kid, stream, seq):
            last = self._revoked[kid].get(stream, 0)
            raise Refused("revoked", f"signed by the revoked key {kid}, trusted up to sequence {last}")


def _chain(records: list[Any]) -> tuple[dict[str, PublicKey], dict[str, Mapping[str, int]]]:
    """Check the signature of each record. Returns (keys in order, revoked key -> stream -> last trusted sequence)."""
    keys: dict[str, PublicKey] = {}
    revoked: dict[str, Mapping[str, int]] = {}
    before: str | None = None
    not_before: float = 0
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise Refused("shape", f"key record {number} is not an object")
        key = public_key(record.get("alg"), record.get("jwk"))
        if record.get("kid") != key.kid:
            raise Refused("key", f"key record {number} has kid {shown(record.get('kid'))}, its key is {key.kid}")
        if record.get("prev", "") != before:
            raise Refused("key-chain", f"key record {number} follows {shown(record.get('prev'))}, not {shown(before)}")
        if key.kid in keys:
            raise Refused("key-chain", f"key {key.kid} is recorded twice")
        since = record.get("not_before")
        if not isinstance(since, (int, float)) or not not_before <= since < MAX_SINCE:
            raise Refused("key-chain", f"key record {number} has not_before {shown(since)} after {not_before}")
        signers = {before: keys[before]} if before else {key.kid: key}
        try:
            check_signature(record.get("sig"), payload_of(record), TYP_KEYS, signers)
        except Refused as error:
            raise Refused("key-chain", f"key record {number} is not signed by the key before: {error.text}") from None
        revokes = record.get("revokes", [])
        if not isinstance(revokes, list):
            raise Refused("shape", f"key record {number} has revokes that is not an array")
        for entry in revokes:
            kid, last = _revocation(entry, number)
            # only a first key may revoke a key outside the chain, because it may replace a lost key
            if kid not in keys and before is not None:
                raise Refused("shape", f"key record {number} revokes {shown(kid)}, which is not an earlier key")
            revoked[kid] = _lower(revoked[kid], last) if kid in revoked else last
        keys[key.kid] = key
        before, not_before = key.kid, since
    return keys, revoked


def _revocation(entry: Any, number: int) -> tuple[str, Mapping[str, int]]:
    kid, last = (entry.get("kid"), entry.get("last")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kid, str) or not isinstance(last, dict) or not all(type(seq) is int for seq in last.values()):
        raise Refused("shape", f"key record {number} revokes {shown(kid)} without a last sequence for each stream")
    return kid, last


def _lower(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    """Combine two revocations of one key. Returns the lower sequence of each stream, so that trust never grows again.

    If only one of the revocations names a stream, nothing of this stream is trusted.
    """
    return {stream: min(seq, other[stream]) for stream, seq in one.items() if stream in other}
