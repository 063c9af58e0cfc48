"""Verifies messages from a broker as they arrive."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .report import Report
from .strict import MAX_PACK_BYTES, Refused, shown
from .tls import tls_context
from .topics import PREFIX, is_known_type
from .verifier import MAX_GATEWAYS, MAX_STREAMS, Outcome, Verifier

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

    from .mqtt import BoundedClient

# limits of a queue, in messages and in bytes; while the queue is full, the broker must wait
WAITING, WAITING_BYTES = 2000, 32 << 20
MAX_PACKET: Final = MAX_PACK_BYTES + 65_536
KEEPALIVE_S: Final = 30
PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_CHECK_BROKER: Final = "Check that the broker runs and the port is right."
_UNSUPPORTED: Final = 132  # the MQTT reason code "unsupported protocol version"


class LiveError(Exception):
    """The broker cannot be reached, or it refuses the connection or subscription. ``hint`` tells what to check."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


def broker_of(url: str) -> tuple[str, str, int]:
    """Return (scheme, host, port) of a url. Raises LiveError, whose text never shows a url with a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise LiveError("invalid host or port in the broker URL", "Write mqtt://host:1883.") from None
    if "@" in url:
        raise LiveError("a broker url must not contain a user name or password", "Use --username and --password-file.")
    if parts.scheme not in PORTS or not parts.hostname:
        raise LiveError(f"invalid broker URL {shown(url)}", "Write mqtt://host:1883 or mqtts://host:8883.")
    return parts.scheme, parts.hostname, port or PORTS[parts.scheme]


class MessageQueue:
    """A queue of messages between two threads. It limits their number and bytes, but if it is empty, it accepts any."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[bytes, str]] = deque()
        self._bytes = 0
        self._change = threading.Condition()
        self._closed = False

    def put(self, payload: bytes, topic: str) -> None:
        """Add a message. Waits until the queue has room. After ``close`` the message is dropped."""
        with self._change:
            self._change.wait_for(self._has_room)
            if not self._closed:
                self._waiting.append((payload, topic))
                self._bytes += len(payload)
                self._change.notify_all()

    def _has_room(self) -> bool:
        return self._closed or not self._waiting or (len(self._waiting) < WAITING and self._bytes < WAITING_BYTES)

    def take(self, timeout_s: float | None = None) -> tuple[bytes, str] | None:
        """Wait for the next message. Returns None if the queue is closed and empty, or if no message came in time."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed, timeout_s)
            if not self._waiting:
                return None
            item: tuple[bytes, str] = self._waiting.popleft()
            self._bytes -= len(item[0])
            self._change.notify_all()
            return item

    def close(self) -> None:
        """Accept no more messages, and wake all waiting threads."""
        with self._change:
            self._closed = True
            self._change.notify_all()


class Subscriber:
    """Subscribes to topics of a broker, with MQTT 5 or, if the broker does not support it, 3.1.1.

    Messages wait in ``queue`` until they are taken.

    Args:
        url: ``mqtt://host:1883`` or ``mqtts://host:8883``.
        retained: True if retained messages are received too.
    """

    def __init__(
        self,
        url: str,
        *topics: str,
        retained: bool,
        ca_file: Path | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        scheme, self._host, self._port = broker_of(url)
        self.url, self.topics, self._retained = url, topics, retained
        self._tls = tls_context(ca_file) if scheme == "mqtts" else None
        self._login = (username, password)
        self.queue = MessageQueue()
        self.refusal: LiveError | None = None
        self._reason = 0
        self._ready = threading.Event()  # set when the broker has accepted or refused the subscription
        self._client: BoundedClient | None = None
        self.connections = 0

    def connect(self, timeout_s: float) -> None:
        """Connect and subscribe.

        Raises:
            LiveError: the connection or the subscription failed or took too long. No thread is left running.
        """
        deadline = time.monotonic() + timeout_s
        self._connect(version=5, deadline=deadline)
        if self.refusal and self._reason in (1, _UNSUPPORTED):
            self._hang_up()
            self.refusal = None
            self._ready.clear()
            self._connect(version=4, deadline=deadline)
        if not self._ready.is_set():
            self._refuse(f"{self.url}: no answer within {timeout_s:g} s", _CHECK_BROKER)
        if refusal := self.refusal:
            self.close()
            raise refusal

    def close(self) -> None:
        """Disconnect and stop all threads."""
        self.queue.close()  # wake the thread that waits for room in the queue
        self._hang_up()

    def _connect(self, version: int, deadline: float) -> None:
        """Start a client, and wait until it is subscribed or refused."""
        try:
            from paho.mqtt.enums import MQTTProtocolVersion
        except ImportError:
            raise LiveError("the package paho-mqtt is not installed", "Run `pip install paho-mqtt`") from None
        from .mqtt import BoundedClient

        client = BoundedClient(MQTTProtocolVersion(version), MAX_PACKET)
        client.reconnect_delay_set(1, 15)
        if self._tls:
            client.tls_set_context(self._tls)
        if self._login[0]:
            client.username_pw_set(*self._login)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_subscribe, client.on_publish, client.on_message = self._subscribed, self._published, self._came
        try:
            client.reach(self._host, self._port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise LiveError(f"{self.url}: {getattr(error, 'strerror', None) or error}", _CHECK_BROKER) from error
        self._client = client
        client.loop_start()
        self._ready.wait(max(0.0, deadline - time.monotonic()))

    def _hang_up(self) -> None:
        if self._client:
            from .mqtt import hang_up

            hang_up(self._client)
            self._client = None

    # --- methods that paho's thread calls

    def _connected(self, _client: Client, _userdata: object, _flags: object, reason: Any, _props: object) -> None:
        if reason.is_failure:
            hint = "Check user name, password and the broker's access rules."
            self._refuse(f"{self.url} refuses: {reason}", hint, reason.value)
            return
        self.connections += 1
        if self._client:
            self._client.follow(*self.topics, retained=self._retained)

    def _disconnected(self, _client: Client, _userdata: object, _flags: object, _reason: Any, _props: object) -> None:
        client = self._client
        if client and client.fault:  # the broker violated a limit, so the connection was closed; paho reconnects
            text, client.fault = f"the broker sent {client.fault}, so this program closed the connection", ""
            if self._ready.is_set():
                self._violated(text)
            else:
                self._refuse(f"{self.url}: {text}", "Is this really an MQTT broker? Ask the broker's operator.")
        # some older brokers close the connection without an answer if they do not know MQTT 5
        elif not self.connections and not self._ready.is_set():
            text, hint = f"{self.url} closes the connection without an answer", "Check whether the broker expects TLS."
            self._refuse(text, hint, _UNSUPPORTED)

    def _violated(self, fault: str) -> None:
        """Called when the broker violates a limit after the subscription. A subclass can override it."""

    def _subscribed(self, _client: Client, _userdata: object, _mid: int, reasons: list[Any], _props: object) -> None:
        if any(reason.is_failure for reason in reasons):
            what = f"{self.url} refuses the subscription to {', '.join(self.topics)}: {reasons[0]}"
            self._refuse(what, "Check its access rules.")
        self._ready.set()

    def _published(self, _client: Client, _userdata: object, _mid: int, reason: Any, _props: object) -> None:
        """Called when the broker acknowledged or refused a message that we published. A subclass can override it."""

    def _refuse(self, text: str, hint: str, reason: int = 0) -> None:
        self.refusal, self._reason = LiveError(text, hint), reason
        self._ready.set()

    def _came(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # this is not one of our topics
        if self._retained or not message.retain:
            self._typed(str(getattr(message.properties, "ContentType", "")) if message.properties else "")
            self.queue.put(bytes(message.payload), topic)  # while this call waits for room, TCP makes the broker wait

    def _typed(self, kind: str) -> None:
        """Called with the content type of each message, or "" if it has none. A subclass can override this method."""


class Live(Subscriber):
    """Subscribes to a gateway's topics, and feeds the messages to a verifier in a separate thread.

    If it subscribes late, the verification begins with the first pack that it receives. The broker sends the retained
    births and keys before that.

    If the connection ends, it is opened again. If the broker refuses that, ``refusal`` is the reason, otherwise None.

    Args:
        url: ``mqtt://host:1883`` or ``mqtts://host:8883``.
        site, gateway: names as in topics; ``+`` means all sites or all gateways.
        trust: pinned thumbprints, as for ``Verifier``.
        on_verified: called in the verifier's thread with topic and bytes of each verified pack.
        streams, max_gateways, max_streams: as for ``Verifier``.
    """

    def __init__(
        self,
        url: str,
        trust: Iterable[str] = (),
        *,
        site: str = "+",
        gateway: str = "+",
        on_verified: Callable[[str, bytes], None] | None = None,
        ca_file: Path | None = None,
        username: str | None = None,
        password: str | None = None,
        streams: Iterable[str] = (),
        max_gateways: int = MAX_GATEWAYS,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        topic = f"{PREFIX}{site}/{gateway}/#"
        super().__init__(url, topic, retained=True, ca_file=ca_file, username=username, password=password)
        self._verifier = Verifier(trust, streams=streams, max_gateways=max_gateways, max_streams=max_streams)
        self._on_verified = on_verified
        self._failure: Exception | None = None  # the first error of ``on_verified``
        self._lock = threading.Lock()  # held while a thread uses the verifier
        self._worker = threading.Thread(target=self._work, name="verify", daemon=True)
        self.taken = 0  # number of messages that the verifier has processed

    def start(self, timeout_s: float = 10.0) -> None:
        """Connect and subscribe. From then on, messages are verified as they arrive. Raises LiveError."""
        self.connect(timeout_s)
        self._worker.start()

    def report(self) -> Report:
        """Return the verdict so far. Raises the first error of ``on_verified``."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            return self._verifier.report(time.time() * 1000)

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of packs, readings and failed packs so far, for a progress line. Takes little time."""
        with self._lock:
            return self._verifier.counts()

    def stop(self) -> Report:
        """Process the messages that have arrived, disconnect, and return the last verdict.

        Raises the first error of ``on_verified``.
        """
        if self._worker.is_alive():
            self._hang_up()  # while this waits for paho, the verifier's thread empties the queue
        self.close()
        if self._worker.is_alive():
            self._worker.join()
        if self._failure is not None:
            raise self._failure
        return self._verifier.finish(time.time() * 1000)

    def _subscribed(self, client: Client, userdata: object, mid: int, reasons: list[Any], props: object) -> None:
        self.refusal = None  # a refusal of an earlier attempt is over
        super()._subscribed(client, userdata, mid, reasons, props)

    def _typed(self, kind: str) -> None:
        if not is_known_type(kind):
            with self._lock:
                self._verifier.note_content_type(kind)

    def _violated(self, fault: str) -> None:  # nothing to do, because paho reconnects
        with self._lock:
            self._verifier.refuse(Refused("size", fault), self.url)

    # --- the verifier's thread

    def _work(self) -> None:
        while (item := self.queue.take()) is not None:
            with self._lock:
                outcome = self._verifier.feed(*item)
            self.taken += 1
            if self._on_verified is None or outcome is not Outcome.VERIFIED:
                continue
            try:
                self._on_verified(item[1], item[0])
            except Exception as error:  # noqa: BLE001 - raised again by ``report``; other packs must still be verified
                self._failure = self._failure or error
