"""One connection to a broker, from the first packet to the last. Everything that touches paho is here.

paho's own thread and queue are not used: it resends what it holds in memory, knows nothing of our store and reads no
Receive Maximum. Each connection gets a new client, so that nothing of the one before can leak into it, and our thread
drives it through the interface that paho offers for foreign event loops. What a broker may send is bounded
(``agent.verify.mqtt``): it is told in CONNECT, and cut off where it sends more all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from paho.mqtt import MQTTException
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.uplink import errors as words
from agent.uplink.messages import Destination
from agent.uplink.parcel import Parcel
from agent.uplink.scheduler import NEVER
from agent.verify.live import tls_context
from agent.verify.mqtt import BoundedClient
from drivers.model import BrokerError

CONNECT_S: Final = 10.0
MAX_PACKET: Final = 64 << 10  # bytes of what we take: acks of 32 KiB and requests, with their topics
_BYTES_ACKED: Final = 120  # where struct tcp_info (linux/tcp.h) has tcpi_bytes_acked
V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


class Session:
    """A client that is connected, or says why not.

    Args:
        wake_fd: readable when another thread wants us; ``woken`` is called then, and empties it.
        connect_s: how long a connection may take, and then the broker's first word.
    """

    def __init__(
        self,
        destination: Destination,
        client_id: str,
        protocol: MQTTProtocolVersion,
        will: Parcel,
        wake_fd: int,
        woken: Callable[[], None],
        environ: Mapping[str, str],
        connect_s: float = CONNECT_S,
    ) -> None:
        self._to, self._wake_fd, self._woken, self._connect_s = destination, wake_fd, woken, connect_s
        self.acks: list[tuple[int, int]] = []  # packet id and reason code of each PUBACK, until somebody clears it
        self.messages: list[tuple[str, bytes]] = []  # topic and payload, likewise
        self.stale: list[str] = []  # topics of retained messages, which are left alone, likewise
        self.protocol = protocol
        self.connack: int | None = None
        self.receive_maximum, self.max_packet, self.retain = 65_535, NEVER, True
        self.max_qos = 2
        self.reason = 0  # why it ended, if the broker said
        self.by_broker = False
        self._misc_s = 0.0
        self._dropped = False
        client = BoundedClient(protocol, MAX_PACKET, client_id, reconnect_on_failure=False)
        client.max_inflight_messages_set(0)  # our own window counts
        client.connect_timeout = connect_s
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.will_set(will.topic, will.data, 1, will.retain)
        if destination.username:
            client.username_pw_set(destination.username, self._password(environ))
        if destination.tls:
            client.tls_set_context(self._tls())
        self._client = client
        self._poll = select.poll()
        self._poll.register(wake_fd, select.POLLIN)
        self._mask = 0

    def _password(self, environ: Mapping[str, str]) -> str | None:
        secret = self._to.password
        if secret is None:
            return None
        return secret.read(environ).decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")

    def _tls(self) -> ssl.SSLContext:
        """Made anew for each connection, so that renewed certificates are used from the next one on."""
        to = self._to
        try:
            context = tls_context(to.ca_file)
            if to.cert_file:
                context.load_cert_chain(to.cert_file, to.key_file, password=lambda: b"")
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(f) for f in (to.ca_file, to.cert_file, to.key_file) if f)
            what = "certificate and key do not belong together" if "MISMATCH" in str(error) else _first_line(error)
            raise BrokerError(
                f"the TLS files cannot be used: {what}",
                where=files or to.url,
                hint="PEM files are wanted, readable for the user that runs the agent, the key without a passphrase",
            ) from error
        return context

    # --- life

    def connect(self, stopping: Callable[[], bool]) -> None:
        """Connect and wait for the broker's answer. Raises BrokerError."""
        to = self._to
        try:
            self._client.reach(to.host, to.port, to.keepalive_s)
        except (OSError, ssl.SSLError) as error:
            raise words.unreachable(error, to.url, to.port) from error
        except ValueError as error:  # an empty host name, a name that is no name
            raise BrokerError(f"this is no address ({error})", where=to.url, hint="Correct url") from error
        until = time.monotonic() + self._connect_s
        while self.connack is None and self.alive and not stopping():
            left = until - time.monotonic()
            if left <= 0:
                self.close()
                what = "something listens there but does not answer as an MQTT broker"
                raise BrokerError(what, where=to.url, hint="Is it the right port?")
            self.turn(min(left, 1.0))
        if self.connack:
            self.close()
            raise words.refused(self.connack, to.url)
        if self.connack is None:
            self.close()
            raise words.hung_up(self.reason, to.url, to.tls, to.cert_file is not None)
        if self.max_qos < 1:
            self.close()
            raise words.refused(0x9B, to.url)

    @property
    def disobeyed(self) -> bool:
        """Did we cut the connection for what the broker sent?"""
        return bool(self._client.fault)

    @property
    def alive(self) -> bool:
        """Is there still a socket?"""
        return not self._dropped and self._client.socket() is not None

    def arrived(self) -> int:
        """Bytes that the other side's TCP has acknowledged; 0 where the system does not tell."""
        sock = self._client.socket()
        if not isinstance(sock, socket.socket) or not hasattr(socket, "TCP_INFO"):
            return 0
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        except OSError:
            return 0
        return int(struct.unpack_from("Q", info, _BYTES_ACKED)[0]) if len(info) >= _BYTES_ACKED + 8 else 0

    def handed(self) -> int:
        """Bytes that have arrived or are on their way in the kernel."""
        sock = self._client.socket()
        if sock is None or not (arrived := self.arrived()):
            return 0
        try:
            return arrived + int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
        except OSError:
            return 0

    def expiries(self) -> dict[str, float]:
        """When certificates end, in seconds since the epoch: ours from its file, the broker's from the connection."""
        found: dict[str, float] = {}
        sock = self._client.socket()
        if isinstance(sock, ssl.SSLSocket) and (peer := sock.getpeercert()):
            found["the broker's certificate"] = ssl.cert_time_to_seconds(str(peer["notAfter"]))
        if self._to.cert_file:
            from cryptography.x509 import load_pem_x509_certificate  # only where client certificates are used

            with contextlib.suppress(OSError, ValueError):
                ours = load_pem_x509_certificate(self._to.cert_file.read_bytes())
                found[f"our certificate {self._to.cert_file}"] = ours.not_valid_after_utc.timestamp()
        return found

    def turn(self, wait_s: float) -> None:
        """Wait for network, another thread or time, and let paho handle what came."""
        client = self._client
        sock = client.socket()
        if sock is None or self._dropped:
            return
        tls_pending = isinstance(sock, ssl.SSLSocket) and sock.pending()
        mask = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
        fd = sock.fileno()
        if mask != self._mask:
            self._poll.register(fd, mask)
            self._mask = mask
        for ready, event in self._poll.poll(0 if tls_pending else wait_s * 1000):
            if ready == self._wake_fd:
                self._woken()
            elif ready == fd:
                if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    self._read()
                if event & select.POLLOUT and client.socket() is not None:
                    client.loop_write()
        if tls_pending and client.socket() is not None:
            self._read()
        now = time.monotonic()
        if now - self._misc_s >= 1:
            self._misc_s = now
            client.loop_misc()
        if client.socket() is None:  # its number may soon be another file's
            self._forget(fd)

    def _read(self) -> None:
        try:
            self._client.loop_read()
        except (MQTTException, ValueError, LookupError, struct.error) as error:  # our callbacks only append
            self.drop()
            what = f"the broker sent something that is not MQTT ({type(error).__name__})"
            raise BrokerError(what, where=self._to.url, hint="Is it the right port?") from error
        if self._client.fault:
            self.drop()
            raise words.disobeyed(self._client.fault, self._to.url)

    def _forget(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)

    def publish(self, parcel: Parcel) -> int:
        """Send at QoS 1; returns the packet id, 0 if the connection is gone."""
        info = self._client.publish(parcel.topic, parcel.data, 1, parcel.retain and self.retain)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else 0

    def subscribe(self, topic: str) -> None:
        """Ask for messages of a topic that are published from now on, QoS 1."""
        self._client.follow(topic, retained=False)

    def close(self) -> None:
        """Say goodbye, so that the broker does not send our will."""
        if self.alive:
            with contextlib.suppress(OSError):
                self._client.disconnect()
        self.drop()

    def drop(self) -> None:
        """Cut the connection without a word: the broker sends our will."""
        sock = self._client.socket()
        self._dropped = True
        if sock is not None and sock.fileno() >= 0:  # else it was cut before
            self._forget(sock.fileno())
            with contextlib.suppress(OSError):
                sock.close()

    # --- paho calls

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.connack = reason.value
        if properties is None or reason.value:
            return
        self.receive_maximum = getattr(properties, "ReceiveMaximum", 65_535)
        self.max_packet = getattr(properties, "MaximumPacketSize", NEVER)
        self.retain = bool(getattr(properties, "RetainAvailable", 1))
        self.max_qos = getattr(properties, "MaximumQoS", 2)

    def _on_disconnect(
        self, client: Client, userdata: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.by_broker = flags.is_disconnect_packet_from_server or str(reason) != "Keep alive timeout"
        if flags.is_disconnect_packet_from_server:
            self.reason = reason.value

    def _on_publish(
        self, client: Client, userdata: Any, packet: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.acks.append((packet, reason.value))

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        if message.retain:  # it was meant for a connection before: an ack or a request counts once
            self.stale.append(message.topic)
        else:
            self.messages.append((message.topic, bytes(message.payload)))


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0][:120] if text else type(error).__name__
