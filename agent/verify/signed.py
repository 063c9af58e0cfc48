"""A signed object: payload, hash and the key that signed it.

Anyone who may publish on a topic can send anything. So the signature is searched in the bytes before they are parsed:
an object of an unknown key costs only that search, and only an object whose bytes a known key signed may be large.
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
MAXSIG_MEMBER: Final = 2048  # bytes of it
_ENCODER: Final = JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"))
_OTHER_NUMBERS: Final = re.compile(rb"[:,\[]-?[0-9.]+e|\.0[,}\]]")  # 1e-07 for 1e-7, 1.0 for 1


class FoundSignature(NamedTuple):
    """A signature as canonical bytes have it, found without parsing them."""

    sig: str
    kid: str
    key: PublicKey | None = None  # None: not known
    typ: str = ""
    payload: bytes | None = None  # None: the key did not sign these bytes


class Signed(NamedTuple):
    """An object whose signature holds."""

    value: dict[str, Any]  # with sig
    payload: bytes
    digest: bytes  # SHA-256 of payload
    key: PublicKey
    rewritten: bool  # the received bytes are not the signed ones: re-serialised in transit

    @property
    def hash(self) -> str:
        """The hash by which ``prev``, ``birth`` and heads name this object."""
        return base64url(self.digest)


def cut_signature(raw: bytes, sig: str) -> bytes | None:
    """``raw`` without its member ``sig``; None unless it occurs exactly once, in canonical form."""
    member = b',"sig":"' + sig.encode() + b'"'
    before, found, after = raw.partition(member)
    if not found or member in after:
        return None
    return before + after


def signature_of(raw: bytes) -> str | None:
    """The value of the last member ``sig``, as canonical bytes have it; None if there is none. Nothing is parsed."""
    start = raw.rfind(SIG_MEMBER) + len(SIG_MEMBER)
    end = raw.find(b'"', start, start + MAXSIG_MEMBER)
    if not len(SIG_MEMBER) <= start < end or not raw[start:end].isascii():
        return None
    return raw[start:end].decode("ascii")


def payload_hash(raw: bytes) -> bytes:
    """SHA-256 of what the signature of canonical bytes is over: the object without ``sig``. Raises ValueError."""
    sig = signature_of(raw)
    payload = cut_signature(raw, sig) if sig is not None else None
    if payload is None:
        raise ValueError("no signature in canonical form")
    return sha256(payload).digest()


def find_signature(raw: bytes, keys: Mapping[str, PublicKey]) -> FoundSignature | None:
    """The signature of an object in canonical form, found without parsing it; None if there is none.

    Args:
        keys: all known keys, of any gateway; which of them may sign this object is checked after parsing.
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
    """The members that are signed."""
    return {name: inner for name, inner in value.items() if name != "sig"}


def payload_of(value: Mapping[str, Any]) -> bytes:
    """The canonical bytes that are signed."""
    return canonical(without_signature(value))


def is_canonical(signed: Signed) -> bool:
    """Are the signed bytes in canonical form? Otherwise nobody else could compute the hash from the content.

    The standard library's encoder is tried first. It writes the same, except where ``_OTHER_NUMBERS`` finds something
    or a name is not ASCII; then, and where the bytes differ, the slow one decides.
    """
    payload = signed.payload
    members = without_signature(signed.value)
    if payload.isascii() and not _OTHER_NUMBERS.search(payload) and _ENCODER.encode(members).encode() == payload:
        return True
    return canonical(members) == payload


def parse_found(raw: bytes, found: FoundSignature | None) -> tuple[dict[str, Any], Columns | None]:
    """The object and the columns of its records. Bytes that no known key has signed must be small. Raises Refused."""
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

    The received bytes are tried first. If they do not fit, the object is canonicalised and tried again.

    Args:
        found: the signature found in the same bytes, to check nothing twice.

    Raises:
        Refused: as ``check_signature``.
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
