"""Reads public keys, and uses them to check a detached JWS with unencoded payload (RFC 7515 appendix F, RFC 7797)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from .canonical import canonical
from .strict import Refused, parse_object, shown

TYP_PACK: Final = "mh-pack"
TYP_KEYS: Final = "mh-keys"
TYP_CHECKPOINT: Final = "mh-checkpoint"

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_HEADER_MEMBERS: Final = {"alg", "b64", "crit", "kid", "typ"}
_OKP_MEMBERS: Final = ("crv", "kty", "x")
_EC_MEMBERS: Final = ("crv", "kty", "x", "y")
COORDINATE: Final = 32  # number of bytes of a coordinate, for both kinds of keys
_PRIME: Final = 2**255 - 19
# The y coordinates of the eight points of small order; x can have either sign. If such a point were accepted as a key,
# anyone could make a signature that is valid for many messages.
_SMALL_ORDER: Final = frozenset(
    (
        0,
        1,
        _PRIME - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    )
)


class PublicKey(NamedTuple):
    """A public key. ``alg`` is taken from the key's record, never from a signature."""

    kid: str  # the key's thumbprint (RFC 7638)
    alg: str
    check: Callable[[bytes, bytes], None]  # arguments: signature, signed bytes; raises InvalidSignature


class Header(NamedTuple):
    """The protected header of a signature."""

    alg: str
    kid: str
    typ: str


def base64url(raw: bytes) -> str:
    """Encode as base64url (RFC 4648 section 5) without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unbase64url(text: str, what: str, code: str = "signature") -> bytes:
    """Decode base64url.

    Raises Refused if the text has padding, other characters, or unused last bits that are not 0.
    """
    if _BASE64URL.fullmatch(text):
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        if raw and base64url(raw) == text:
            return raw
    raise Refused(code, f"{what} is not base64url")


def hash_of(payload: bytes) -> str:
    """Return the hash of a payload in the form of ``prev``, ``birth`` and heads: SHA-256 as base64url."""
    return base64url(hashlib.sha256(payload).digest())


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the RFC 7638 thumbprint of an OKP or EC key. Raises Refused on any other key."""
    names = _OKP_MEMBERS if jwk.get("kty") == "OKP" else _EC_MEMBERS
    if not all(isinstance(jwk.get(name), str) for name in names):
        raise Refused("key", "expected a JWK of kty OKP (crv, x) or EC (crv, x, y)")
    return hash_of(canonical({name: jwk[name] for name in names}))


def public_key(alg: object, jwk: object) -> PublicKey:
    """Return the public key of a key record.

    A key is accepted in only one form, so that each key has only one thumbprint.

    Raises:
        Refused: the algorithm is neither Ed25519 nor ES256, or the JWK is not a public key for the algorithm.
    """
    if not isinstance(jwk, dict):
        raise Refused("key", "a key record has no JWK")
    if "d" in jwk:
        raise Refused("key", "a key record shows its private key; the gateway needs a new one")
    kid = thumbprint(jwk)
    try:
        if alg == "Ed25519" and (jwk["kty"], jwk["crv"]) == ("OKP", "Ed25519"):
            raw = _coordinate(jwk, "x")
            _check_order(raw)
            return PublicKey(kid, "Ed25519", Ed25519PublicKey.from_public_bytes(raw).verify)
        if alg == "ES256" and (jwk["kty"], jwk["crv"]) == ("EC", "P-256"):
            x, y = (int.from_bytes(_coordinate(jwk, name), "big") for name in "xy")
            curve = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            return PublicKey(kid, "ES256", _es256(curve))
    except ValueError as error:
        if isinstance(error, Refused):
            raise
        raise Refused("key", f"key {kid} is not a valid {shown(alg)} key") from None
    kind = f"kty {shown(jwk['kty'])}, crv {shown(jwk['crv'])}"
    raise Refused("key", f"algorithm {shown(alg)} with {kind}; expected Ed25519 or ES256")


def _coordinate(jwk: Mapping[str, Any], name: str) -> bytes:
    raw = unbase64url(jwk[name], f"{name} of the key", "key")
    if len(raw) != COORDINATE:
        raise Refused("key", f"{name} of the key has {len(raw)} bytes, expected {COORDINATE}")
    return raw


def _check_order(raw: bytes) -> None:
    """Raise Refused if a point has small order or is not in canonical form (RFC 8032, 5.1.3)."""
    y = int.from_bytes(raw, "little") & (1 << 255) - 1
    if y >= _PRIME:
        raise Refused("key", "x of the key is not in the form of RFC 8032")
    if y in _SMALL_ORDER:
        raise Refused("key", "x of the key is a point of small order: anyone could sign")


def check_signature(jws: object, payload: bytes, typ: str, keys: Mapping[str, PublicKey]) -> PublicKey:
    """Check a signature of ``payload`` with the type ``typ``. Returns the key of ``keys`` that made the signature.

    Raises:
        Refused: code ``signature`` if the signature does not fit the bytes; another code if the header is invalid.
    """
    if not isinstance(jws, str):
        raise Refused("signature", "no signature")
    encoded, _, rest = jws.partition(".")
    middle, dot, signature = rest.partition(".")
    if middle or not dot:
        raise Refused("signature", "not a detached JWS (header..signature)")
    header = read_header(encoded)
    if header.typ != typ:
        raise Refused("typ", f"signed as {shown(header.typ)}, expected {typ!r}")
    key = keys.get(header.kid)
    if key is None:
        raise Refused("kid", f"signed by {shown(header.kid)}, which is in no key record")
    if header.alg != key.alg:
        raise Refused("alg", f"signed as {shown(header.alg)}, but the key {key.kid} is for {key.alg}")
    try:
        key.check(unbase64url(signature, "the signature"), encoded.encode() + b"." + payload)
    except InvalidSignature:
        raise Refused("signature", f"the signature does not fit the bytes (key {key.kid})") from None
    return key


@lru_cache(maxsize=256)
def read_header(encoded: str) -> Header:
    """Read the header from a signature's first part. Raises Refused if it does not have exactly the five members."""
    if len(encoded) > 1024:
        raise Refused("header", "a JWS header of more than 1024 characters")
    try:
        header = parse_object(unbase64url(encoded, "the JWS header"))
    except Refused as error:
        raise Refused("header", f"JWS header: {error.text}") from None
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not (isinstance(alg, str) and isinstance(kid, str) and isinstance(typ, str)):
        raise Refused("header", "a JWS header without alg, kid and typ")
    if header.get("b64") is not False or header.get("crit") != ["b64"]:
        raise Refused("header", 'a JWS header without "b64":false and "crit":["b64"]')
    if header.keys() != _HEADER_MEMBERS:
        strange = ", ".join(map(shown, sorted(header.keys() - _HEADER_MEMBERS)[:5]))
        raise Refused("header", f"JWS header members [{strange}] are not allowed")
    return Header(alg, kid, typ)


def _es256(key: ec.EllipticCurvePublicKey) -> Callable[[bytes, bytes], None]:
    def check(signature: bytes, signed: bytes) -> None:
        if len(signature) != 64:  # a signature is R and S, 32 bytes each (RFC 7518 section 3.4)
            raise InvalidSignature
        r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
        key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))

    return check
