"""A key that never leaves its token (a TPM, a smart card, an HSM), used through PKCS#11.

The key file holds the key's URI (RFC 7512), ``pkcs11:token=T;object=O?module-path=/usr/lib/L.so&pin-source=S``, where
``S`` is a file that only its owner may read, or ``credential:NAME`` of systemd. The key may be P-256 or Ed25519. Only
this module imports the package python-pkcs11, so that gateways without a token do not need the package.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, unquote_to_bytes

from agent.keys.secret import read_secret
from agent.keys.signer import KeyFileError, p256_jwk
from drivers.encoding import base64url
from drivers.model import clean_text

_KNOWN = ("token", "serial", "object", "id", "type", "module-path", "pin-source")
_HINT = (
    "Write for example pkcs11:token=park7;object=signing?module-path=/usr/lib/softhsm/libsofthsm2.so"
    "&pin-source=file:/etc/meterhouse/token.pin"
)


class TokenError(KeyFileError):
    """The token cannot sign now, for example because it is unplugged, locked or restarting. It may sign again later."""

    retry: ClassVar[bool] = True
    exit_code: ClassVar[int] = 4  # the same exit code as for a device that does not answer


class PinRejected(TokenError):
    """The token rejected the PIN. Nobody may try again with the same PIN, because the token could lock itself."""

    retry: ClassVar[bool] = False


class NoUsableKey(TokenError):
    """The token has no such key, or the key cannot sign. Nobody need try again before the URI or the token changes."""

    retry: ClassVar[bool] = False


class TokenKey:
    """One key of a token. If the session with the token is lost, the next signature opens a new session.

    Args:
        uri: the key's URI, as in the key file.
        make: True: create a P-256 key in the token if no key has this name. The private half of the new key cannot be
            read out.
        where: the key file, for messages.

    Raises:
        KeyFileError: the URI is wrong, the PIN cannot be read, or python-pkcs11 is not installed.
        TokenError: the token is missing.
        NoUsableKey: the key is missing, or cannot be used.
        PinRejected: the PIN is wrong.
    """

    def __init__(self, uri: str, make: bool = False, where: str = "") -> None:
        self.uri = uri
        self._where = where or clean_text(uri.partition("?")[0], 120)
        self._parts = _parts(uri, self._where)
        try:
            self._pkcs11: Any = import_module("pkcs11")
        except ImportError as error:
            hint = "Run pip install 'meterhouse[hardware]' in the environment of the agent"
            raise KeyFileError(
                "a key in a token needs the package python-pkcs11", where=self._where, hint=hint
            ) from error
        self._session: Any = None
        self._private: Any = None
        self.alg = ""
        self.jwk: Mapping[str, str] = {}
        try:
            self._open(make)
        except BaseException:
            self.close()  # python-pkcs11 closes no session by itself, and a token allows only a few
            raise

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature.

        Retries once with a new session, because a token loses its session when it resets.
        """
        if self._private is not None:
            try:
                return self._sign(message)
            except self._pkcs11.exceptions.PKCS11Error:
                self.close()
        self._open(False)
        try:
            return self._sign(message)
        except self._pkcs11.exceptions.PKCS11Error as error:
            raise self._error("the token failed to sign", error) from error

    def _sign(self, message: bytes) -> bytes:
        mechanism = self._pkcs11.Mechanism
        if self.alg == "ES256":
            # many tokens sign only hashes; the result is r and s, 32 bytes each, as JOSE requires
            found = self._private.sign(hashlib.sha256(message).digest(), mechanism=mechanism.ECDSA)
        else:
            found = self._private.sign(message, mechanism=mechanism.EDDSA)
        return bytes(found)

    def close(self) -> None:
        """Close the session; the next signature opens a new one."""
        if self._session is not None:
            try:
                self._session.close()
            except self._pkcs11.exceptions.PKCS11Error:
                return  # the session was lost already, so there is nothing to close
            finally:
                self._session = self._private = None

    def _open(self, make: bool) -> None:
        self.close()
        errors = self._pkcs11.exceptions
        pin = self._pin()
        try:
            token = self._token()
            try:
                self._session = token.open(user_pin=pin, rw=make)
            except (
                errors.UserAlreadyLoggedIn
            ):  # this is not an error: the process has already logged in for another key
                self._session = token.open(rw=make)
            alg, jwk = self._find(make)
        except (errors.PinIncorrect, errors.PinInvalid, errors.PinLenRange, errors.PinLocked) as error:
            raise self._error(
                "the PIN was rejected",
                error,
                "Check the PIN before you try again: a token locks itself after several wrong PINs",
                PinRejected,
            ) from error
        except errors.PKCS11Error as error:
            raise self._error("the token cannot be used", error) from error
        if self.jwk and (alg, jwk) != (self.alg, self.jwk):
            self.close()
            raise self._error("another key in the token now has this name")
        self.alg, self.jwk = alg, jwk

    def _token(self) -> Any:
        errors = self._pkcs11.exceptions
        library = self._pkcs11.lib(self._parts["module-path"])
        wanted = {
            "token_label": self._parts.get("token"),
            "token_serial": self._parts.get("serial", "").encode() or None,
        }
        try:
            return library.get_token(**{name: value for name, value in wanted.items() if value})
        except errors.NoSuchToken as error:
            there = ", ".join(sorted(f"{token.label!r}" for token in library.get_tokens())) or "none at all"
            raise self._error("token not found", None, f"Available tokens: {there}") from error

    def _find(self, make: bool) -> tuple[str, dict[str, str]]:
        """Find the key and keep it for ``sign``. If ``make`` is True, create a missing key.

        Returns (algorithm, public JWK).
        """
        pkcs11 = self._pkcs11
        named = {"label": self._parts.get("object"), "id": unquote_to_bytes(self._parts.get("id", "")) or None}
        wanted = {name: value for name, value in named.items() if value}
        try:
            self._private = self._session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, **wanted)
        except pkcs11.exceptions.NoSuchKey as error:
            if not make:
                hint = "Is the object's name right?"
                raise self._error("key not found in the token", None, hint, NoUsableKey) from error
            curve = import_module("pkcs11.util.ec").encode_named_curve_parameters("secp256r1")
            params = self._session.create_domain_parameters(
                pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
            )
            self._private = params.generate_keypair(store=True, **wanted)[1]
        except pkcs11.exceptions.MultipleObjectsReturned as error:
            hint = "Add the id of one key to the URI, for example ;id=%01"
            raise self._error("several keys of the token have this name", None, hint, NoUsableKey) from error
        public = self._session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, **wanted)
        point = bytes(public[pkcs11.Attribute.EC_POINT])
        if point[:1] == b"\x04" and len(point) in {34, 67}:  # the standard wraps the point in a DER octet string
            point = point[2:]
        if public.key_type == pkcs11.KeyType.EC and len(point) == 65:
            return "ES256", p256_jwk(int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:], "big"))
        if public.key_type == pkcs11.KeyType.EC_EDWARDS and len(point) == 32:
            return "Ed25519", {"crv": "Ed25519", "kty": "OKP", "x": base64url(point)}
        raise self._error("the key is neither a P-256 key nor an Ed25519 key", kind=NoUsableKey)

    def _pin(self) -> str | None:
        source = self._parts.get("pin-source", "")
        if not source:
            return None
        if source.startswith("credential:"):
            path = Path(os.environ.get("CREDENTIALS_DIRECTORY", "")) / source.removeprefix("credential:")
        else:
            path = Path(source.removeprefix("file:"))
        hint = (
            "Write pin-source=file:/PATH, or pin-source=credential:NAME with LoadCredential=NAME:/PATH in the systemd "
            "unit"
        )
        return read_secret(path, "PIN of the token", hint, any_owner=True)[0].decode("utf-8", "replace").strip()

    def _error(
        self, what: str, error: Exception | None = None, hint: str = "", kind: type[TokenError] = TokenError
    ) -> TokenError:
        why = (
            ""
            if error is None
            else f" ({type(error).__name__}{': ' if str(error) else ''}{clean_text(str(error), 120)})"
        )
        if not hint:
            hint = (
                "Is the token plugged in? `pkcs11-tool --module MODULE --list-token-slots` lists the available tokens"
            )
        return kind(what + why, where=self._where, hint=hint)


def _parts(uri: str, where: str) -> dict[str, str]:
    """Return the attributes of a PKCS#11 URI. The attribute ``id`` stays percent-encoded, because it is binary.

    Raises KeyFileError.
    """
    scheme, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    found: dict[str, str] = {}
    for item in filter(None, [*path.split(";"), *query.split("&")]):
        name, _, value = item.partition("=")
        if name == "pin-value":
            raise KeyFileError("the URI must not contain the PIN", where=where, hint="Write pin-source=file:/PATH")
        if name not in _KNOWN:
            hint = f"Known: {', '.join(_KNOWN)}"
            raise KeyFileError(f"{clean_text(name, 40)!r} is not a known part of a token URI", where=where, hint=hint)
        found[name] = value if name == "id" else unquote(value)
    if scheme != "pkcs11" or not ({"token", "serial"} & found.keys() and {"object", "id"} & found.keys()):
        raise KeyFileError("the URI must name token and object", where=where, hint=_HINT)
    if "module-path" not in found:
        raise KeyFileError(
            "module-path, the path of the library that talks to the token, is missing", where=where, hint=_HINT
        )
    return found
