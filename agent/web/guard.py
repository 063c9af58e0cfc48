"""Checks host name, method, size, origin and login of each request, and sets security headers in each response."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.web.password import Sessions

LARGEST_BODY: Final = 4096
LONGEST_PATH: Final = 2000
LOGIN: Final = "/login"
STATIC: Final = "/static/"  # paths that begin with this, and LOGIN, are visible without a login
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
POSTS: Final = frozenset({LOGIN, "/logout"})
CSP: Final = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
HEADERS: Final = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Access:
    """The rules about who may see the page.

    ``names``: host names that are accepted besides IP addresses. ``password``: True if a login is required.
    """

    tls: bool
    password: bool
    names: frozenset[str]

    @property
    def cookie(self) -> str:
        """Name of the session's cookie.

        With TLS the name has the prefix ``__Host-``, so that only this host can set it.
        """
        return "__Host-meterhouse" if self.tls else "meterhouse"

    @property
    def known_cookie(self) -> str:
        """Name of the cookie that marks a browser which has logged in before."""
        return f"{self.cookie}-known"


def host_names(certificate_names: Iterable[str] = ()) -> frozenset[str]:
    """Return the host names of this machine: ``localhost``, its own names and the names in the certificate."""
    own = socket.gethostname().lower()
    return frozenset({"localhost", own, own.partition(".")[0], *(name.lower() for name in certificate_names)})


def is_our_host(header: str, names: frozenset[str]) -> bool:
    """True if the Host header is an IP address or one of our names.

    This check stops DNS rebinding, in which an attacker's name resolves to this machine.
    """
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    host = match[1].strip("[]").lower()
    try:
        ip_address(host)
    except ValueError:
        return host.rstrip(".") in names
    return True


def session_of(headers: Headers, access: Access) -> str:
    """Return the token in the session's cookie; "" if there is no such cookie."""
    return cookie_of(headers, access.cookie)


def cookie_of(headers: Headers, name: str) -> str:
    """Return the value of a cookie; "" if there is no such cookie.

    ``http.cookies.SimpleCookie`` is not used, because it stops at the first cookie with characters that it refuses.
    Other programs on this host may set such cookies, and a browser sends them to us too.
    """
    return cookie_parser(headers.get("cookie", "")).get(name, "")


def may_see(headers: Headers, access: Access, sessions: Sessions) -> bool:
    """True if the viewer may see data: the viewer has logged in, or no login is required."""
    return not access.password or sessions.valid(session_of(headers, access))


class Guard:
    """ASGI middleware: refuses invalid requests before the application sees them."""

    def __init__(self, app: ASGIApp, access: Access, sessions: Sessions) -> None:
        self._app, self._access, self._sessions = app, access, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no WebSocket
            return
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    ours[name] = value
                ours.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope, headers)
        if refused is not None:
            await refused(scope, receive, with_headers)
        else:
            await self._app(scope, _bounded(receive), with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        status, text = self._malformed(scope, headers)
        if status:
            return PlainTextResponse(f"{text}\n", status, {"allow": "GET, HEAD"} if status == 405 else None)
        path = scope["path"]
        if path == LOGIN or path.startswith(STATIC) or may_see(headers, self._access, self._sessions):
            return None
        if headers.get("x-refresh"):
            return PlainTextResponse("Log in again.\n", 401)
        query = scope.get("query_string", b"").decode("ascii", "replace")
        target = path + (f"?{query}" if query else "")
        return RedirectResponse(f"{LOGIN}?next={quote(target, safe='/')}" if target != "/" else LOGIN, 303)

    def _malformed(self, scope: Scope, headers: Headers) -> tuple[int, str]:
        """Return (HTTP status, message) for a request that no login makes valid; (0, "") for any other request."""
        method, path, hosts = scope["method"], scope["path"], headers.getlist("host")
        length = headers.get("content-length", "0")
        checks = (
            (
                len(hosts) != 1 or not is_our_host(hosts[0], self._access.names),
                421,
                "This host name is not known here. Use the gateway's address, or a name in its certificate.",
            ),
            (
                len(scope.get("raw_path") or path) + len(scope.get("query_string", b"")) > LONGEST_PATH,
                414,
                "The address is too long.",
            ),
            (
                method not in ("GET", "HEAD") and not (method == "POST" and path in POSTS),
                405,
                "This page is read-only.",
            ),
            (not length.isdigit() or int(length) > LARGEST_BODY, 413, "The request is too large."),
            (
                method == "POST" and not self._same_origin(headers, "".join(hosts)),
                403,
                "The request comes from another site.",
            ),
        )
        return next(((status, text) for wrong, status, text in checks if wrong), (0, ""))

    def _same_origin(self, headers: Headers, host: str) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        scheme = "https" if self._access.tls else "http"
        if origin is not None:
            return origin.lower() == f"{scheme}://{host}".lower()
        return site in (None, "same-origin", "none")


def _bounded(receive: Receive) -> Receive:
    """Limit the body to the allowed size, even if the headers state a smaller size than the body has."""
    left = LARGEST_BODY

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message.get("body", b""))
            if left < 0:
                return {"type": "http.disconnect"}
        return message

    return bounded
