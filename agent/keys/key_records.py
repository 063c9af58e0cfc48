"""Key records: which key signs since when, each record signed by the previous key. The public half of a rotation.

A first key needs no record in its file: it signs itself. The file of a later key holds the whole chain, so that if the
file, the database or the broker is lost, the chain continues from the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.keys.signer import KeyFileError, Signer
from agent.verify.jws import TYP_KEYS
from drivers.encoding import base64url_decode
from ext.canon import dumps


@dataclass(frozen=True, slots=True)
class KeyChain:
    """A checked ``keys`` object."""

    counter: int
    first: str  # the thumbprint to pin
    newest: str
    data: bytes
    kids: tuple[str, ...] = ()  # all, beginning with the first
    instead_of: str = ""  # the lost key that this chain replaces


def signed_by(data: bytes) -> str:
    """The thumbprint of the key that signed an object of the gateway, unchecked."""
    header = json.loads(data)["sig"].partition(".")[0]
    kid: str = json.loads(base64url_decode(header))["kid"]
    return kid


@dataclass(frozen=True, slots=True)
class Revocation:
    """Signatures of ``kid`` count only up to the sequence in ``last`` (by full stream name)."""

    kid: str
    last: Mapping[str, int]


def key_records(
    signer: Signer,
    gateway: str,
    before: bytes | None = None,
    old: Signer | None = None,
    not_before: int | None = None,
    revokes: Sequence[Revocation] = (),
) -> bytes:
    """The ``keys`` object that ends with the key of ``signer``, canonical and signed.

    Args:
        gateway: ``park7/gw01``.
        before: the object to continue; None for the first key.
        old: signs the new record; needed if ``before`` ends with another key.
        not_before: since when the new key signs, UTC seconds; by default the time in its file.
        revokes: earlier keys of ``before`` that the new record revokes.

    Raises:
        KeyFileError: the key neither ends ``before`` nor may follow it.
    """
    records: list[dict[str, Any]] = []
    counter, prev, earliest = 0, None, 0
    if before is not None:
        known = check_key_records(before, gateway)
        if known.newest == signer.kid:
            return before
        if old is None or old.kid != known.newest:
            raise _not_recorded(signer, known, gateway)
        for gone in revokes:
            if gone.kid not in known.kids:
                hint = f"Known: {', '.join(known.kids)}"
                raise KeyFileError(f"there is no key {gone.kid} to revoke", where=gateway, hint=hint)
        records, counter, prev = list(json.loads(before)["records"]), known.counter, known.newest
        earliest = records[-1]["not_before"]  # never goes back, whatever the clock shows
    since = max(earliest, signer.not_before if not_before is None else not_before)
    record = _record(signer, prev, since, revokes, old or signer)
    return _whole(signer, gateway, counter + 1, [*records, record])


def new_root(signer: Signer, gateway: str, lost: str, revokes: Sequence[Revocation] = ()) -> bytes:
    """The ``keys`` object of a key that replaces a lost one: no key could sign its record, so it is a new root.

    Its counter begins at the time of the key, which is above any counter of the lost chain.
    """
    record = _record(signer, None, signer.not_before, revokes, signer, lost)
    return _whole(signer, gateway, max(1, signer.not_before), [record])


def _record(
    signer: Signer, prev: str | None, since: int, revokes: Sequence[Revocation], by: Signer, lost: str = ""
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "alg": signer.alg,
        "jwk": signer.jwk,
        "kid": signer.kid,
        "not_before": since,
        "prev": prev,
    }
    if revokes:
        record["revokes"] = [{"kid": gone.kid, "last": dict(gone.last)} for gone in revokes]
    if lost:
        record["instead_of"] = lost
    return {**record, "sig": by.sign(TYP_KEYS, dumps(record))}


def _whole(signer: Signer, gateway: str, counter: int, records: Sequence[Mapping[str, Any]]) -> bytes:
    return signer.sign_object(TYP_KEYS, {"counter": counter, "gateway": gateway, "records": list(records), "v": 1})


def _not_recorded(signer: Signer, known: KeyChain, gateway: str) -> KeyFileError:
    hint = (
        "A new key must be recorded by its predecessor: restore that one, then replace it with `meterhouse keys rotate`"
        f". Is it lost? `meterhouse keys create --lost {known.newest}`; every verifier must then pin the new thumbprint"
    )
    what = f"the signing key is {signer.kid}, but the last one recorded is {known.newest}"
    return KeyFileError(what, where=gateway, hint=hint)


def current_records(signer: Signer, gateway: str, known: bytes | None = None) -> bytes:
    """The ``keys`` object to publish with this key.

    Args:
        known: the object published before; None if no longer known.

    Returns:
        ``known`` itself if it ends with this key, so that the same bytes are published again.

    Raises:
        KeyFileError: the key does not follow the previous signing key, or its records belong to another gateway.
    """
    own = None if signer.records is None else _own(signer, gateway)
    if known is None:
        return own.data if own else key_records(signer, gateway)
    before = check_key_records(known, gateway)
    if before.newest == signer.kid:
        return known
    if own is not None:
        if before.newest == own.instead_of:
            return own.data
        if before.newest in own.kids:
            _check_follows(own, before, gateway)
            return own.data
    raise _not_recorded(signer, before, gateway)


def _own(signer: Signer, gateway: str) -> KeyChain:
    assert signer.records is not None
    own = check_key_records(signer.records, gateway)
    if own.newest != signer.kid:
        raise KeyFileError(
            f"the records in the key file end with {own.newest}, but the key is {signer.kid}",
            where=gateway,
            hint="Was the file edited? Restore the one that `meterhouse keys rotate` wrote",
        )
    return own


def _check_follows(own: KeyChain, before: KeyChain, gateway: str) -> None:
    from agent.verify.keyring import KeyRing
    from agent.verify.strict import Refused, parse_object

    ring = KeyRing(gateway)
    try:
        for data in (before.data, own.data):
            ring.update(data, parse_object(data))
    except Refused as error:
        raise KeyFileError(
            f"the records in the key file do not continue those already published: {error}", where=gateway
        ) from error


def is_sound(data: bytes) -> bool:
    """True if a stored ``keys`` object is valid in itself, for any gateway; otherwise the disk has damaged it."""
    try:
        check_key_records(data, str(json.loads(data)["gateway"]))
    except (KeyFileError, ValueError, KeyError, TypeError):
        return False
    return True


def check_key_records(data: bytes, gateway: str, trust: str = "") -> KeyChain:
    """Check a ``keys`` object as any verifier does. ``trust``: thumbprint that one of its keys must have.

    Raises:
        KeyFileError: an invalid record.
    """
    from agent.verify.keyring import KeyRing
    from agent.verify.strict import MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS, Refused, parse_object

    ring = KeyRing(gateway, [trust] if trust else [])
    try:
        value = parse_object(data, MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS)
        ring.update(data, value)
    except Refused as error:
        raise KeyFileError(f"the key records are invalid: {error}", where=gateway) from error
    kids = tuple(record["kid"] for record in value["records"])
    lost = value["records"][0].get("instead_of")
    return KeyChain(value["counter"], kids[0], kids[-1], data, kids, lost if isinstance(lost, str) else "")
