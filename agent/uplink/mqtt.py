"""One MQTT connection. This is the only module of the uplink that uses paho.

The uplink does not use paho's own thread and queue. The queue would resend messages that the store resends too, and it
ignores Receive Maximum. Instead, our thread drives the client through paho's interface for external event loops. Each
connection gets a new client, so that no state of the previous connection remains.

The size of a broker's packets is limited (``agent.verify.mqtt``): CONNECT states the limit, and we close the connection
if the broker exceeds it.
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
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Literal

from paho.mqtt import MQTTException
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.reasoncodes import ReasonCode

from agent.settings import UplinkConfig
from agent.uplink import errors
from agent.uplink.messages import NO_LIMIT, OutgoingMessage
from agent.verify.mqtt import READ, BoundedClient
from agent.verify.tls import tls_context
from drivers.model import BrokerError

CONNECT_S: Final = 10.0
BROKER_CERTIFICATE: Final = "broker certificate"
MAX_PACKET: Final = 64 << 10  # the largest packet in bytes that the broker may send
# offsets of tcpi_last_ack_recv and tcpi_bytes_acked in struct tcp_info (linux/tcp.h)
_LAST_ACK, _BYTES_ACKED = 56, 120
# a PUBACK that has nothing but the packet id, which means success: its first two bytes, and its length in bytes
_PLAIN_PUBACK, _PLAIN_BYTES = b"\x40\x02", 4
_UNREASONED, _REASONED = 2, 3  # bytes of a PUBACK after its length: only the packet id, and with a reason code
_PUBLISH, _PUBLISH_RETAINED = b"\x32", b"\x33"  # the first byte of a message at QoS 1
_SEND_BYTES: Final = 64 << 10  # about this many bytes of messages are passed to the socket at once
V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


class _BufferedClient(BoundedClient):
    """Sends many messages with one system call, receives many packets at once, and handles PUBACKs itself.

    paho receives three times for each packet. It makes six objects of each PUBACK, and five of each message. It also
    closes the connection if a PUBACK refuses a message for a reason that the standard does not name for PUBACKs:
    mosquitto gives the reason 0x95 for a message that is too large.

    Args:
        pubacks: this list gets (packet id, reason code) for each PUBACK.
    """

    def __init__(
        self, protocol: MQTTProtocolVersion, most: int, client_id: str, pubacks: list[tuple[int, int]], **more: Any
    ) -> None:
        super().__init__(protocol, most, client_id, **more)
        self._pubacks = pubacks
        self._buffer = b""  # received bytes
        self._may_receive = False
        self._unsent: list[bytes] = []  # parts of the packets that ``flush`` sends
        self._unsent_bytes = 0
        # paho's list of messages without a PUBACK. paho would send them again on the next connection, but we use a
        # client for one connection only. So one object stands for all of them.
        self._any_message = MQTTMessage()

    def add(self, topic: bytes, payload: bytes, retain: bool, properties: bytes) -> int:
        """Add a PUBLISH packet at QoS 1 to those that ``flush`` sends.

        Returns its packet id; 0 if the connection is closed.

        ``properties``: the encoded properties; b"" with MQTT 3.1.1.
        """
        if self.socket() is None:
            return 0
        number = self._mid_generate()
        while number in self._out_messages:
            number = self._mid_generate()
        self._out_messages[number] = self._any_message
        size = len(topic) + len(properties) + len(payload) + 4
        length = VariableByteIntegers.encode(size)  # type: ignore[no-untyped-call]
        self._unsent += (
            _PUBLISH_RETAINED if retain else _PUBLISH, length, len(topic).to_bytes(2, "big"), topic,
            number.to_bytes(2, "big"), properties, payload,
        )  # fmt: skip
        self._unsent_bytes += size
        return number

    @property
    def is_full(self) -> bool:
        """True if ``flush`` must be called before the next ``add``."""
        return self._unsent_bytes >= _SEND_BYTES

    def flush(self) -> None:
        """Send the added packets. What the socket does not accept now, paho keeps and sends later."""
        if self._unsent:
            packets, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
            self._packet_queue(PacketTypes.PUBLISH << 4, packets, 0, 1)

    def read(self) -> None:
        """Receive once, and process what has arrived. So a broker that sends without end cannot keep us from sending.

        Raises the errors of paho for a malformed packet.
        """
        self._may_receive = True
        while self.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS and self._buffer:
            continue  # paho processes at most as many packets per call as messages are in flight

    def _receive(self, most: int) -> bytes:
        if not self._buffer:
            if not self._may_receive:
                raise BlockingIOError
            self._may_receive = False
            self._buffer = super()._receive(READ)
        if self._buffer.startswith(_PLAIN_PUBACK) and not self._in_packet["command"]:  # between two packets
            self._take_pubacks()
            if not self._buffer:
                raise BlockingIOError  # tells paho that nothing is left to read
        part, self._buffer = self._buffer[:most], self._buffer[most:]
        return part

    def _take_pubacks(self) -> None:
        """Process the plain PUBACKs at the start of the buffer that have arrived completely."""
        buffer, at = self._buffer, 0
        while buffer.startswith(_PLAIN_PUBACK, at) and at + _PLAIN_BYTES <= len(buffer):
            number = int.from_bytes(buffer[at + 2 : at + _PLAIN_BYTES], "big")
            if self._out_messages.pop(number, None) is not None:
                self._pubacks.append((number, 0))
            at += _PLAIN_BYTES
        self._buffer = buffer[at:]
        self._last_bytes_received = time.monotonic()  # otherwise paho would send a PINGREQ

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        # a PUBCOMP acknowledges no message at QoS 1, and a PUBACK of MQTT 3.1.1 has nothing but the packet id
        is_plain = len(packet) == _UNREASONED
        if (
            cmd != "PUBACK"
            or self._in_packet["command"] & 0x0F
            or not _has_stated_length(packet)
            or not (is_plain or self.protocol == V5)
        ):
            raise ValueError(f"malformed {cmd}")
        if len(packet) > _REASONED:  # raises an error for properties that a PUBACK cannot have
            Properties(PacketTypes.PUBACK).unpack(packet[_REASONED:])  # type: ignore[no-untyped-call]
        code = 0 if is_plain else packet[_UNREASONED]
        # any refusal is a refusal, but an unknown kind of success must not confirm a pack
        if code < errors.FAILURE and code not in {0, errors.NO_SUBSCRIBERS}:
            raise ValueError(f"PUBACK with the unknown reason code {code:#04x}")
        number = int.from_bytes(packet[:_UNREASONED], "big")
        if self._out_messages.pop(number, None) is not None:
            self._pubacks.append((number, code))
        return MQTTErrorCode.MQTT_ERR_SUCCESS


class MqttConnection:
    """One connection to a broker.

    Args:
        wake_fd: descriptor that another thread makes readable, to wake this thread. ``on_wake`` then empties it.
        connect_s: timeout in seconds. It applies to connecting the socket, and then again to the CONNACK.
    """

    def __init__(
        self,
        config: UplinkConfig,
        client_id: str,
        protocol: MQTTProtocolVersion,
        will: OutgoingMessage,
        wake_fd: int,
        on_wake: Callable[[], None],
        environ: Mapping[str, str],
        connect_s: float = CONNECT_S,
    ) -> None:
        self._config, self._wake_fd, self._on_wake, self._connect_s = config, wake_fd, on_wake, connect_s
        # ``poll`` fills these lists, and the caller clears them
        self.pubacks: list[tuple[int, int]] = []  # (packet id, reason code)
        self.subacks: list[tuple[int, int]] = []  # (packet id, reason code)
        self.messages: list[tuple[str, bytes]] = []  # (topic, payload)
        self.ignored: list[str] = []  # topics on which retained messages came; these messages are not processed
        self.protocol = protocol
        self.connack: int | None = None
        self.receive_maximum, self.max_packet, self.retain = 65_535, NO_LIMIT, True
        self.max_qos = 2
        self.reason = 0  # reason code of the broker's DISCONNECT; 0: the broker sent none
        self.closed_by_broker = False
        self._misc_s = 0.0
        self._closed = False
        self._gathers = False  # True: inside of ``together``
        client = _BufferedClient(protocol, MAX_PACKET, client_id, self.pubacks, reconnect_on_failure=False)
        client.max_inflight_messages_set(0)  # no limit here, because the scheduler limits the packs in flight
        client.connect_timeout = connect_s
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        # the Last Will (LWT): the broker publishes `offline` if the connection breaks
        client.will_set(will.topic, will.data, 1, will.retain)
        if config.username:
            client.username_pw_set(config.username, self._password(environ))
        if config.tls:
            client.tls_set_context(self._tls())
        self._client = client
        self._poll = select.poll()
        self._poll.register(wake_fd, select.POLLIN)
        self._mask = 0

    def _password(self, environ: Mapping[str, str]) -> str | None:
        secret = self._config.password
        if secret is None:
            return None
        try:
            return secret.read(environ).decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            what, hint = (
                "the password is not text in UTF-8",
                "Save the file as UTF-8, with nothing but the password in it",
            )
            raise BrokerError(what, where=str(secret), hint=hint) from None

    def _tls(self) -> ssl.SSLContext:
        """Return a new TLS context. Each connection makes a new one, so that renewed certificates are used."""
        config = self._config
        try:
            context = tls_context(config.ca_file)
            if config.cert_file:
                context.load_cert_chain(config.cert_file, config.key_file, password=lambda: b"")
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(f) for f in (config.ca_file, config.cert_file, config.key_file) if f)
            what = "the certificate does not match the key" if "MISMATCH" in str(error) else _first_line(error)
            raise BrokerError(
                f"cannot load the TLS files: {what}",
                where=files or config.url,
                hint="Use PEM files that the agent's user can read, and a key without a passphrase",
            ) from error
        return context

    # --- connecting and closing

    def connect(self, stopping: Callable[[], bool]) -> None:
        """Connect, and wait for the CONNACK. Raises BrokerError."""
        config = self._config
        try:
            self._client.reach(config.host, config.port, config.keepalive_s)
        except (OSError, ssl.SSLError) as error:
            raise errors.unreachable(error, config.url, config.port) from error
        except ValueError as error:  # the host name is empty or malformed
            raise BrokerError(
                f"invalid address ({error})", where=config.url, hint="Correct the address in url"
            ) from error
        until = time.monotonic() + self._connect_s
        while self.connack is None and self.alive and not stopping():
            left = until - time.monotonic()
            if left <= 0:
                self.close()
                what = "no CONNACK: the port is open, but no MQTT broker answers"
                raise BrokerError(what, where=config.url, hint="Is this the port of the MQTT broker?")
            self.poll(min(left, 1.0))
        if self.connack:
            self.close()
            raise errors.connect_refused(self.connack, config.url)
        if self.connack is None:
            self.close()
            raise errors.closed_before_connack(self.reason, config.url, config.tls, config.cert_file is not None)
        if self.max_qos < 1:
            self.close()
            raise errors.connect_refused(errors.QOS_UNSUPPORTED, config.url)

    @property
    def limit_exceeded(self) -> bool:
        """True if we closed the connection because the broker violated a limit."""
        return bool(self._client.fault)

    @property
    def alive(self) -> bool:
        """True while the socket is open."""
        return not self._closed and self._client.socket() is not None

    def bytes_received(self) -> int:
        """Return how many bytes of this connection the broker's TCP has acknowledged.

        Returns 0 if the system does not report it.
        """
        return self.progress()[0]

    def progress(self) -> tuple[int, float]:
        """Return the result of ``bytes_received``, and how many seconds ago the broker's TCP last answered."""
        sock = self._client.socket()
        if not isinstance(sock, socket.socket) or not hasattr(socket, "TCP_INFO"):
            return 0, 0.0
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        except OSError:
            return 0, 0.0
        if len(info) < _BYTES_ACKED + 8:
            return 0, 0.0
        return struct.unpack_from("Q", info, _BYTES_ACKED)[0], struct.unpack_from("I", info, _LAST_ACK)[0] / 1000

    def bytes_sent(self) -> int:
        """Return how many bytes the broker's TCP will have acknowledged when all queued messages have arrived.

        A message that does not fit into the kernel's send queue waits in paho's queue, so both queues count. Returns 0
        if the system does not report it.
        """
        sock = self._client.socket()
        if sock is None or not (received := self.bytes_received()):
            return 0
        try:
            queued = int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
        except OSError:
            return 0
        return received + queued + self._client.unsent_bytes()

    def certificate_expiries(self) -> dict[str, float]:
        """Return the expiry of our certificate and of the broker's: description -> seconds since the epoch."""
        found: dict[str, float] = {}
        sock = self._client.socket()
        if isinstance(sock, ssl.SSLSocket) and (peer := sock.getpeercert()):
            found[BROKER_CERTIFICATE] = ssl.cert_time_to_seconds(str(peer["notAfter"]))
        if self._config.cert_file:
            # imported here, because it is needed only with client certificates
            from cryptography.x509 import load_pem_x509_certificate

            with contextlib.suppress(OSError, ValueError):
                ours = load_pem_x509_certificate(self._config.cert_file.read_bytes())
                found[f"client certificate {self._config.cert_file}"] = ours.not_valid_after_utc.timestamp()
        return found

    def poll(self, wait_s: float) -> None:
        """Wait for the network or another thread, at most ``wait_s``, and process what arrived. Raises BrokerError."""
        client = self._client
        sock = client.socket()
        if sock is None or self._closed:
            return
        # bytes that have left the socket, so that the system does not report them
        pending = isinstance(sock, ssl.SSLSocket) and sock.pending()
        mask = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
        fd = sock.fileno()
        if mask != self._mask:
            self._poll.register(fd, mask)
            self._mask = mask
        for ready, event in self._poll.poll(0 if pending else wait_s * 1000):
            if ready == self._wake_fd:
                self._on_wake()
            elif ready == fd:
                if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    self._read()
                if event & select.POLLOUT and client.socket() is not None:
                    client.loop_write()
        if pending and client.socket() is not None:
            self._read()
        now = time.monotonic()
        if now - self._misc_s >= 1:
            self._misc_s = now
            client.loop_misc()
        if client.socket() is None:  # the socket is closed, so the system may use its descriptor for another file
            self._unregister(fd)

    def _read(self) -> None:
        client = self._client
        try:
            client.read()
        # our callbacks raise none of these errors, so the broker's packet is malformed
        except (MQTTException, ValueError, LookupError, struct.error) as error:
            self.drop()
            what = f"broker sent malformed MQTT ({type(error).__name__})"
            raise BrokerError(what, where=self._config.url, hint="Is this the port of the MQTT broker?") from error
        if client.fault:
            self.drop()
            raise errors.limit_exceeded(client.fault, self._config.url)

    def _unregister(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Send the messages that are published meanwhile with as few system calls as possible."""
        self._gathers = True
        try:
            yield
        finally:
            self._gathers = False
            self._client.flush()

    def publish(self, message: OutgoingMessage) -> int:
        """Send a message at QoS 1. Returns the packet id; 0 if the connection is closed."""
        if self._closed:
            return 0
        properties = _content(message.content_type) if self.protocol == V5 else b""
        client = self._client
        packet = client.add(message.topic.encode(), message.data, message.retain and self.retain, properties)
        if not self._gathers or client.is_full:
            client.flush()
        return packet

    def subscribe(self, topic: str) -> int:
        """Subscribe at QoS 1, without retained messages. Returns the packet id; 0 if the connection is closed."""
        return self._client.follow(topic, retained=False)

    def close(self) -> None:
        """Send DISCONNECT and close the socket. The broker then does not publish our will."""
        if self.alive:
            with contextlib.suppress(OSError):
                self._client.disconnect()
        self.drop()

    def drop(self) -> None:
        """Close the socket without DISCONNECT. The broker then publishes our will."""
        sock = self._client.socket()
        self._closed = True
        if sock is not None and sock.fileno() >= 0:  # False: the socket is closed already
            self._unregister(sock.fileno())
            with contextlib.suppress(OSError):
                sock.close()

    # --- paho's callbacks

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.connack = reason.value
        if properties is None or reason.value:
            return
        self.receive_maximum = getattr(properties, "ReceiveMaximum", 65_535)
        self.max_packet = getattr(properties, "MaximumPacketSize", NO_LIMIT)
        self.retain = bool(getattr(properties, "RetainAvailable", 1))
        self.max_qos = getattr(properties, "MaximumQoS", 2)

    def _on_disconnect(
        self, client: Client, userdata: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.closed_by_broker = flags.is_disconnect_packet_from_server or str(reason) != "Keep alive timeout"
        if flags.is_disconnect_packet_from_server:
            self.reason = reason.value

    def _on_subscribe(
        self, client: Client, userdata: Any, packet: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        self.subacks += [(packet, reason.value) for reason in reasons]

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        # acks and requests must count only once, and an earlier connection may have received this message
        if message.retain:
            self.ignored.append(message.topic)
        else:
            self.messages.append((message.topic, bytes(message.payload)))


def _has_stated_length(puback: bytes | bytearray) -> bool:
    """Whether a PUBACK is a packet id, perhaps a reason code, and perhaps properties of exactly the stated length."""
    if len(puback) <= _REASONED:
        return len(puback) >= _UNREASONED
    try:
        size, used = VariableByteIntegers.decode(puback[_REASONED:])  # type: ignore[no-untyped-call]
    except (MQTTException, LookupError):  # the length itself is cut off
        return False
    return bool(_REASONED + used + size == len(puback))


@lru_cache(maxsize=8)
def _content(content_type: str) -> bytes:
    """Encode the properties of a message of this type."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if content_type:
        properties.ContentType = content_type
    return bytes(properties.pack())  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0][:120] if text else type(error).__name__
