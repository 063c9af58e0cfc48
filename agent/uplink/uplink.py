"""The uplink thread of one destination: connects, sends, processes answers, and reconnects until it is stopped."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from agent.certificates import WARN_DAYS, days_text
from agent.outbox import Outbox, OutboxItem
from agent.settings import UplinkConfig
from agent.uplink import errors
from agent.uplink.errors import FaultLog
from agent.uplink.flow import STALL_S, AckWatchdog, Attempt, ReconnectBackoff
from agent.uplink.messages import OutgoingMessage, PackCompressor, UplinkState, client_id, status_bytes
from agent.uplink.mqtt import BROKER_CERTIFICATE, CONNECT_S, V5, V311, MqttConnection
from agent.uplink.queues import WakePipe
from agent.uplink.replay import QUOTA_BYTES, ReplayServer
from agent.uplink.scheduler import LIVE_BYTES, SendScheduler
from drivers.model import BrokerError, GatewayError, clean_text
from drivers.rate_limit import RateLimitedLog

log = logging.getLogger("meterhouse.uplink")
PREFIX: Final = "meterhouse/v1"
RETRY_S: Final = 1.0
MAX_ACKS: Final = 256  # at most this many messages of the topic ``ack`` wait for the store
BACKFILL_RATE: Final = 200.0  # unless configured, the rate of the backlog is at least this number of packs per second
# unless configured, the rate of the backlog is at least this many times the rate of live packs
BACKFILL_FACTOR: Final = 25.0
TRY_V5_AGAIN_S: Final = 3600.0
STATUS_S: Final = 300.0
# confirmed ids are passed to the store when the oldest has waited for this time in s, or when there are this many
CONFIRM_S, CONFIRM_COUNT = 0.2, 100
DISCONNECT_S: Final = 1.0  # this part of the time for ``stop``, in seconds, is kept for publishing "offline"


def backlog_rate(configured: int, live_rate: float) -> float:
    """Return the rate of backlog in packs per second: the configured rate, or one that is high enough to catch up."""
    return configured or max(BACKFILL_RATE, BACKFILL_FACTOR * live_rate)


class Uplink:
    """Delivers to one destination from ``start`` to ``stop``. Its methods raise no errors once it runs.

    Args:
        site, gateway: the names that are used in topics.
        outbox: access to the store through the database thread.
        keys: the ``keys`` object, which each connection publishes.
        pack_every_ms: the pack interval. A pack that is older than three intervals is backlog.
        live_rate: approximate number of packs offered per second.
        on_event: called from the uplink thread with an event for the gateway's stream.
        environ: environment variables; systemd names the folder of credentials in them.
    """

    def __init__(
        self,
        config: UplinkConfig,
        *,
        site: str,
        gateway: str,
        outbox: Outbox,
        keys: bytes,
        version: str,
        pack_every_ms: int = 10_000,
        live_rate: float = 0.0,
        on_event: Callable[[dict[str, object]], object] = lambda event: None,
        environ: Mapping[str, str] = os.environ,
        retry_s: float = RETRY_S,
        connect_s: float = CONNECT_S,
        ack_timeout_s: float | None = None,
        live_bytes: int = LIVE_BYTES,
        replay_bytes: int = QUOTA_BYTES,
    ) -> None:
        self.name, self.config = config.name, config
        self._outbox, self._environ = outbox, environ
        self._gateway, self._base = f"{site}/{gateway}", f"{PREFIX}/{site}/{gateway}"
        self._version = version
        self._client_id = client_id(config, site, gateway)
        self._on_event = on_event
        self._backoff, self._faults = ReconnectBackoff(retry_s), FaultLog(self.name)
        self._rejected_log = RateLimitedLog()
        self._connect_s = connect_s
        self._ack_timeout_s = ack_timeout_s or max(20.0, float(config.keepalive_s))
        self._wake_pipe = WakePipe()
        self._compressor = PackCompressor(config.compress == "zstd")
        self._broker_certificate_ends: float | None = None
        self._replay = ReplayServer(
            self.name,
            outbox,
            self._gateway,
            lambda data: self._scheduler.publish(f"{self._base}/replay/reply", data, retain=False),
            self._wake_pipe.wake,
            quota_bytes=replay_bytes,
            in_flight=config.in_flight,
            wants=config.wants,
            size=self._compressor.size,
        )
        self._scheduler = SendScheduler(
            self.name,
            outbox,
            self._base,
            config.in_flight,
            backlog_rate(config.backfill_rate, live_rate),
            pack_every_ms / 1000,
            self._replay.next,
            live_bytes,
            wake=self._wake_pipe.wake,
            backoff_s=retry_s,
            wants=config.wants,
            compressor=self._compressor,
            on_replayed=self._replay.on_answer,
        )
        # topic -> message; ``keys`` comes first; other threads write this
        self._retained: dict[str, bytes] = {"keys": keys}
        self._changed: deque[str] = deque()  # topics of retained messages that must be published
        # (rate of the backlog, pack interval in s); a reload replaces them, and the thread then takes them up
        self._rates = self._used_rates = (backlog_rate(config.backfill_rate, live_rate), pack_every_ms / 1000)
        self._thread = threading.Thread(target=self._run, name=f"uplink {self.name}", daemon=True)
        self._begin = threading.Event()
        self._stop_at_s: float | None = None
        self._protocol = V5
        self._v311_since_s = 0.0
        self._attempt = Attempt.UNREACHABLE  # how the current attempt to connect ends if it ends now
        self._taken_over = 0  # how often another client took over the session
        self._connected = False
        self._connects = 0
        self._since = time.time()
        self._since_mono = time.monotonic()
        self._fault: BrokerError | None = None
        self._ack_fault: BrokerError | None = None  # the broker refused our subscription to ``ack`` on this connection
        self._subscribed: dict[int, str] = {}  # packet id -> topic, of this connection
        self._status_s = 0.0  # when the status "online" was last published
        self._newest_ms = 0
        self._delivered_s = 0.0  # arrival of the oldest confirmation that the store does not have yet

    # --- from other threads

    def prepare(self) -> None:
        """Start the thread, which waits for ``start`` or ``stop``. So ``start`` cannot fail later.

        Raises RuntimeError if the system has too many threads.
        """
        if self._thread.ident is None:
            self._thread.start()

    def start(self) -> None:
        """Begin to connect. Returns at once."""
        self.prepare()
        self._begin.set()

    def change_rates(self, pack_every_ms: int, live_rate: float) -> None:
        """Use another pack interval and rate of packs from now on. Any thread may call this; it never blocks."""
        self._rates = (backlog_rate(self.config.backfill_rate, live_rate), pack_every_ms / 1000)
        self._wake_pipe.wake()

    def offer(self, items: Sequence[OutboxItem]) -> None:
        """Offer newly committed packs, in order of their ids. The database thread calls this; it never blocks.

        Packs of streams that this destination does not get are left out.
        """
        if self.config.streams:
            items = [item for item in items if self.config.wants(item.stream)]
        if items:
            self._newest_ms = max(self._newest_ms, items[-1].to_ms)
            self._scheduler.inbound.offer(items)

    def retain(self, topic: str, data: bytes) -> None:
        """Publish a retained message below our base topic, now and on each connection. Any thread may call this.

        It never blocks.
        """
        self._retained[topic] = data
        if self._connected:  # if not connected, the next connection publishes all retained messages
            self._changed.append(topic)
        self._wake_pipe.wake()

    def expect_stop(self) -> None:
        """Note that the agent is about to seal its last packs. From now on, all live packs are sent, but no backlog."""
        self._scheduler.draining = True

    def stop(self, deadline_s: float) -> None:
        """Send the live packs, disconnect and end the thread, within ``deadline_s`` seconds.

        If the thread waits for the network for longer than that, it ends later.
        """
        self._stop_at_s = time.monotonic() + deadline_s
        has_begun = self._begin.is_set()  # if not, the thread does not wait for the network, so it ends at once
        self._begin.set()
        self._wake_pipe.wake()
        if self._thread.ident is None:
            self._wake_pipe.close()
            return
        self._thread.join(deadline_s + 0.5 if has_begun else None)
        if self._thread.is_alive():
            log.warning("%s: the uplink still waits for the network and did not stop in time", self.name)

    def state(self) -> UplinkState:
        """Return the current state."""
        scheduler, fault, connected = self._scheduler, self._fault, self._connected
        return UplinkState(
            connected=connected,
            since=self._since,
            waiting=scheduler.waiting,
            in_flight=scheduler.in_flight,
            confirmed=scheduler.accepted,
            refused=scheduler.refused,
            connects=self._connects,
            sent_bytes=scheduler.sent_bytes,
            backfilling=connected and scheduler.backfilling,
            silent_topics=len(scheduler.blocked),
            set_aside=len(scheduler.quarantined),
            error=fault.what if fault else None,
            hint=fault.hint if fault else None,
            mqtt=("5" if self._protocol == V5 else "3.1.1") if connected else None,
            confirm=scheduler.mode if connected else None,
            subscriber=scheduler.subscriber if connected else None,
            streams=list(self.config.streams),
            compress=self.config.compress if connected and self._compressor.enabled else None,
            broker_certificate_ends=self._broker_certificate_ends,
        )

    # --- the thread: connections

    def _run(self) -> None:
        self._begin.wait()
        try:
            self._serve_until_stopped()
        finally:
            self._wake_pipe.close()

    def _serve_until_stopped(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            try:
                self._connect_and_serve()
            except BrokerError as error:
                self._on_failure(error)
            except GatewayError as error:  # for example, a password file cannot be read
                self._on_failure(BrokerError(error.what, where=error.where, hint=error.hint))
            except Exception as error:
                log.exception("%s: internal error", self.name)
                self._on_failure(BrokerError(f"internal error: {clean_text(repr(error))}", where=self.config.url))
            self._wait_to_reconnect(time.monotonic() - began)

    @property
    def _stopping(self) -> bool:
        return self._stop_at_s is not None

    def _wait_to_reconnect(self, lived_s: float) -> None:
        taken_over = self._fault is not None and self._fault.what == errors.disconnected(errors.TAKEN_OVER, "").what
        if taken_over:
            self._taken_over += 1
            # if a second signal has ended the service, the event loop is closed
            with contextlib.suppress(RuntimeError):
                self._on_event({"event": "taken_over", "times": self._taken_over, "uplink": self.name})
            self._attempt = Attempt.TAKEN_OVER
        until = time.monotonic() + self._backoff.next(self._attempt, lived_s)
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._wake_pipe.wait(left)

    def _connect_and_serve(self) -> None:
        """Serve one connection. Raises BrokerError when it ends, unless ``stop`` ends it."""
        if self._protocol == V311 and time.monotonic() - self._v311_since_s > TRY_V5_AGAIN_S:
            self._protocol = V5
        connection, self._attempt, accepted = self._connection(), Attempt.UNREACHABLE, self._scheduler.accepted
        try:
            connection.connect(lambda: self._stopping)
        except BrokerError as error:
            if connection.connack is not None:
                self._attempt = Attempt.REFUSED
            if self._protocol == V5 and connection.connack == errors.UNSUPPORTED_VERSION:
                log.info("%s: broker does not support MQTT 5, using 3.1.1", self.name)
                self._protocol, self._v311_since_s = V311, time.monotonic()
                connection = self._connection()
                connection.connect(lambda: self._stopping)
            else:
                raise error
        self._attempt = Attempt.USELESS
        try:
            self._on_connected(connection)
            self._serve(connection)
        finally:
            connection.drop()
            # set here, because ``_on_failure`` keeps the times if there was a fault before the connection ended
            self._since, self._since_mono = time.time(), time.monotonic()
            self._connected = False
            struck = self._scheduler.end(connection.closed_by_broker and not connection.limit_exceeded)
            self._replay.end(connection.closed_by_broker and not struck)
            if struck or self._scheduler.accepted > accepted:
                self._attempt = Attempt.SERVED
            self._confirm_to_store()

    def _connection(self) -> MqttConnection:
        return MqttConnection(
            self.config,
            self._client_id,
            self._protocol,
            OutgoingMessage(f"{self._base}/status", self._status("offline")),
            self._wake_pipe.fd,
            self._wake_pipe.drain,
            self._environ,
            self._connect_s,
        )

    def _on_connected(self, connection: MqttConnection) -> None:
        mode = self.config.confirm or "subscriber"
        if connection.protocol == V311 and mode == "subscriber":
            mode = "broker"  # with MQTT 3.1.1, a PUBACK does not tell whether there is a subscriber
        down_s = time.monotonic() - self._since_mono
        self._connects += 1
        self._connected, self._since, self._since_mono = True, time.time(), time.monotonic()
        version = "5" if connection.protocol == V5 else "3.1.1"
        after = f" after {down_s:.0f} s" if self._fault else ""
        self._compressor.enabled = self._compressor.wanted and connection.protocol == V5
        plain = ", not compressed" if self._compressor.wanted and not self._compressor.enabled else ""
        self._faults.connected(f"connected to {self.config.url}{after} (MQTT {version}, confirm = {mode}{plain})")
        self._fault = self._ack_fault = None
        self._watchdog, self._acks_left = AckWatchdog(), threading.Semaphore(MAX_ACKS)
        self._take_new_rates()
        ends = connection.certificate_expiries()
        self._broker_certificate_ends = ends.get(BROKER_CERTIFICATE)
        for what, end in ends.items():
            if (days := (end - time.time()) / 86_400) < WARN_DAYS:
                log.warning("%s: %s %s; renew it, no restart is needed", self.name, what, days_text(days))
        self._scheduler.begin(mode, connection.receive_maximum, connection.max_packet)
        self._subscribed.clear()
        if mode == "platform":
            self._subscribe(connection, f"{self._base}/ack")
        if self._replay.begin():
            self._subscribe_to_requests(connection)
        self._publish_all_retained()

    def _subscribe(self, connection: MqttConnection, topic: str) -> None:
        self._subscribed[connection.subscribe(topic)] = topic

    def _subscribe_to_requests(self, connection: MqttConnection) -> None:
        self._subscribe(connection, f"{self._base}/replay/request")

    def _on_failure(self, error: BrokerError) -> None:
        """Handle a connection that ended, or that could not be made."""
        if self._stopping:
            return
        if self._fault is None:
            self._since, self._since_mono = time.time(), time.monotonic()
        self._faults.fault(error)
        self._fault = error

    # --- the thread: while connected

    def _serve(self, connection: MqttConnection) -> None:
        scheduler = self._scheduler
        while True:
            now = time.monotonic()
            self._take_new_rates()
            self._publish_changed()
            if self._stop_at_s is not None:
                scheduler.draining = True
                if scheduler.idle or now >= self._stop_at_s - DISCONNECT_S:
                    self._disconnect(connection)
                    return
            scheduler.collect()
            self._send(connection)
            if not connection.alive:
                raise errors.disconnected(connection.reason, self.config.url)
            enough = len(scheduler.delivered) >= CONFIRM_COUNT or now - self._delivered_s >= CONFIRM_S
            if scheduler.delivered and (enough or not scheduler.in_flight):
                self._confirm_to_store()
            self._check_progress(connection, now)
            if now - self._status_s >= STATUS_S:
                self._status_s = now
                scheduler.publish(f"{self._base}/status", self._status("online"))
            if self._replay.resubscribe():
                self._subscribe_to_requests(connection)
            if scheduler.take_retained_retry():
                self._publish_all_retained()
            self._report_misfits()
            if not scheduler.has_fault:
                self._fault = self._ack_fault
            # quarantined packs do not count here: they stay until the next start, and the log must report later faults
            if not scheduler.refuses:
                self._faults.cleared()
            stop_s = math.inf if self._stop_at_s is None else max(0.0, self._stop_at_s - DISCONNECT_S - now)
            wait_s = min(scheduler.wait_s(), self._ack_timeout_s / 4, stop_s)
            self._poll(connection, min(wait_s, CONFIRM_S) if scheduler.delivered else wait_s)

    def _check_progress(self, connection: MqttConnection, now: float) -> None:
        """Raise BrokerError if the network drops our packets, or the broker does not answer."""
        if (oldest := self._scheduler.oldest) is None:
            return
        received, silent_s = connection.progress()
        stalled = self._watchdog.stalled(oldest, now, received, silent_s)
        if stalled or self._watchdog.overdue_s(oldest, now, received) > self._ack_timeout_s:
            raise BrokerError(
                f"no acknowledgement from the broker for {STALL_S if stalled else self._ack_timeout_s:.0f} s",
                where=self.config.url,
                hint="Does a network device between this box and the broker drop packets?",
            )

    def _report_misfits(self) -> None:
        scheduler = self._scheduler
        if (topic := scheduler.too_large) is not None:
            scheduler.too_large = None
            self._on_refused(errors.TOO_LARGE, topic)
        if (topic := scheduler.disconnects_at) is not None:
            scheduler.disconnects_at = None
            self._report(errors.disconnects_at(topic, self.config.url))

    def _send(self, connection: MqttConnection) -> None:
        """Send all messages that may be sent now.

        Each of them gets the same ``end_offset``: the number of bytes that the connection has sent when the last of
        them is sent.
        """
        message = self._scheduler.next()
        if message is None:
            return
        sent: list[OutgoingMessage] = []
        self._outbox.before_send()
        with connection.together():
            while message is not None:
                if not (packet := connection.publish(message)):
                    break
                self._scheduler.sent(packet, message)
                sent.append(message)
                message = self._scheduler.next()
        end_offset = connection.bytes_sent()
        for message in sent:
            message.end_offset = end_offset

    def _poll(self, connection: MqttConnection, wait_s: float) -> None:
        try:
            connection.poll(wait_s)
        finally:  # also the PUBACKs that arrived before a malformed packet count
            for packet, code in connection.pubacks:
                self._on_puback(packet, code)
            connection.pubacks.clear()
        for packet, code in connection.subacks:
            if code >= errors.FAILURE and packet in self._subscribed:
                refused = errors.subscribe_refused(code, self._subscribed[packet], self.config.url)
                log.warning("%s: %s. %s", self.name, refused.what, refused.hint)
                if self._subscribed[packet] == f"{self._base}/ack":
                    self._ack_fault = refused  # the state shows it, because no pack will be confirmed
        for topic, payload in connection.messages:
            self._on_message(topic, payload)
        for topic in connection.ignored:
            text = (
                "%s: retained message on %s ignored: acks and requests must not be retained. Ask the operator to "
                "delete it"
            )
            self._rejected_log.log(log.warning, text, self.name, clean_text(topic, 200))
        connection.subacks.clear()
        connection.messages.clear()
        connection.ignored.clear()

    def _publish_all_retained(self) -> None:
        """Publish status, keys and checkpoints. The scheduler publishes births."""
        self._scheduler.publish(f"{self._base}/status", self._status("online"))
        self._changed.clear()
        self._changed.extend(self._retained)
        self._status_s = time.monotonic()

    def _take_new_rates(self) -> None:
        rates = self._rates
        if rates is not self._used_rates:
            self._used_rates = rates
            self._scheduler.change_rates(*rates)

    def _publish_changed(self) -> None:
        while self._changed:
            name = self._changed.popleft()
            topic, data = f"{self._base}/{name}", self._retained[name]
            if len(data) <= self._scheduler.max_payload:
                self._scheduler.publish(topic, data)
            else:
                self._scheduler.reject_retained(topic)
                self._report(errors.retained_too_large(topic, self.config.url))

    def _disconnect(self, connection: MqttConnection) -> None:
        """Publish "offline" and send DISCONNECT, so that the broker does not publish our will."""
        until = time.monotonic() + DISCONNECT_S
        message = OutgoingMessage(f"{self._base}/status", self._status("offline"))
        if packet := connection.publish(message):
            self._scheduler.sent(packet, message)
        while self._scheduler.in_flight and connection.alive and (left := until - time.monotonic()) > 0:
            self._poll(connection, left)
        connection.close()
        log.info("%s: disconnected", self.name)

    def _confirm_to_store(self) -> None:
        if ids := self._scheduler.delivered:
            self._outbox.confirm(self.name, ids)
            self._scheduler.delivered = []

    # --- the thread: what the broker sends

    def _on_puback(self, packet: int, code: int) -> None:
        if not self._scheduler.delivered:
            self._delivered_s = time.monotonic()
        message = self._scheduler.on_puback(packet, code)
        if message is not None:
            self._on_refused(code, message.topic)

    def _on_refused(self, code: int, topic: str) -> None:
        self._report(errors.publish_refused(code, topic, self.config.url))

    def _report(self, fault: BrokerError) -> None:
        self._fault = fault
        self._faults.fault(fault)

    def _on_message(self, topic: str, payload: bytes) -> None:
        if topic == f"{self._base}/replay/request":
            self._replay.on_request(payload)
        elif topic == f"{self._base}/ack":
            from agent.uplink.wire import parse_acks

            try:
                acks = parse_acks(payload, self._gateway)
            except ValueError as error:
                self._log_rejected_ack(str(error))
                return
            if self._acks_left.acquire(blocking=False):
                self._outbox.acknowledge(self.name, acks, partial(self._on_ack_checked, self._acks_left))
            else:
                self._log_rejected_ack("too many acks at once; unconfirmed packs are sent again after a minute")

    def _on_ack_checked(self, left: threading.Semaphore, valid: int, rejected: str | None) -> None:
        """Handle the result of an ack message. This is called in the database thread after it has checked the acks.

        ``valid``: number of valid acks. ``rejected``: why the first invalid ack was rejected; None if all are valid.
        """
        left.release()
        if valid:
            self._scheduler.on_platform_ack()
        if rejected is not None:
            self._log_rejected_ack(rejected)

    def _log_rejected_ack(self, reason: str) -> None:
        self._rejected_log.log(log.warning, "%s: ack rejected: %s", self.name, clean_text(reason, 160))

    def _status(self, state: str) -> bytes:
        if state != "online":
            return status_bytes(self._gateway, state, self._version)
        newest, since = self._newest_ms / 1000 or None, round(self._since, 3)
        return status_bytes(self._gateway, state, self._version, accepts=["acks"], newest=newest, since=since)
