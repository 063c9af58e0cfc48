"""The keys of one gateway: a chain of records, each signed by the key before, and what is pinned of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from agent.verify.canonical import canonical
from agent.verify.jws import TYP_KEYS, PublicKey, check_signature, public_key
from agent.verify.signed import check_signed, payload_of
from agent.verify.strict import Refused

MAX_RECORDS = 1000


class KeyRing:
    """Grows with each ``keys`` object of its gateway; never forgets a key.

    Args:
        pins: thumbprints that the first key must be among; empty: any, and nothing proves the origin.
    """

    def __init__(self, gateway: str, pins: Collection[str] = ()) -> None:
        self.gateway = gateway
        self.keys: dict[str, PublicKey] = {}
        self.order: dict[str, int] = {}  # kid -> place in the chain
        self.counter: int | None = None
        self._pins = frozenset(pins)
        self._records: list[bytes] = []  # canonical, for comparison
        self._payload = b""
        self._revoked: dict[str, Mapping[str, int]] = {}  # kid -> last trusted sequence by stream

    @property
    def first(self) -> str | None:
        """The thumbprint that a verifier pins; None before any keys object."""
        return next(iter(self.order), None)

    @property
    def proven(self) -> bool:
        """The first key is a pinned one."""
        return self.first in self._pins

    def update(self, raw: bytes, value: dict[str, Any]) -> bool:
        """Take a ``keys`` object. False: the same one again.

        Raises:
            Refused: whatever does not hold; the known keys stay as they were.
        """
        if value.get("v") != 1:
            raise Refused("shape", f"keys object of format {value.get('v')!r}, 1 is known")
        if value.get("gateway") != self.gateway:
            raise Refused("topic", f"keys object of gateway {value.get('gateway')!r} at {self.gateway!r}")
        counter, records = value.get("counter"), value.get("records")
        if type(counter) is not int or counter < 0:
            raise Refused("shape", f"keys object with counter {counter!r}")
        if not isinstance(records, list) or not 1 <= len(records) <= MAX_RECORDS:
            raise Refused("shape", f"keys object without records, or with more than {MAX_RECORDS}")
        keys, order, revoked = self._chain(records)
        newest = next(reversed(order))
        payload = check_signed(raw, value, TYP_KEYS, {newest: keys[newest]}).payload
        if self.counter is not None:
            if payload == self._payload:
                return False
            if counter < self.counter:
                raise Refused(
                    "counter", f"keys object with counter {counter} after {self.counter}: an old retained one"
                )
            if counter == self.counter:
                raise Refused("counter", f"two different keys objects with counter {counter}")
        written = [canonical(record) for record in records]
        if written[: len(self._records)] != self._records:
            raise Refused("key-chain", "the records do not begin with the ones known before")
        if self._pins and next(iter(order)) not in self._pins:
            raise Refused("key-chain", f"foreign key chain: its first key is {next(iter(order))}, which is not pinned")
        self.keys, self.order, self._revoked = keys, order, revoked
        self.counter, self._records, self._payload = counter, written, payload
        return True

    def check_revoked(self, kid: str, stream: str, seq: int) -> None:
        """Raises Refused for what a revoked key signed after its last trusted sequence."""
        last = self._revoked.get(kid)
        if last is not None and seq > last.get(stream, 0):
            raise Refused("revoked", f"signed by the revoked key {kid}, trusted up to sequence {last.get(stream, 0)}")

    @staticmethod
    def _chain(records: list[Any]) -> tuple[dict[str, PublicKey], dict[str, int], dict[str, Mapping[str, int]]]:
        """Every record checked against the one before it."""
        keys: dict[str, PublicKey] = {}
        order: dict[str, int] = {}
        revoked: dict[str, Mapping[str, int]] = {}
        before: str | None = None
        not_before: float = 0
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict):
                raise Refused("shape", f"key record {number} is no object")
            key = public_key(record.get("alg"), record.get("jwk"))
            if record.get("kid") != key.kid:
                raise Refused("key", f"key record {number} says kid {record.get('kid')!r}, its key is {key.kid}")
            if record.get("prev", "") != before:
                raise Refused("key-chain", f"key record {number} follows {record.get('prev')!r}, not {before!r}")
            if key.kid in keys:
                raise Refused("key-chain", f"key {key.kid} is recorded twice")
            since = record.get("not_before")
            if not isinstance(since, (int, float)) or since < not_before:
                raise Refused("key-chain", f"key record {number} has not_before {since!r} after {not_before}")
            signers = {before: keys[before]} if before else {key.kid: key}
            try:
                check_signature(record.get("sig"), payload_of(record), TYP_KEYS, signers)
            except Refused as error:
                raise Refused(
                    "key-chain", f"key record {number} is not signed by the key before: {error.text}"
                ) from None
            revokes = record.get("revokes", [])
            if not isinstance(revokes, list):
                raise Refused("shape", f"key record {number} has revokes that are no array")
            for entry in revokes:
                _revoke(entry, order, revoked, number)
            keys[key.kid], order[key.kid] = key, len(order)
            before, not_before = key.kid, since
        return keys, order, revoked


def _revoke(entry: Any, order: Mapping[str, int], revoked: dict[str, Mapping[str, int]], number: int) -> None:
    kid, last = (entry.get("kid"), entry.get("last")) if isinstance(entry, dict) else (None, None)
    if (
        not isinstance(kid, str)
        or kid not in order
        or not isinstance(last, dict)
        or not all(type(seq) is int for seq in last.values())
    ):
        raise Refused("shape", f"key record {number} revokes {kid!r}, which is no earlier key with its last sequences")
    revoked[kid] = last
