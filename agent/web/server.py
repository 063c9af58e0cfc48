"""Serves the page: one socket, TLS where it is configured, and bounds for clients that are slow or many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.config import WebConfig
from drivers.model import ConfigError, GatewayError

MOST_CONNECTIONS: Final = 160  # a browser opens up to six, and keeps one
MOST_OF_ONE_ADDRESS: Final = 80  # an office may have one for all
REQUEST_S: Final = 10.0  # for a whole request to come
KEEP_ALIVE_S: Final = 15
LARGEST_HEAD: Final = 16 << 10

_connections: Counter[str] = Counter()


class BoundedConnection(H11Protocol):
    """A connection that must bring a whole request in time; uvicorn itself waits for ever for the first one."""

    _waits: asyncio.TimerHandle | None = None
    _address: str = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one more of an address that has many; a tunnel's end on this machine has many people behind it."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        _connections[self._address] += 1
        most = MOST_CONNECTIONS if self._address in ("127.0.0.1", "::1") else MOST_OF_ONE_ADDRESS
        if _connections[self._address] > most:
            transport.abort()
        else:
            self._expect()

    def data_received(self, data: bytes) -> None:
        """Count the time of a request from its first byte."""
        super().data_received(data)
        if self._waits is None and not self._is_served():
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._waits is not None:
            self._waits.cancel()
        _connections[self._address] -= 1
        if _connections[self._address] <= 0:
            del _connections[self._address]
        super().connection_lost(exc)

    def _is_served(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _expect(self) -> None:
        self._waits = self.loop.call_later(REQUEST_S, self._too_slow)

    def _too_slow(self) -> None:
        self._waits = None
        idle = self.timeout_keep_alive_task is not None  # between two requests; uvicorn ends that
        if not self._is_served() and not idle and not self.transport.is_closing():
            self.transport.abort()


class PageServer(uvicorn.Server):
    """Ends with SIGTERM or SIGINT as every command does; uvicorn would raise the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handlers of the loop."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._leave)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _leave(self) -> None:
        self.should_exit = True


def open_socket(web: WebConfig) -> socket.socket:
    """The listening socket. Raises GatewayError, such as for a port that is taken."""
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    try:
        return socket.create_server((web.host, web.port), family=family, backlog=128)
    except OSError as error:
        hint = {
            98: "Another program listens there. Is the page running already? Another port: [web] listen",
            99: "This machine has no such address. Choose another one: [web] listen",
            13: "Ports below 1024 need root. Choose another one: [web] listen",
        }.get(error.errno or 0, "Check [web] listen")
        raise GatewayError(f"cannot listen: {error.strerror}", where=web.address, hint=hint) from error


def tls_context(web: WebConfig) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the configured certificate; None where none is. Raises ConfigError."""
    if web.certificate is None or web.key is None:
        return None
    certificate, key = web.certificate.path(os.environ), web.key.path(os.environ)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as error:
        what = f"is not a certificate with its key ({error.reason or 'not PEM'})"
        hint = f"The key is {key}; `meterhouse web --setup` makes both"
        raise ConfigError(what, where=str(certificate), hint=hint) from error
    except OSError as error:
        hint = "The user that runs the page must be able to read certificate and key"
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=f"{certificate} or {key.name}", hint=hint
        ) from error
    return context


def _no_passphrase() -> str:
    return ""


def certificate_facts(web: WebConfig) -> tuple[list[str], float | None]:
    """(DNS names in the certificate, its end in UTC seconds); none without one, or of one that is not understood."""
    if web.certificate is None:
        return [], None
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(Path(web.certificate.path(os.environ)).read_bytes())
        ends = certificate.not_valid_after_utc.timestamp()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName), ends
    except x509.ExtensionNotFound:
        return [], ends
    except (OSError, ValueError):
        return [], None


def serve(app: ASGIApp, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a stranger's broken requests are not our faults
    extra: dict[str, Any] = {}
    if tls is not None:
        context = tls
        extra["ssl_context_factory"] = lambda config, default: context
    config = uvicorn.Config(
        app,
        http=BoundedConnection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        **extra,
    )
    asyncio.run(PageServer(config).serve(sockets=[sock]))
