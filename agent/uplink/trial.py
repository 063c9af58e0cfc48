"""Tries a destination once, for `check --online` and `doctor`: host name, TLS, login, rights, and subscribers.

A trial sends no signed message. If no agent runs here, it publishes the status "offline", which is true then. This
message is not retained.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.settings import UplinkConfig
from agent.uplink import errors
from agent.uplink.messages import OutgoingMessage, client_id, status_bytes
from agent.uplink.mqtt import CONNECT_S, V5, V311, MqttConnection
from agent.uplink.queues import WakePipe
from agent.uplink.uplink import PREFIX
from drivers.model import BrokerError, GatewayError

ANSWER_S: Final = 10.0
# The trial publishes nothing on these topics, so it cannot test whether the agent may publish there. A broker checks
# this right only for a message that it then delivers. A platform would take the message for data, and a verifier would
# take it for a forged pack. An empty message would be delivered too, and some brokers deliver a message of QoS 2 before
# it is released.
UNTRIED: Final = ("keys", "checkpoint/+", "+/birth", "+/readings", "+/backfill", "replay/reply")


@dataclass(slots=True)
class TrialResult:
    """What a trial found about one destination.

    A member is None if it was not tried, or if the broker does not report it.
    """

    name: str
    url: str
    mqtt: str | None = None  # "5" or "3.1.1"; None if the connection failed
    may_publish: bool | None = None  # True: we may publish on the gateway's status topic
    has_subscriber: bool | None = None
    # description -> when the certificate expires, in UTC seconds
    certificates: dict[str, float] = field(default_factory=dict)
    # the topics that the agent uses, but on which the trial could not test the right to publish
    unproven: tuple[str, ...] = ()
    plain: bool = False  # True: compression is configured, but packs are not compressed, because MQTT 3.1.1 is used
    problems: list[GatewayError] = field(default_factory=list)


def try_destination(
    config: UplinkConfig,
    site: str,
    gateway: str,
    version: str,
    publish: bool,
    environ: Mapping[str, str] = os.environ,
    answer_s: float = ANSWER_S,
) -> TrialResult:
    """Connect once as the agent does. The client id ends with ``-check``, so that a running agent keeps its session.

    Args:
        publish: True: try the rights to publish and to subscribe. False if an agent runs here, because that agent has
            already found out both.
        answer_s: how long to wait for the broker's answers, in seconds.
    """
    result = TrialResult(config.name, config.url)
    base = f"{PREFIX}/{site}/{gateway}"
    status = status_bytes(f"{site}/{gateway}", "offline", version)
    offline = OutgoingMessage(f"{base}/status", status, retain=False)
    session = f"{client_id(config, site, gateway)}-check"
    pipe = WakePipe()
    try:
        connection = _connect(config, session, offline, pipe, environ)
        try:
            result.mqtt = "5" if connection.protocol == V5 else "3.1.1"
            result.plain = bool(config.compress) and connection.protocol == V311
            result.certificates = connection.certificate_expiries()
            if publish:
                _try_rights(connection, config, base, offline, answer_s, result)
        finally:
            connection.close()
    except GatewayError as error:
        result.problems.append(error)
    finally:
        pipe.close()
    return result


def _connect(
    config: UplinkConfig, session: str, will: OutgoingMessage, pipe: WakePipe, environ: Mapping[str, str]
) -> MqttConnection:
    for protocol in (V5, V311):
        connection = MqttConnection(config, session, protocol, will, pipe.fd, pipe.drain, environ, CONNECT_S)
        try:
            connection.connect(lambda: False)
            break
        except BrokerError:
            if protocol == V311 or connection.connack != errors.UNSUPPORTED_VERSION:
                raise
    return connection


def _try_rights(
    connection: MqttConnection,
    config: UplinkConfig,
    base: str,
    status: OutgoingMessage,
    answer_s: float,
    result: TrialResult,
) -> None:
    topics = [f"{base}/replay/request", *([f"{base}/ack"] if config.confirm == "platform" else [])]
    asked = {connection.subscribe(topic): topic for topic in topics}
    packet = connection.publish(status)
    _wait(connection, lambda: len(connection.subacks) >= len(asked) and bool(connection.pubacks), answer_s)
    for number, refusal in connection.subacks:
        if refusal >= errors.FAILURE:
            result.problems.append(errors.subscribe_refused(refusal, asked[number], config.url))
    code = next((code for number, code in connection.pubacks if number == packet), None)
    if code is None:
        if not connection.alive:
            raise errors.disconnected(connection.reason, config.url)
        what = f"no acknowledgement from the broker for {answer_s:.0f} s"
        raise BrokerError(what, where=config.url, hint="Is the broker overloaded?")
    others = tuple(f"{base}/{topic}" for topic in UNTRIED)
    if connection.protocol == V311:  # with MQTT 3.1.1, the PUBACK does not tell whether the broker dropped the message
        result.unproven = (status.topic, *others)
        return
    result.may_publish = code < errors.FAILURE
    if not result.may_publish:
        result.problems.append(errors.publish_refused(code, status.topic, config.url))
    else:
        result.unproven = others
        result.has_subscriber = code != errors.NO_SUBSCRIBERS
        if not result.has_subscriber:
            hint = "Is the platform running and subscribed? The agent keeps its packs until a client subscribes"
            result.problems.append(BrokerError(f"no client subscribes to {status.topic}", where=config.url, hint=hint))


def _wait(connection: MqttConnection, done: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while connection.alive and not done() and (left := until - time.monotonic()) > 0:
        connection.poll(min(left, 1.0))
