"""Defines ``SecretKey``, the interface of all kinds of signing keys, and ``Signer``, which signs with such a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from agent.verify.jws import thumbprint
from drivers.encoding import base64url
from drivers.model import GatewayError
from ext.canon import dumps

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class KeyFileError(GatewayError):
    """The signing key cannot be used. The message never shows any part of the key."""

    exit_code = 3


def p256_jwk(x: int, y: int) -> dict[str, str]:
    """Return the public JWK of a point on P-256."""
    return {"crv": "P-256", "kty": "EC", "x": base64url(x.to_bytes(32, "big")), "y": base64url(y.to_bytes(32, "big"))}


class SecretKey(Protocol):
    """A signing key in memory or in a token. The interface only signs, because a key in a token cannot be read."""

    alg: str  # Ed25519 (RFC 9864) or ES256
    jwk: Mapping[str, str]  # the public half of the key

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature, as JOSE encodes it. Raises KeyFileError if a token cannot sign now."""


class SoftEd25519:
    """An Ed25519 key in memory."""

    alg = "Ed25519"

    def __init__(self, key: Ed25519PrivateKey) -> None:
        public = base64url(key.public_key().public_bytes_raw())
        self.jwk: Mapping[str, str] = {"crv": "Ed25519", "kty": "OKP", "x": public}
        self.sign = key.sign  # this attribute replaces a method, which saves one call per signature


class SoftES256:
    """An ECDSA key on P-256 in memory, for sites where P-256 is mandatory."""

    alg = "ES256"

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        numbers = key.public_key().public_numbers()
        self.jwk: Mapping[str, str] = p256_jwk(numbers.x, numbers.y)
        self._key, self._how, self._numbers = key, ECDSA(SHA256()), decode_dss_signature

    def sign(self, message: bytes) -> bytes:
        """Return the signature: r and s, 32 bytes each."""
        r, s = self._numbers(self._key.sign(message, self._how))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Signer:
    """Signs with one key. Only one thread at a time may use it.

    Args:
        not_before: time when the key was created, in UTC seconds; 0 if unknown.
        records: the ``keys`` object from the key file, which ends with this key; None for a first key.
    """

    def __init__(self, key: SecretKey, not_before: int = 0, records: bytes | None = None) -> None:
        self._key = key
        self.alg = key.alg
        self.jwk = dict(key.jwk)
        self.kid = thumbprint(key.jwk)
        self.not_before = not_before
        self.records = records
        self.in_token = hasattr(key, "uri")
        self._signers: dict[str, Callable[[bytes], str]] = {}

    def signer(self, typ: str) -> Callable[[bytes], str]:
        """Return a function that makes the detached JWS of a payload. The header for ``typ`` is encoded only once."""
        if typ not in self._signers:
            header = {"alg": self.alg, "b64": False, "crit": ["b64"], "kid": self.kid, "typ": typ}
            encoded = base64url(dumps(header))
            lead, prefix, raw_sign = encoded.encode() + b".", encoded + "..", self._key.sign

            def sign(payload: bytes) -> str:
                return prefix + base64url(raw_sign(lead + payload))

            self._signers[typ] = sign
        return self._signers[typ]

    def sign(self, typ: str, payload: bytes) -> str:
        """Return a detached JWS (RFC 7515 appendix F, RFC 7797 ``b64: false``) over canonical bytes."""
        return self.signer(typ)(payload)

    def sign_object(self, typ: str, value: Mapping[str, Any]) -> bytes:
        """Return ``value`` in canonical form with its ``sig``, ready to publish."""
        return dumps({**value, "sig": self.sign(typ, dumps(dict(value)))})
