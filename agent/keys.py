"""The key that signs packs: made, kept, checked, and its public half as a signed record.

A key file is a PEM (PKCS 8) that only its owner may read. The text before it says since when the key exists, so that
a systemd credential carries that along; the same key therefore always gives the identical key record object.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.pack import base64url
from drivers.model import GatewayError
from ext.canon import dumps

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

TYP_PACK, TYP_KEYS, TYP_CHECKPOINT = "mh-pack", "mh-keys", "mh-checkpoint"
MAX_KEY_BYTES = 64 * 1024
_SINCE = b"not_before: "


class KeyFileError(GatewayError):
    """The signing key cannot be used. Never shows anything of the key."""

    exit_code = 3


def thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638: SHA-256 over the required members of a public JWK in order, base64url."""
    needed = ("crv", "kty", "x", "y") if jwk["kty"] == "EC" else ("crv", "kty", "x")
    return base64url(hashlib.sha256(dumps({name: jwk[name] for name in needed})).digest())


class SecretKey(Protocol):
    """The slot for keys of any kind, also those that never leave a token: it can sign, that is all."""

    alg: str  # Ed25519 (RFC 9864) or ES256
    jwk: Mapping[str, str]  # the public half

    def sign(self, message: bytes) -> bytes:
        """64 bytes: the signature as JOSE wants it."""


class SoftEd25519:
    """An Ed25519 key in memory."""

    alg = "Ed25519"

    def __init__(self, key: Ed25519PrivateKey) -> None:
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.jwk: Mapping[str, str] = {"crv": "Ed25519", "kty": "OKP", "x": base64url(public)}
        self.sign = key.sign  # the bound method itself: one call less on the hot road


class SoftES256:
    """An ECDSA key on P-256 in memory, for sites that must use one."""

    alg = "ES256"

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        numbers = key.public_key().public_numbers()
        x, y = (base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        self.jwk: Mapping[str, str] = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        self._key, self._how, self._numbers = key, ECDSA(SHA256()), decode_dss_signature

    def sign(self, message: bytes) -> bytes:
        """r and s of 32 bytes each."""
        r, s = self._numbers(self._key.sign(message, self._how))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Signer:
    """Signs with one key. Safe to use from one thread at a time."""

    def __init__(self, key: SecretKey, not_before: int = 0) -> None:
        self._key = key
        self.alg = key.alg
        self.jwk = dict(key.jwk)
        self.kid = thumbprint(key.jwk)
        self.not_before = not_before
        self._signers: dict[str, Callable[[bytes], str]] = {}

    def signer(self, typ: str) -> Callable[[bytes], str]:
        """A function from payload to detached JWS of one type; its header is encoded once."""
        if typ not in self._signers:
            header = {"alg": self.alg, "b64": False, "crit": ["b64"], "kid": self.kid, "typ": typ}
            encoded = base64url(dumps(header))
            lead, prefix, raw_sign = encoded.encode() + b".", encoded + "..", self._key.sign
            encode = base64.urlsafe_b64encode

            def sign(payload: bytes) -> str:
                return prefix + encode(raw_sign(lead + payload)).rstrip(b"=").decode()

            self._signers[typ] = sign
        return self._signers[typ]

    def sign(self, typ: str, payload: bytes) -> str:
        """Detached JWS (RFC 7515 appendix F, RFC 7797 ``b64: false``) over canonical bytes."""
        return self.signer(typ)(payload)

    def sign_object(self, typ: str, value: Mapping[str, Any]) -> bytes:
        """``value`` in canonical form with its ``sig`` inside, ready to be published."""
        return dumps({**value, "sig": self.sign(typ, dumps(dict(value)))})


# --- files


def create_key(path: Path, now_s: int) -> Signer:
    """A new Ed25519 key in a file of mode 0600. Appears whole or not at all, and never over another.

    Raises:
        KeyFileError: there is a file already, or the place cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    made = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = b"meterhouse signing key of %s. Keep it secret.\n%s%d\n" % (made.encode(), _SINCE, now_s) + pem
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(fd, 0o600)
            os.write(fd, text)
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(draft, path)  # unlike rename, fails where something is
        finally:
            os.unlink(draft)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise KeyFileError(
            "there is a file already, and a key is never overwritten",
            where=str(path),
            hint="`meterhouse keys show` shows it. Packs signed with it can only be checked as long as it is known",
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"the key cannot be written here ({error.strerror})", where=str(path), hint="Try it as root, or elsewhere"
        ) from error
    return Signer(SoftEd25519(key), now_s)


def load_key(path: Path) -> Signer:
    """The key in a PEM file or systemd credential.

    Raises:
        KeyFileError: missing, readable by others, or not an Ed25519 or P-256 key without a passphrase.
    """
    text = _read_secret(path)
    try:
        key: object = load_pem_private_key(text, password=None)
    except TypeError as error:
        raise KeyFileError(
            "the key has a passphrase, which nobody can type at a service's start",
            where=str(path),
            hint="Use a systemd credential (LoadCredentialEncrypted=) to keep it encrypted on disk",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            "this is not a private key in PEM form", where=str(path), hint="Make one: `meterhouse keys create`"
        ) from error
    if isinstance(key, Ed25519PrivateKey):
        return Signer(SoftEd25519(key), _not_before(text))
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # rarely wanted

    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
        return Signer(SoftES256(key), _not_before(text))
    raise KeyFileError(
        f"a key of kind {type(key).__name__} cannot sign packs",
        where=str(path),
        hint="Ed25519 (`meterhouse keys create`) or ECDSA on P-256 is wanted",
    )


def _read_secret(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise KeyFileError(
            "there is no signing key", where=str(path), hint=f"Make one: `meterhouse keys create {path}`"
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"the signing key cannot be read ({error.strerror})",
            where=str(path),
            hint="It must belong to the user that runs the agent",
        ) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError("this is not a file", where=str(path), hint="Name the key file itself")
        _check_access(path, found)
        return os.read(fd, MAX_KEY_BYTES)
    finally:
        os.close(fd)


def _check_access(path: Path, found: os.stat_result) -> None:
    """Only the owner may read, and the owner is us. A file of root that one group may read is good as well."""
    # so systemd hands out credentials (the group bits are then the mask of an ACL), and so packages install secrets
    me, mode = os.geteuid(), stat.S_IMODE(found.st_mode)
    if found.st_uid not in {me, 0}:
        raise KeyFileError(
            f"the signing key belongs to user {found.st_uid}, not to user {me} who runs this",
            where=str(path),
            hint=f"sudo chown {me} {path}",
        )
    open_bits = 0o037 if found.st_uid == 0 and me != 0 else 0o077
    if mode & open_bits:
        raise KeyFileError(
            f"others may read or change the signing key (mode {mode:04o})",
            where=str(path),
            hint=f"chmod 600 {path}; if others could read it for a while, make a new key",
        )


def _not_before(text: bytes) -> int:
    head = text.partition(b"-----BEGIN")[0]
    for line in head.splitlines():
        if line.startswith(_SINCE):
            with contextlib.suppress(ValueError):
                return max(0, int(line[len(_SINCE) :]))
    return 0  # a key made elsewhere: valid from the beginning


# --- records


@dataclass(frozen=True, slots=True)
class KeyRecords:
    """A checked ``keys`` object."""

    counter: int
    first: str  # the thumbprint to pin
    newest: str
    data: bytes


def key_records(
    signer: Signer, gateway: str, before: bytes | None = None, old: Signer | None = None, not_before: int | None = None
) -> bytes:
    """The ``keys`` object that ends with the key of ``signer``, canonical and signed.

    Args:
        gateway: ``park7/gw01``.
        before: the object to go on from; None for the first key.
        old: signs the new record; needed where ``before`` ends with another key.
        not_before: since when the new key signs, UTC seconds; its own time by default.

    Raises:
        KeyFileError: the key neither ends ``before`` nor may follow it.
    """
    records: list[dict[str, Any]] = []
    counter, prev = 0, None
    if before is not None:
        known = check_key_records(before, gateway)
        if known.newest == signer.kid:
            return before
        if old is None or old.kid != known.newest:
            raise KeyFileError(
                f"the signing key is {signer.kid}, but the last one recorded is {known.newest}",
                where=gateway,
                hint="A new key must be recorded by the one before: put that one back, or rotate",
            )
        records, counter, prev = list(json.loads(before)["records"]), known.counter, known.newest
    since = signer.not_before if not_before is None else not_before
    record = {"alg": signer.alg, "jwk": signer.jwk, "kid": signer.kid, "not_before": since, "prev": prev}
    record["sig"] = (old or signer).sign(TYP_KEYS, dumps(record))
    whole = {"counter": counter + 1, "gateway": gateway, "records": [*records, record], "v": 1}
    return signer.sign_object(TYP_KEYS, whole)


def check_key_records(data: bytes, gateway: str, trust: str = "") -> KeyRecords:
    """A ``keys`` object as any verifier checks it. ``trust``: thumbprint that the first key must have.

    Raises:
        KeyFileError: whatever does not hold.
    """
    from agent.verify.keyring import KeyRing
    from agent.verify.strict import Refused, parse_object

    ring = KeyRing(gateway, [trust] if trust else [])
    try:
        ring.update(data, parse_object(data))
    except Refused as error:
        raise KeyFileError(f"the key records do not hold: {error}", where=gateway) from error
    kids = list(ring.order)
    return KeyRecords(ring.counter or 0, kids[0], kids[-1], data)
