"""A broker's messages, verified as they come."""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from agent.verify.report import Report
from agent.verify.strict import MAX_PACK_BYTES
from agent.verify.verifier import PREFIX, Outcome, Verifier

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

WAITING, WAITING_BYTES = 2000, 32 << 20  # messages; beyond that the broker is left waiting
KEEPALIVE_S: Final = 30
PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_UNSUPPORTED: Final = 132  # reason code: unsupported protocol version


class LiveError(Exception):
    """The broker cannot be reached or refuses. ``hint`` says what to look at."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class Mail:
    """Messages between two threads, bounded in number and bytes; a single one always has room."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[bytes, str]] = deque()
        self._bytes = 0
        self._change = threading.Condition()
        self._closed = False

    def put(self, payload: bytes, topic: str) -> None:
        """Waits for room. After ``close`` it keeps nothing."""
        with self._change:
            self._change.wait_for(self._has_room)
            if not self._closed:
                self._waiting.append((payload, topic))
                self._bytes += len(payload)
                self._change.notify_all()

    def _has_room(self) -> bool:
        return self._closed or not self._waiting or (len(self._waiting) < WAITING and self._bytes < WAITING_BYTES)

    def take(self) -> tuple[bytes, str] | None:
        """Waits for the next one. None: closed, and all of it was taken."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            item: tuple[bytes, str] = self._waiting.popleft()
            self._bytes -= len(item[0])
            self._change.notify_all()
            return item

    def close(self) -> None:
        """Nothing more comes; nobody waits for room any longer."""
        with self._change:
            self._closed = True
            self._change.notify_all()


class Live:
    """Subscribes to a gateway's topics and feeds a verifier in a thread of its own.

    A verifier that joins late begins with the first pack that it sees; retained births and keys come first.

    Args:
        url: ``mqtt://host:1883`` or ``mqtts://host:8883``.
        site, gateway: as in the topics; ``+`` for all.
        trust: thumbprints of first keys.
        heard: called in the verifier's thread with topic and bytes of each pack that was verified.
    """

    def __init__(
        self,
        url: str,
        trust: Iterable[str] = (),
        *,
        site: str = "+",
        gateway: str = "+",
        ca_file: Path | None = None,
        username: str | None = None,
        password: str | None = None,
        heard: Callable[[str, bytes], None] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise LiveError(f"broker url {url!r}", "mqtt://host:1883 or mqtts://host:8883 is wanted.")
        self.url = url
        self._host, self._port = parts.hostname, parts.port or PORTS[parts.scheme]
        self._tls = (
            ssl.create_default_context(cafile=str(ca_file) if ca_file else None) if parts.scheme == "mqtts" else None
        )
        self._login = (username, password)
        self._filter = f"{PREFIX}{site}/{gateway}/#"
        self._verifier = Verifier(trust)
        self._heard = heard
        self._lock = threading.Lock()  # around the verifier
        self._mail = Mail()
        self._ready = threading.Event()  # subscribed, or refused
        self._refusal: LiveError | None = None
        self._reason = 0
        self._client: Client | None = None
        self._worker = threading.Thread(target=self._work, name="verify", daemon=True)
        self.connections = 0

    def start(self, timeout_s: float = 10.0) -> None:
        """Connect and subscribe; what comes is verified from here on.

        Raises:
            LiveError: not connected and subscribed in time. Nothing is left running then.
        """
        deadline = time.monotonic() + timeout_s
        self._connect(version=5, deadline=deadline)
        if self._refusal and self._reason in (1, _UNSUPPORTED):
            self._hang_up()
            self._refusal, self._reason = None, 0
            self._ready.clear()
            self._connect(version=4, deadline=deadline)
        if not self._ready.is_set():
            self._refuse(f"{self.url}: no answer within {timeout_s:g} s", "Is the broker running and the port right?")
        if self._refusal:
            self._mail.close()
            self._hang_up()
            raise self._refusal
        self._worker.start()

    def report(self) -> Report:
        """The verdict so far."""
        with self._lock:
            return self._verifier.report(time.time() * 1000)

    def counts(self) -> tuple[int, int, int]:
        """(packs, readings, failed) so far, cheaply, for a progress line."""
        with self._lock:
            return self._verifier.counts()

    def stop(self) -> Report:
        """Take what has already come, hang up, and give the last verdict."""
        if self._worker.is_alive():
            self._hang_up()  # while the worker makes room for what is on its way
            self._mail.close()
            self._worker.join()
        else:
            self._mail.close()
            self._hang_up()
        return self._verifier.finish(time.time() * 1000)

    def _connect(self, version: int, deadline: float) -> None:
        """One client; waits until it is subscribed or refused."""
        try:
            from paho.mqtt import client as mqtt
        except ImportError:
            raise LiveError("the package paho-mqtt is not installed", "pip install paho-mqtt") from None
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(version))
        client.reconnect_delay_set(1, 15)
        if self._tls:
            client.tls_set_context(self._tls)
        if self._login[0]:
            client.username_pw_set(*self._login)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_subscribe, client.on_message = self._subscribed, self._came
        options: dict[str, Any] = {}
        if version == 5:
            limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            limits.MaximumPacketSize = MAX_PACK_BYTES + 65_536
            options = {"clean_start": True, "properties": limits}
        try:
            client.connect(self._host, self._port, KEEPALIVE_S, **options)
        except (OSError, ValueError) as error:
            raise LiveError(f"{self.url}: {error}", "Is the broker running and the port right?") from error
        self._client = client
        client.loop_start()
        self._ready.wait(max(0.0, deadline - time.monotonic()))

    def _hang_up(self) -> None:
        if self._client:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    # --- paho's thread

    def _connected(self, client: Client, _userdata: object, _flags: object, reason: Any, _props: object) -> None:
        if reason.is_failure:
            self._reason = reason.value
            self._refuse(f"{self.url} refuses: {reason}", "Check user name, password and the broker's access rules.")
            return
        self.connections += 1
        client.subscribe(self._filter, qos=1)

    def _disconnected(self, _client: Client, _userdata: object, _flags: object, _reason: Any, _props: object) -> None:
        if not self.connections and not self._ready.is_set():  # some older brokers answer MQTT 5 this way
            self._reason = _UNSUPPORTED
            self._refuse(f"{self.url} closes the connection without an answer", "Is TLS wanted there, or not wanted?")

    def _subscribed(self, _client: Client, _userdata: object, _mid: int, reasons: list[Any], _props: object) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refuse(
                f"{self.url} refuses the subscription to {self._filter}: {reasons[0]}", "Check its access rules."
            )
        self._ready.set()

    def _refuse(self, text: str, hint: str) -> None:
        self._refusal = LiveError(text, hint)
        self._ready.set()

    def _came(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self._mail.put(bytes(message.payload), message.topic)  # the broker waits meanwhile: TCP holds it back

    # --- the verifier's thread

    def _work(self) -> None:
        while (item := self._mail.take()) is not None:
            with self._lock:
                outcome = self._verifier.feed(*item)
            if self._heard is not None and outcome is Outcome.VERIFIED:
                self._heard(item[1], item[0])
