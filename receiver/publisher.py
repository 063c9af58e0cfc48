"""Publishes acks and requests to gateways over MQTT, at QoS 1. A thread of paho does the network I/O."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Final
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from drivers.model import UsageError
from receiver.sources import hosts_of
from receiver.sources.mqtt import apply_login

log = logging.getLogger("meterhouse.platform")
MAX_QUEUED: Final = 10_000
TOPICS_AT_ONCE: Final = 50  # number of topics in one SUBSCRIBE


class Publisher:
    """A connection to the broker that reconnects by itself.

    While there is no connection, ``publish`` accepts nothing, and the caller must try again later.

    Args:
        url: ``mqtt://`` or ``mqtts://`` URL of a broker; RabbitMQ needs its MQTT plugin. It may name several hosts,
        which are tried in turn.
    """

    def __init__(self, url: str, name: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            # an invalid URL may contain a password, so it is not shown
            shown = f"{parts.scheme}://" if "@" in url else url
            hint = "Expected a URL such as mqtt://127.0.0.1:1883"
            raise UsageError(f"{shown!r} is not a broker URL", where="--broker", hint=hint)
        client = self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"meterhouse-keeper-{name}-{os.getpid()}", protocol=mqtt.MQTTv5
        )
        apply_login(client, parts)
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(1, 15)
        client.on_connect = self._on_connect
        client.on_connect_fail, client.on_disconnect = self._on_connect_fail, self._on_disconnect
        self._hosts, self._next = hosts_of(parts, 8883 if parts.scheme == "mqtts" else 1883), 0
        self._closing = False
        client.connect_async(*self._hosts[0], keepalive=30)
        client.loop_start()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, so that ``publish`` accepts messages."""
        return self._client.is_connected()

    def publish(self, topic: str, body: bytes, *, retain: bool = False) -> bool:
        """Queue a message. Returns False if it was not accepted."""
        if not self.is_connected:
            return False
        return self._client.publish(topic, body, qos=1, retain=retain).rc == mqtt.MQTT_ERR_SUCCESS

    def retained(self, topics: list[str], wait_s: float) -> dict[str, bytes]:
        """The retained messages by topic. Only messages that the broker sends within ``wait_s`` are included."""
        found: dict[str, bytes] = {}
        complete = threading.Event()

        def take(client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
            if message.topic in topics:
                found[message.topic] = bytes(message.payload)
            if len(found) == len(topics):
                complete.set()

        self._client.on_message = take
        try:
            for at in range(0, len(topics), TOPICS_AT_ONCE):
                self._client.subscribe([(topic, 1) for topic in topics[at : at + TOPICS_AT_ONCE]])
            complete.wait(wait_s)
            self._client.unsubscribe(topics)
        finally:
            self._client.on_message = None
        return dict(found)

    def close(self) -> None:
        """Disconnect, and end the thread of paho."""
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()

    def _try_next(self) -> None:
        if not self._closing:
            self._next += 1
            self._client.connect_async(*self._hosts[self._next % len(self._hosts)], keepalive=30)

    def _on_connect_fail(self, client: Any, userdata: Any) -> None:
        self._try_next()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._try_next()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refused the keeper: %s", reason)
