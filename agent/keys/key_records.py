"""Key records, which are the public list of a gateway's keys. A record names a key and the time when it begins to sign.

Each record is signed by the previous key. The first key signs its own record, so the agent makes this record without
another key, and the file of the first key contains no records. The file of a later key holds the whole chain of
records. The database and the broker hold the chain too, so it continues if one of the three is lost.
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
    """A verified ``keys`` object, which holds the key records of a gateway. Keys are named by their thumbprints."""

    counter: int
    first: str  # thumbprint of the first key, which verifiers pin
    newest: str
    data: bytes
    kids: tuple[str, ...] = ()  # thumbprints of all keys, oldest first
    instead_of: str = ""  # thumbprint of the lost key that this chain replaces; "" if it replaces none


def signed_by(data: bytes) -> str:
    """Return the thumbprint that an object of the gateway names as its key. Does not check the signature."""
    header = json.loads(data)["sig"].partition(".")[0]
    kid: str = json.loads(base64url_decode(header))["kid"]
    return kid


@dataclass(frozen=True, slots=True)
class Revocation:
    """Revokes the key ``kid``.

    ``last`` gives a sequence for each full stream name; later signatures of this key in the stream are invalid.
    """

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
    """Return the canonical, signed ``keys`` object whose last record is the record of ``signer``.

    Args:
        gateway: full name of the gateway, such as ``park7/gw01``.
        before: the ``keys`` object to extend; None for the first key.
        old: the previous key, which signs the new record. It is not needed if ``before`` already ends with ``signer``.
        not_before: time from which the new key signs, UTC seconds; by default the creation time in its file.
        revokes: keys of ``before`` that the new record revokes.

    Raises:
        KeyFileError: ``before`` is invalid, it ends with neither ``signer`` nor ``old``, or it lacks a revoked key.
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
        earliest = records[-1]["not_before"]  # ``not_before`` must never decrease, even if the clock was set back
    since = max(earliest, signer.not_before if not_before is None else not_before)
    record = _record(signer, prev, since, revokes, old or signer)
    return _whole(signer, gateway, counter + 1, [*records, record])


def new_root(signer: Signer, gateway: str, lost: str, revokes: Sequence[Revocation] = ()) -> bytes:
    """Return the ``keys`` object of a key that replaces a lost key.

    The lost key cannot sign the new record, so the new key starts a new chain. The new chain's counter starts at the
    creation time of the new key in seconds, which is higher than any counter of the lost chain.
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
        "A new key is valid only with a record that the previous key has signed: restore the previous key, then run "
        f"`meterhouse keys rotate`. If the previous key is lost, run `meterhouse keys create --lost {known.newest}`; "
        "every verifier must then pin the new thumbprint"
    )
    what = f"the signing key is {signer.kid}, but the newest recorded key is {known.newest}"
    return KeyFileError(what, where=gateway, hint=hint)


def current_records(signer: Signer, gateway: str, known: bytes | None = None) -> bytes:
    """Return the ``keys`` object to publish with this key.

    Args:
        known: the ``keys`` object that was published last; None if it is no longer known.

    Returns:
        ``known`` itself if it ends with this key, so that the same bytes are published again. Otherwise the object from
        the key file or, for a first key, a new object.

    Raises:
        KeyFileError: this key does not follow the last key of ``known``, or its records belong to another gateway.
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
            f"the newest record in the key file is for {own.newest}, but the key is {signer.kid}",
            where=gateway,
            hint="Was the file edited? Restore the file that `meterhouse keys rotate` wrote",
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
            f"the key records in the file do not continue the published key records: {error}", where=gateway
        ) from error


def is_sound(data: bytes) -> bool:
    """True if a stored ``keys`` object is valid for the gateway that it names.

    False: the disk has damaged the object.
    """
    try:
        check_key_records(data, str(json.loads(data)["gateway"]))
    except (KeyFileError, ValueError, KeyError, TypeError):
        return False
    return True


def check_key_records(data: bytes, gateway: str, trust: str = "") -> KeyChain:
    """Check a ``keys`` object as a verifier does.

    Args:
        trust: if given, one key of the object must have this thumbprint.

    Raises:
        KeyFileError: the object or one of its records is invalid.
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
