"""The password of the page, stored as a scrypt hash. A check takes 16 MB, so checks run singly at a limited rate."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from drivers.encoding import base64url, base64url_decode
from drivers.model import ConfigError

N, R, P = 1 << 14, 8, 1  # a check takes 128 * N * R bytes = 16 MB and some 50 ms
SALT_BYTES: Final = 16
SHORTEST: Final = 10
LONGEST: Final = 200
TRIES: Final = 5  # number of login attempts that an address may make without waiting
TRY_EVERY_S: Final = 30.0  # an address gets one more attempt after each such period
MOST_ADDRESSES: Final = 1000
MOST_WAITING: Final = 4  # number of logins that may wait for the check in progress
_LINE = re.compile(r"scrypt\$([A-Za-z0-9_-]{22})\$([A-Za-z0-9_-]{43})")


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=N, r=R, p=P, maxmem=64 << 20, dklen=32)


@dataclass(frozen=True, slots=True, repr=False)
class PasswordHash:
    """Salt and hash of the password. A file stores them as one line: ``scrypt$SALT$HASH``."""

    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str) -> PasswordHash:
        """Return the hash of a new password, with a new salt."""
        salt = secrets.token_bytes(SALT_BYTES)
        return cls(salt, _hash(password, salt))

    @classmethod
    def parse(cls, data: bytes, where: str) -> PasswordHash:
        """Parse the line of a file.

        Raises ConfigError, whose text never shows the line, because it may be a password.
        """
        match = _LINE.fullmatch(data.decode("ascii", "replace").strip())
        if match is None:
            hint = "`meterhouse web --setup` makes the hash; never store the password itself"
            raise ConfigError("the text is not the hash of a password", where=where, hint=hint)
        return cls(base64url_decode(match[1]), base64url_decode(match[2]))

    def line(self) -> str:
        """The hash as a line of the file."""
        return f"scrypt${base64url(self.salt)}${base64url(self.digest)}\n"

    def matches(self, password: str) -> bool:
        """True if this is the password. The check takes 16 MB and some 50 ms."""
        return hmac.compare_digest(_hash(password[: LONGEST + 1], self.salt), self.digest)


class TryLater(Exception):
    """There were too many login attempts. The next attempt is allowed after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class LoginLimiter:
    """A token bucket for each address that tried to log in. An IPv6 /64 network counts as one address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # address -> (number of tokens, time of the last attempt)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count a login attempt. Raises TryLater if the address has made too many."""
        key, now = _guesser(client), self._clock()
        tokens, since = self._buckets.pop(key, (float(TRIES), now))
        tokens = min(float(TRIES), tokens + (now - since) / TRY_EVERY_S)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        if not allowed:
            raise TryLater((1 - tokens) * TRY_EVERY_S)

    def forget(self, client: str) -> None:
        """Forget the attempts of an address. Called after a login with the right password."""
        self._buckets.pop(_guesser(client), None)


def network_of(client: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        found = ip_address(client.partition("%")[0])
    except ValueError:
        return client
    return f"{int(found) >> 64:x}::/64" if found.version == 6 else client


def _guesser(client: str) -> str:
    """Return the key under which the login attempts of a client are counted.

    All loopback addresses share one key, because any local account may use any address of 127.0.0.0/8.
    """
    try:
        return "loopback" if ip_address(client).is_loopback else network_of(client)
    except ValueError:
        return network_of(client)


class PasswordChecker:
    """Checks passwords one after another."""

    def __init__(self, hashed: PasswordHash, limiter: LoginLimiter) -> None:
        self._hashed, self._limiter = hashed, limiter
        self._lock, self._waiting = asyncio.Lock(), 0

    def known_browser(self) -> str:
        """A token for a browser that has logged in.

        Login attempts of a browser with this token are counted separately from other attempts from its address. The
        token is valid until the password changes, even after a restart.
        """
        name = secrets.token_urlsafe(16)
        return f"{name}.{self._signed(name)}"

    def _signed(self, name: str) -> str:
        return base64url(hmac.digest(self._hashed.digest, f"browser {name}".encode(), "sha256"))

    def _counted_as(self, client: str, token: str) -> str:
        name, _, signed = token[:200].partition(".")
        good = hmac.compare_digest(self._signed(name).encode(), signed.encode())
        return f"browser {name}" if good else client

    async def check(self, client: str, password: str, token: str = "") -> bool:
        """True if this is the password. ``token``: the browser's ``known_browser`` token, or "". Raises TryLater."""
        client = self._counted_as(client, token)
        self._limiter.take(client)
        if self._waiting >= MOST_WAITING:
            raise TryLater(1.0)
        self._waiting += 1
        try:
            async with self._lock:
                good = await asyncio.to_thread(self._hashed.matches, password)
        finally:
            self._waiting -= 1
        if good:
            self._limiter.forget(client)
        return good


SESSION_S: Final = 12 * 3600.0
MOST_SESSIONS: Final = 100


class Sessions:
    """The login sessions. They are only in memory, so they end with the process.

    Only the hash of each token is kept.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def begin(self) -> str:
        """Start a session and return its token. If there are too many sessions, the oldest session ends."""
        token = secrets.token_urlsafe(32)
        self._ends[self._key(token)] = self._clock() + SESSION_S
        while len(self._ends) > MOST_SESSIONS:
            self._ends.popitem(last=False)
        return token

    def valid(self, token: str) -> bool:
        """True if this is the token of a session that has not expired."""
        ends = self._ends.get(self._key(token))
        if ends is None:
            return False
        if ends < self._clock():
            self.end(token)
            return False
        return True

    def end(self, token: str) -> None:
        """End the session with this token."""
        self._ends.pop(self._key(token), None)

    @staticmethod
    def _key(token: str) -> bytes:
        return hashlib.sha256(token.encode("utf-8", "replace")).digest()
