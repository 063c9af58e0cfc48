"""MQTT 5: a shared subscription for packs and checkpoints, and a normal one for keys and status messages.

Every worker needs all keys. Brokers send no retained messages to a shared subscription, so each worker has a normal
subscription for keys. Each worker also has its own session, which continues after a restart of the worker. This is
needed because brokers do not deliver the unacknowledged messages of a session to other workers when the session ends.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import SplitResult

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.verify.strict import MAX_PACK_BYTES
from drivers.backoff import Backoff
from receiver.sources import Message, hosts_of, login_of, tls_error

log = logging.getLogger("meterhouse.platform")
GROUP: Final = "meterhouse"
SHARED: Final = ("+/+/+/readings", "+/+/+/backfill", "+/+/checkpoint/+")
PLAIN: Final = ("+/+/keys", "+/+/status")
SESSION_S: Final = 86_400  # the broker keeps the session of a disconnected worker for this time
WINDOW: Final = 2000  # number of unacknowledged messages after which the broker sends no more
HEAD_BYTES: Final = 64 << 10  # largest size of topic and properties of a PUBLISH in bytes
CONNACK_S: Final = 15.0  # longest wait for the broker's answer to a CONNECT


class MqttSource:
    """Messages from an MQTT broker. Implements ``receiver.sources.Source``.

    There is no thread for the network: ``take`` and ``acknowledge`` do the network I/O.
    """

    def __init__(self, url: SplitResult, name: str) -> None:
        self._hosts, self._next = hosts_of(url, 8883 if url.scheme == "mqtts" else 1883), 0
        self._queue = deque[Message]()
        self._generation = 0  # number of the connection, by which messages of an earlier connection are recognized
        self._problem = "not connected yet"
        self._retry = Backoff(0.5, 15.0)
        self._retry_at = 0.0
        self._connected = False
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"meterhouse-platform-{name}",
            protocol=mqtt.MQTTv5,
            manual_ack=True,
        )
        apply_login(client, url)
        client.on_connect, client.on_disconnect, client.on_message = (
            self._on_connect,
            self._on_disconnect,
            self._on_message,
        )

    def take(self, most: int, wait_s: float) -> list[Message]:
        """Return up to ``most`` messages. Waits at most ``wait_s``."""
        until = time.monotonic() + wait_s
        while True:
            self._serve(0.0 if self._queue else max(0.0, min(0.05, until - time.monotonic())))
            if len(self._queue) >= most or time.monotonic() >= until:
                break
        return [self._queue.popleft() for _ in range(min(most, len(self._queue)))]

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Send a PUBACK for each message of the current connection. The broker sends messages of earlier connections
        again.
        """
        for message in messages:
            generation, mid, qos = message.token
            if generation == self._generation:
                self._client.ack(mid, qos)

    def problem(self) -> str:
        """Why there is no connection. "" while there is a connection."""
        return self._problem

    def close(self) -> None:
        """Disconnect. The broker keeps the session."""
        self._client.disconnect()
        self._client.loop(0.1)

    def _serve(self, wait_s: float) -> None:
        if not self._connected and time.monotonic() >= self._retry_at:
            self._connect()
        if self._client.socket() is None:
            time.sleep(wait_s)
            return
        if self._client.loop(wait_s) != mqtt.MQTT_ERR_SUCCESS and self._connected:
            self._lost("connection lost")

    def _connect(self) -> None:
        self._retry_at = time.monotonic() + max(CONNACK_S, self._retry.next_s())
        settings = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        settings.SessionExpiryInterval = SESSION_S
        settings.ReceiveMaximum = WINDOW
        settings.MaximumPacketSize = MAX_PACK_BYTES + HEAD_BYTES  # this limits the memory of a full window of messages
        host, port = self._hosts[self._next % len(self._hosts)]
        self._next += 1
        try:
            self._client.connect(host, port, keepalive=30, clean_start=False, properties=settings)
        except (OSError, ValueError) as error:
            self._lost(str(error) or type(error).__name__)

    def _lost(self, why: str) -> None:
        self._connected, self._problem = False, why
        self._retry_at = time.monotonic() + self._retry.next_s()
        self._generation += 1
        self._queue.clear()  # the broker sends these unacknowledged messages again

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._lost(f"the broker refused the connection: {reason}")
            return
        self._connected, self._problem = True, ""
        self._retry.reset()
        shared = [(f"$share/{GROUP}/meterhouse/v1/{topic}", 1) for topic in SHARED]
        client.subscribe(shared + [(f"meterhouse/v1/{topic}", 1) for topic in PLAIN])

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        hint = ". Another worker uses this name: give each worker its own (--name)" if reason.value == 0x8E else ""
        self._lost(f"the broker closed the connection: {reason}{hint}")

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        kind = str(getattr(message.properties, "ContentType", "")) if message.properties else ""
        self._queue.append(Message(message.topic, message.payload, (self._generation, message.mid, message.qos), kind))


def apply_login(client: mqtt.Client, url: SplitResult) -> None:
    """Set user, password and TLS from ``mqtts://user@host?password_file=FILE&ca=FILE&certificate=FILE&key=FILE``.

    Raises:
        UsageError: the URL contains a password or an unknown option, or a file cannot be used.
    """
    login = login_of(url)
    try:
        if login.user:
            client.username_pw_set(login.user, login.password or None)
        if url.scheme == "mqtts":
            client.tls_set(login.options.get("ca"), login.options.get("certificate"), login.options.get("key"))
    except (OSError, ValueError) as error:
        raise tls_error(url, login.options, error) from None
