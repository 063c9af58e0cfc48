"""Keys of any kind behind one small protocol, and the signatures made with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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
    """The public JWK of a point on P-256."""
    return {"crv": "P-256", "kty": "EC", "x": base64url(x.to_bytes(32, "big")), "y": base64url(y.to_bytes(32, "big"))}


class SecretKey(Protocol):
    """A key of any kind, even one that never leaves its token: it can only sign."""

    alg: str  # Ed25519 (RFC 9864) or ES256
    jwk: Mapping[str, str]  # the public half

    def sign(self, message: bytes) -> bytes:
        """The signature in JOSE's form, 64 bytes. Raises KeyFileError if a token cannot sign now."""


class SoftEd25519:
    """An Ed25519 key in memory."""

    alg = "Ed25519"

    def __init__(self, key: Ed25519PrivateKey) -> None:
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.jwk: Mapping[str, str] = {"crv": "Ed25519", "kty": "OKP", "x": base64url(public)}
        self.sign = key.sign  # the bound method itself saves a call on the hot path


class SoftES256:
    """An ECDSA key on P-256 in memory, for sites that must use one."""

    alg = "ES256"

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        numbers = key.public_key().public_numbers()
        self.jwk: Mapping[str, str] = p256_jwk(numbers.x, numbers.y)
        self._key, self._how, self._numbers = key, ECDSA(SHA256()), decode_dss_signature

    def sign(self, message: bytes) -> bytes:
        """r and s of 32 bytes each."""
        r, s = self._numbers(self._key.sign(message, self._how))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Signer:
    """Signs with one key. Safe to use from one thread at a time.

    Args:
        not_before: since when the key exists, UTC seconds; 0 if unknown.
        records: the ``keys`` object stored with the key, ending with it; None for a first key.
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
        """A function from payload to detached JWS of one type, whose header is encoded once."""
        if typ not in self._signers:
            header = {"alg": self.alg, "b64": False, "crit": ["b64"], "kid": self.kid, "typ": typ}
            encoded = base64url(dumps(header))
            lead, prefix, raw_sign = encoded.encode() + b".", encoded + "..", self._key.sign

            def sign(payload: bytes) -> str:
                return prefix + base64url(raw_sign(lead + payload))

            self._signers[typ] = sign
        return self._signers[typ]

    def sign(self, typ: str, payload: bytes) -> str:
        """Detached JWS (RFC 7515 appendix F, RFC 7797 ``b64: false``) over canonical bytes."""
        return self.signer(typ)(payload)

    def sign_object(self, typ: str, value: Mapping[str, Any]) -> bytes:
        """``value`` in canonical form including its ``sig``, ready to publish."""
        return dumps({**value, "sig": self.sign(typ, dumps(dict(value)))})
