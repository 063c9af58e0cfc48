"""A client that publishes messages as gateways do, as fast as the broker confirms them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from receiver.demo import _wait_for_subscribers


@contextlib.contextmanager
def connected(port: int, folder: Path, window: int) -> Iterator[mqtt.Client]:
    """Connect to the broker on loopback, and wait until a worker has subscribed.

    Args:
        folder: folder with the logs of the processes, which the error quotes if no worker subscribes.
        window: largest number of messages in flight.
    """
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(window)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        _wait_for_subscribers(client, folder)
        yield client
        client.disconnect()
    finally:
        client.loop_stop()


def publish(client: mqtt.Client, messages: Iterable[tuple[str, bytes, bool]], most: int) -> int:
    """Publish (topic, body, retained) at QoS 1. At most ``most`` messages are unconfirmed at a time.

    Returns the number of messages. All of them have been confirmed.
    """
    sent, confirmed = 0, [0]

    def on_publish(*_: Any) -> None:
        confirmed[0] += 1

    client.on_publish = on_publish
    for topic, body, retained in messages:
        client.publish(topic, body, qos=1, retain=retained)
        sent += 1
        while sent - confirmed[0] > most:
            time.sleep(0.005)
    while confirmed[0] < sent:
        time.sleep(0.005)
    return sent
