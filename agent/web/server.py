"""Serves the page on one socket, with TLS if it is configured.

Limits clients that are slow or open many connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from asyncio import sslproto
from collections import OrderedDict
from collections.abc import Callable, Generator
from pathlib import Path
from platform import python_version
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.config import WebConfig
from agent.web.password import network_of
from drivers.model import ConfigError, GatewayError

# Limit of connections from one address. A whole office can share an address; each of its browsers opens up to six
# connections and keeps one open.
MOST_OF_ONE_ADDRESS: Final = 80
MOST_ENDING: Final = 16  # limit of connections that are being closed at one time to make room for new ones
# limit of all connections, including those before their TLS handshake; it is below the limit of open files
MOST_OF_ALL: Final = 400
REQUEST_S: Final = 10.0  # a whole request must arrive within this time
KEEP_ALIVE_S: Final = 15
LARGEST_HEAD: Final = 16 << 10
# buffer of a connection, for one TLS record; asyncio would allocate 256 KiB before the first byte arrives
TLS_BUFFER: Final = 16 << 10
# what the TLS layer uses of asyncio beyond its documentation; tests/arch/test_borrowed.py says what each is for
_OF_ASYNCIO: Final = (
    (sslproto.SSLProtocol, ("max_size", "_on_handshake_complete", "_wakeup_waiter")),
    (asyncio.SelectorEventLoop, ("_make_ssl_transport", "_make_socket_transport")),
)
# open connections by the number of their file; asyncio wraps a socket in an object that has this number
_open: dict[int, CountedSocket] = {}


class CountedSocket(socket.socket):
    """A connection that is counted from its accept to its close, even before its TLS handshake begins."""

    listener: BoundedListener | None = None
    client = ""
    # returns True while a request is being served; None until the connection has an HTTP protocol
    served: Callable[[], bool] | None = None
    ending = False  # True: the connection is being closed to make room

    def close(self) -> None:
        """Close the connection and stop counting it."""
        listener, self.listener = self.listener, None
        if listener is not None:
            _open.pop(self.fileno(), None)
            listener.forget(self)
        super().close()


class BoundedListener(socket.socket):
    """A listening socket that bounds the connections of each address, and of all addresses.

    At a bound, the connection that has been idle for longest is closed to make room. If no connection is idle, the new
    connection is closed. Many people can share one address, behind a tunnel or a router, and one of them must not lock
    out the others with idle connections.
    """

    def __init__(self, family: socket.AddressFamily) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        # client -> its connections; the connection used last is at the end
        self._of: dict[str, OrderedDict[CountedSocket, None]] = {}
        self._count = 0
        self._ending = 0  # number of connections that are being closed to make room

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises ConnectionAbortedError if there is no room for the connection. The loop then accepts the next
        connection.
        """
        if self._ending >= MOST_ENDING:
            raise BlockingIOError  # the loop first finishes closing connections, then accepts again
        plain, address = super().accept()
        client = network_of(str(address[0]))
        if not self._has_room(client):
            plain.close()
            raise ConnectionAbortedError
        made = CountedSocket(self.family, self.type, self.proto, fileno=plain.detach())
        made.listener, made.client = self, client
        _open[made.fileno()] = made
        self._of.setdefault(client, OrderedDict())[made] = None
        self._count += 1
        return made, address

    def used(self, one: CountedSocket) -> None:
        """Record that the connection serves a request now, so that it is the last to be closed when room is needed."""
        if one in self._of.get(one.client, ()):
            self._of[one.client].move_to_end(one)

    def forget(self, one: CountedSocket) -> None:
        """Stop counting a connection that is closed."""
        if one.ending:
            self._ending -= 1
        else:
            self._remove(one)

    def _has_room(self, client: str) -> bool:
        """True if there is room for another connection of a client. If necessary, an idle connection is closed first.

        If the client has too many connections, one of them is closed. If there are too many in total, the client with
        the most connections loses one.
        """
        if len(self._of.get(client, ())) >= MOST_OF_ONE_ADDRESS:
            return self._end_idle(client)
        if self._count < MOST_OF_ALL:
            return True
        return self._end_idle(max(self._of, key=lambda other: len(self._of[other])))

    def _end_idle(self, client: str) -> bool:
        for one in self._of[client]:
            if one.served is None or not one.served():
                self._remove(one)
                one.ending = True
                self._ending += 1
                with contextlib.suppress(OSError):  # the client has closed the connection already
                    # the transport then sees the end of the stream and closes the socket
                    one.shutdown(socket.SHUT_RDWR)
                return True
        return False

    def _remove(self, one: CountedSocket) -> None:
        mine = self._of[one.client]
        del mine[one]
        self._count -= 1
        if not mine:
            del self._of[one.client]


class BoundedTls(sslproto.SSLProtocol):
    """The TLS layer of one connection, with a small buffer that is freed as soon as the connection ends.

    asyncio's own buffer has 256 KiB. After a failed handshake, a reference cycle of the exception and its traceback
    holds the buffer until the garbage collector runs, so failed handshakes alone could fill the memory.
    """

    max_size = TLS_BUFFER

    def connection_lost(self, exc: BaseException | None) -> None:
        """Free the buffer and the TLS object."""
        super().connection_lost(exc)
        self._sslobj = None
        self._ssl_buffer = bytearray()
        self._ssl_buffer_view = memoryview(self._ssl_buffer)

    def _on_handshake_complete(self, handshake_exc: BaseException | type[BaseException] | None) -> None:
        failed = handshake_exc() if isinstance(handshake_exc, type) else handshake_exc
        super()._on_handshake_complete(failed)
        if failed is not None:
            failed.__traceback__ = None

    def _wakeup_waiter(self, exc: BaseException | None = None) -> None:
        """Wake the accepting server without the exception.

        After a failed handshake the connection is closed already, so the server has nothing to do.
        """
        super()._wakeup_waiter()


class PageLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers bound the time and the memory of a TLS handshake.

    asyncio's own time limit is a minute.
    """

    def _make_ssl_transport(
        self, rawsock: socket.socket, protocol: Any, sslcontext: ssl.SSLContext, waiter: Any = None, *,
        extra: Any = None, server: Any = None, server_side: bool = False, server_hostname: str | None = None,
        ssl_handshake_timeout: Any = None, ssl_shutdown_timeout: Any = None, **more: Any,
    ) -> Any:  # fmt: skip
        tls = BoundedTls(
            self, protocol, sslcontext, waiter, server_side, server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout,
        )  # fmt: skip
        self._make_socket_transport(rawsock, tls, extra=extra, server=server, **more)  # type: ignore[attr-defined]
        return tls._app_transport

    async def create_server(self, *args: Any, **more: Any) -> asyncio.Server:
        """Create a server as the base class does, with ``REQUEST_S`` as the time limit of a TLS handshake."""
        if more.get("ssl") is not None:
            more.setdefault("ssl_handshake_timeout", REQUEST_S)
        return await super().create_server(*args, **more)


class BoundedConnection(H11Protocol):
    """A connection on which a whole request must arrive within ``REQUEST_S``.

    uvicorn itself waits forever for the first request.
    """

    _waits: asyncio.TimerHandle | None = None
    _socket: CountedSocket | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self._socket = _open.get(transport.get_extra_info("socket").fileno())
        if self._socket is not None:
            self._socket.served = self._is_served
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Start the time limit of a request when its first byte arrives. The first request has its limit already."""
        super().data_received(data)
        if self._is_served() and self._socket is not None and self._socket.listener is not None:
            self._socket.listener.used(self._socket)
        if self._waits is None and not self._is_served():
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the time limit."""
        if self._waits is not None:
            self._waits.cancel()
        if self._socket is not None:
            self._socket.served = None
        super().connection_lost(exc)

    def _is_served(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _expect(self) -> None:
        self._waits = self.loop.call_later(REQUEST_S, self._too_slow)

    def _too_slow(self) -> None:
        self._waits = None
        # True between two requests, when uvicorn's own time limit applies
        idle = self.timeout_keep_alive_task is not None
        if not self._is_served() and not idle and not self.transport.is_closing():
            self.transport.abort()


class PageServer(uvicorn.Server):
    """A server that ends on SIGTERM or SIGINT like all our commands.

    uvicorn's own server would raise the signal again after it has ended.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle the signals in the loop while the context is open."""
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


def open_socket(web: WebConfig, setting: str = "[web] listen") -> socket.socket:
    """Open the listening socket. Raises GatewayError, for example if the port is in use.

    Args:
        setting: the setting for the address, which the error names.
    """
    sock = BoundedListener(socket.AF_INET6 if ":" in web.host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((web.host, web.port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        hint = {
            98: "Another program uses this address and port. Is the page running already? Choose another port with {}",
            99: "This machine does not have this address. Choose another address with {}",
            13: "Only root can use ports below 1024. Choose another port with {}",
        }.get(error.errno or 0, "Check the address given by {}")
        raise GatewayError(f"cannot listen: {error.strerror}", where=web.address, hint=hint.format(setting)) from error
    return sock


def tls_context(web: WebConfig) -> ssl.SSLContext | None:
    """Return a context for TLS 1.2 or newer with the configured certificate; None without one. Raises GatewayError."""
    if web.certificate is None or web.key is None:
        return None
    if missing := [name for owner, names in _OF_ASYNCIO for name in names if not hasattr(owner, name)]:
        what = f"the page does not serve TLS with Python {python_version()}: its asyncio has no {', '.join(missing)}"
        raise GatewayError(what, where=sys.executable, hint="Use Python 3.11, 3.12 or 3.13")
    certificate, key = web.certificate.path(os.environ), web.key.path(os.environ)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as error:
        what = f"{certificate} is not a PEM certificate that matches its key ({error.reason or 'not PEM'})"
        hint = f"The key file is {key}; `meterhouse web --setup` makes a certificate and its key"
        where = web.places.get("certificate", "[web]")
        raise ConfigError(what, where=where, hint=hint) from error
    except OSError as error:
        hint = "The user that runs `meterhouse web` must be able to read the certificate and the key"
        name, path = ("certificate", certificate) if not os.access(certificate, os.R_OK) else ("key", key)
        where = web.places.get(name, "[web]")
        raise ConfigError(f"{path} cannot be read: {error.strerror}", where=where, hint=hint) from error
    return context


def _no_passphrase() -> str:
    return ""


def certificate_facts(web: WebConfig) -> tuple[list[str], float | None]:
    """Return (DNS names in the certificate, end of its validity in UTC seconds).

    Returns an empty list and None if there is no certificate, or if it cannot be parsed.
    """
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
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # invalid requests of clients must not write log lines
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
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        **extra,
    )
    with asyncio.Runner(loop_factory=PageLoop) as runner:
        runner.run(PageServer(config).serve(sockets=[sock]))
