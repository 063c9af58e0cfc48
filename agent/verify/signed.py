"""Checks signed objects.

Anyone who may publish on a topic can send any bytes. So the signature is looked up and checked before the bytes are
parsed. Bytes that no known key signed are parsed only if they are small, so they cost little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from json import JSONEncoder
from typing import Any, Final, NamedTuple

from .canonical import canonical
from .jws import PublicKey, base64url, check_signature, read_header
from .strict import MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS, Columns, Refused, parse_columns

SIG_MEMBER: Final = b'"sig":"'
MAXSIG_MEMBER: Final = 2048  # limit of the bytes of the member ``sig``
_ENCODER: Final = JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"))
# Numbers that the standard library's encoder may write in another form, such as 1e-07 for 1e-7, or 1.0 for 1.
_OTHER_NUMBERS: Final = re.compile(rb"[:,\[]-?[0-9.]+e|\.0[,}\]]")


class FoundSignature(NamedTuple):
    """A signature that was found in canonical bytes without parsing them."""

    sig: str
    kid: str
    key: PublicKey | None = None  # None: the key is not known
    typ: str = ""
    payload: bytes | None = None  # the signed bytes; None: the signature is not valid for these bytes


class Signed(NamedTuple):
    """An object with a valid signature."""

    value: dict[str, Any]  # all members, including ``sig``
    payload: bytes
    digest: bytes  # SHA-256 of the signed bytes
    key: PublicKey
    rewritten: bool  # True: the object was re-serialised in transit

    @property
    def hash(self) -> str:
        """The hash of this object in the form in which other objects refer to it, such as in ``prev`` or ``birth``."""
        return base64url(self.digest)


def cut_signature(raw: bytes, sig: str) -> bytes | None:
    """Return ``raw`` without its member ``sig``; None if ``raw`` does not have it exactly once in canonical form."""
    member = b',"sig":"' + sig.encode() + b'"'
    before, found, after = raw.partition(member)
    if not found or member in after:
        return None
    return before + after


def signature_of(raw: bytes) -> str | None:
    """Return the value of the last member ``sig`` of canonical bytes, without parsing them; None if there is none."""
    start = raw.rfind(SIG_MEMBER) + len(SIG_MEMBER)
    end = raw.find(b'"', start, start + MAXSIG_MEMBER)
    if not len(SIG_MEMBER) <= start < end or not raw[start:end].isascii():
        return None
    return raw[start:end].decode("ascii")


def payload_hash(raw: bytes) -> bytes:
    """Return the SHA-256 of the signed part of canonical bytes: the object without ``sig``. Raises ValueError."""
    sig = signature_of(raw)
    payload = cut_signature(raw, sig) if sig is not None else None
    if payload is None:
        raise ValueError("the object has no signature in canonical form")
    return sha256(payload).digest()


def find_signature(raw: bytes, keys: Mapping[str, PublicKey]) -> FoundSignature | None:
    """Find the signature of an object in canonical form without parsing the object. Returns None if there is none.

    Args:
        keys: all known keys of all gateways. After parsing, the caller checks whether the key may sign this object.
    """
    sig = signature_of(raw)
    if sig is None:
        return None
    try:
        header = read_header(sig.partition(".")[0])
    except Refused:
        return None
    key = keys.get(header.kid)
    if key is None:
        return FoundSignature(sig, header.kid)
    payload = cut_signature(raw, sig)
    try:
        if payload is not None:
            check_signature(sig, payload, header.typ, keys)
    except Refused:
        payload = None
    return FoundSignature(sig, header.kid, key, header.typ, payload)


def without_signature(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the signed members, which are all members except ``sig``."""
    return {name: inner for name, inner in value.items() if name != "sig"}


def payload_of(value: Mapping[str, Any]) -> bytes:
    """Return the bytes that are signed, which are the canonical form of the object without ``sig``."""
    return canonical(without_signature(value))


def is_canonical(signed: Signed) -> bool:
    """True if the signed bytes are in canonical form. If not, nobody could compute the hash from the object's content.

    The standard library's fast encoder is tried first. It writes the canonical form if all text is ASCII and
    ``_OTHER_NUMBERS`` finds nothing. If its result differs from the bytes, the slow encoder decides.
    """
    payload = signed.payload
    members = without_signature(signed.value)
    if payload.isascii() and not _OTHER_NUMBERS.search(payload) and _ENCODER.encode(members).encode() == payload:
        return True
    return canonical(members) == payload


def parse_found(raw: bytes, found: FoundSignature | None) -> tuple[dict[str, Any], Columns | None]:
    """Parse an object. Returns the object, and the columns of its records (None if it has none).

    Raises Refused, also for bytes that are large and not signed by a known key.
    """
    if found and found.payload is not None:
        return parse_columns(raw, records="e")
    try:
        return parse_columns(raw, MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS, "e")
    except Refused as error:
        if error.code == "size" and found and found.key:
            text = (
                f"the signature does not fit the bytes (key {found.kid}), and there are too many to canonicalise them"
            )
            raise Refused("signature", f"{text}: {error.text}") from None
        raise


def check_signed(
    raw: bytes, value: dict[str, Any], typ: str, keys: Mapping[str, PublicKey], found: FoundSignature | None = None
) -> Signed:
    """Check the signature of ``value``, which was parsed from ``raw``.

    The received bytes are tried first. If the signature does not fit them, the object is canonicalised and tried again.

    Args:
        found: the result of ``find_signature`` for ``raw``, so that the signature is not checked twice.

    Raises:
        Refused: as in ``check_signature``.
    """
    sig = value.get("sig")
    if found and found.payload is not None and (found.sig, found.typ) == (sig, typ):
        known = keys.get(found.kid)
        if known is not None and known is found.key:
            return Signed(value, found.payload, sha256(found.payload).digest(), known, rewritten=False)
    cut = cut_signature(raw, sig) if isinstance(sig, str) and sig.isascii() else None
    if cut is not None:
        try:
            key = check_signature(sig, cut, typ, keys)
        except Refused as error:
            if error.code != "signature" or payload_of(value) == cut:
                raise
        else:
            return Signed(value, cut, sha256(cut).digest(), key, rewritten=False)
    payload = payload_of(value)
    key = check_signature(sig, payload, typ, keys)
    return Signed(value, payload, sha256(payload).digest(), key, rewritten=True)
