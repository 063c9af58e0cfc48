"""The uplink: one thread a destination that connects, sends, listens to answers, and never gives up."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from agent.outbox import Outbox, OutboxItem
from agent.uplink import errors as words
from agent.uplink.ack import parse_ack
from agent.uplink.bell import Bell
from agent.uplink.messages import Destination, UplinkState
from agent.uplink.mqtt import CONNECT_S, V5, V311, Session
from agent.uplink.parcel import OTHER, Parcel
from agent.uplink.reconnect import Edges, Pauses, Seldom, Stall
from agent.uplink.replay import BUDGET_BYTES, Replay
from agent.uplink.scheduler import FRESH_BYTES, Traffic
from drivers.model import BrokerError, GatewayError, clean_text

log = logging.getLogger("meterhouse.uplink")
PREFIX: Final = "meterhouse/v1"
RETRY_S: Final = 1.0
MAX_ACKS: Final = 256  # of a platform, that the store has not looked at yet
BACKFILL_RATE: Final = 200.0  # packs a second, if nothing else is configured
BACKFILL_TIMES: Final = 25.0  # and at least so many times what comes fresh
TRY_V5_AGAIN_S: Final = 3600.0
STATUS_S: Final = 300.0
CONFIRM_S, CONFIRM_COUNT = 0.2, 100  # how long confirmed ids are gathered before the store hears of them
GOODBYE_S: Final = 1.0
WARN_DAYS: Final = 30


def backlog_rate(configured: int, live_rate: float) -> float:
    """Packs of backlog a second: what is configured, or so many that the backlog ends while ``live_rate`` are made."""
    return configured or max(BACKFILL_RATE, BACKFILL_TIMES * live_rate)


class Uplink:
    """Delivers to one destination from ``start`` to ``stop``. Never raises into the caller's thread once it runs.

    Args:
        site, gateway: as in topics.
        outbox: the store, through whoever owns its thread.
        keys: the ``keys`` object, published at each connection.
        pack_every_ms: the pack interval; a pack older than three of them is backlog.
        live_rate: packs a second that will be offered, about.
        on_event: called from the uplink's thread with an event for the gateway's stream.
        environ: where systemd says which credentials there are.
    """

    def __init__(
        self,
        destination: Destination,
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
        fresh_bytes: int = FRESH_BYTES,
        replay_bytes: int = BUDGET_BYTES,
    ) -> None:
        self.name = destination.name
        self._to, self._outbox, self._environ = destination, outbox, environ
        self._gateway, self._base = f"{site}/{gateway}", f"{PREFIX}/{site}/{gateway}"
        self._version = version
        self._client_id = destination.client_id or f"meterhouse-{site}-{gateway}-{destination.name}"
        self._on_event = on_event
        self._pauses, self._edges, self._wrong_acks = Pauses(retry_s), Edges(self.name), Seldom()
        self._connect_s = connect_s
        self._ack_timeout_s = ack_timeout_s or max(20.0, float(destination.keepalive_s))
        self._bell = Bell()
        self._traffic = Traffic(
            destination.name,
            outbox,
            self._base,
            destination.in_flight,
            backlog_rate(destination.backfill_rate, live_rate),
            pack_every_ms / 1000,
            fresh_bytes,
            wake=self._bell.ring,
            pause_s=retry_s,
        )
        self._retained: dict[str, bytes] = {"keys": keys}  # by topic, keys first; written by other threads
        self._news: deque[str] = deque()  # topics in it that are to be published
        self._replay = Replay(
            destination.name,
            outbox,
            self._gateway,
            lambda data: self._traffic.publish(f"{self._base}/replay/reply", data, retain=False),
            self._bell.ring,
            budget_bytes=replay_bytes,
            in_flight=destination.in_flight,
        )
        self._traffic.replayed = self._replay.next
        self._thread = threading.Thread(target=self._run, name=f"uplink {self.name}", daemon=True)
        self._begin = threading.Event()
        self._stop_at: float | None = None
        self._protocol = V5
        self._v311_since = 0.0
        self._answered = False  # the broker spoke MQTT to us in the last attempt
        self._confirmed_before = 0  # packs, when it began
        self._taken_over = 0  # so often another client had our name
        self._connected = False
        self._connects = 0
        self._since = time.time()
        self._since_mono = time.monotonic()
        self._trouble: BrokerError | None = None
        self._newest_ms = 0
        self._delivered_s = 0.0  # when the oldest unreported confirmation came

    # --- from other threads

    @property
    def destination(self) -> Destination:
        """Where it delivers."""
        return self._to

    def prepare(self) -> None:
        """Take all that it needs to run, which may not be there; ``start`` cannot fail then.

        Raises RuntimeError where there can be no more threads.
        """
        if self._thread.ident is None:
            self._thread.start()

    def start(self) -> None:
        """Begin to connect; returns at once, whatever the broker does."""
        self.prepare()
        self._begin.set()

    def offer(self, items: Sequence[OutboxItem]) -> None:
        """Packs that were just committed, in the order of their ids. For the writer thread; never blocks."""
        if items:
            self._newest_ms = max(self._newest_ms, items[-1].to_ms)
            self._traffic.mailbox.offer(items)

    def retain(self, topic: str, data: bytes) -> None:
        """Publish retained below our base topic now, and again at each connection. For any thread; never blocks."""
        self._retained[topic] = data
        if self._connected:  # the next connection publishes all of them anyway
            self._news.append(topic)
        self._bell.ring()

    def stop(self, deadline_s: float) -> None:
        """Send what is fresh, say goodbye, end the thread; after ``deadline_s`` in any case."""
        self._stop_at = time.monotonic() + deadline_s
        self._begin.set()
        self._bell.ring()
        if self._thread.ident is not None:
            self._thread.join(deadline_s + 0.5)
            if self._thread.is_alive():
                log.warning("%s: still waiting for the network; left behind", self.name)
                return
        self._bell.close()

    def state(self) -> UplinkState:
        """How it stands at the moment."""
        traffic, trouble, connected = self._traffic, self._trouble, self._connected
        return UplinkState(
            connected=connected,
            since=self._since,
            waiting=traffic.waiting,
            in_flight=traffic.in_flight,
            confirmed=traffic.confirmed,
            refused=traffic.refused,
            connects=self._connects,
            sent_bytes=traffic.sent_bytes,
            backfilling=connected and traffic.backfilling,
            silent_topics=len(traffic.holds),
            set_aside=len(traffic.aside),
            error=trouble.what if trouble else None,
            hint=trouble.hint if trouble else None,
            mqtt=("5" if self._protocol == V5 else "3.1.1") if connected else None,
            confirm=traffic.mode if connected else None,
        )

    # --- the thread

    def _run(self) -> None:
        self._begin.wait()
        while not self._stopping:
            began = time.monotonic()
            try:
                self._live()
            except BrokerError as error:
                self._down(error)
            except GatewayError as error:  # a password file that cannot be read, and the like
                self._down(BrokerError(error.what, where=error.where, hint=error.hint))
            except Exception as error:
                log.exception("%s: a fault of ours", self.name)
                self._down(BrokerError(f"internal error: {clean_text(repr(error))}", where=self._to.url))
            self._pause(time.monotonic() - began)

    @property
    def _stopping(self) -> bool:
        return self._stop_at is not None

    def _pause(self, lived_s: float) -> None:
        """Wait before the next attempt."""
        taken_over = self._trouble is not None and self._trouble.what == words.disconnected(words.TAKEN_OVER, "").what
        if taken_over:
            self._taken_over += 1
            with contextlib.suppress(RuntimeError):  # the service is gone: a second signal ended it at once
                self._on_event({"event": "taken_over", "times": self._taken_over, "uplink": self.name})
        served = self._traffic.confirmed > self._confirmed_before
        delay = self._pauses.next(lived_s=lived_s, answered=self._answered, taken_over=taken_over, served=served)
        until = time.monotonic() + delay
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._bell.wait(left)

    def _live(self) -> None:
        """One connection. Raises BrokerError when it ends, unless we end it."""
        if self._protocol == V311 and time.monotonic() - self._v311_since > TRY_V5_AGAIN_S:
            self._protocol = V5
        session, self._answered, self._confirmed_before = self._session(), False, self._traffic.confirmed
        try:
            session.connect(lambda: self._stopping)
        except BrokerError as error:
            self._answered = session.connack is not None
            if self._protocol == V5 and session.connack == words.UNSUPPORTED_VERSION:
                log.info("%s: the broker does not speak MQTT 5, going on with 3.1.1", self.name)
                self._protocol, self._v311_since = V311, time.monotonic()
                session = self._session()
                session.connect(lambda: self._stopping)
            else:
                raise error
        self._answered = True
        try:
            self._up(session)
            self._serve(session)
        finally:
            session.drop()
            self._connected = False
            self._traffic.end(session.by_broker and not session.disobeyed)
            self._replay.end(session.by_broker)
            self._report()

    def _session(self) -> Session:
        return Session(
            self._to,
            self._client_id,
            self._protocol,
            Parcel(f"{self._base}/status", self._status("offline"), OTHER, True),
            self._bell.fd,
            self._bell.heard,
            self._environ,
            self._connect_s,
        )

    def _up(self, session: Session) -> None:
        mode = self._to.confirm or "subscriber"
        if session.protocol == V311 and mode == "subscriber":
            mode = "broker"  # 3.1.1 does not tell whether anybody listens
        down_s = time.monotonic() - self._since_mono
        self._connects += 1
        self._connected, self._since, self._since_mono = True, time.time(), time.monotonic()
        version = "5" if session.protocol == V5 else "3.1.1"
        again = f" after {down_s:.0f} s" if self._trouble else ""
        self._edges.connected(f"connected to {self._to.url}, MQTT {version}, delivered means {mode}{again}")
        self._trouble, self._stall, self._acks_left = None, Stall(), threading.Semaphore(MAX_ACKS)
        for what, end in session.expiries().items():
            if (days := (end - time.time()) / 86_400) < WARN_DAYS:
                log.warning("%s: %s ends in %.0f days; renew it, no restart is needed", self.name, what, days)
        self._traffic.begin(mode, session.receive_maximum, session.max_packet)
        if mode == "platform":
            session.subscribe(f"{self._base}/ack")
        if self._replay.begin():
            session.subscribe(f"{self._base}/replay/request")
        self._announce()

    def _announce(self) -> None:
        """All that is retained on the broker, but the births, which the traffic has."""
        self._traffic.publish(f"{self._base}/status", self._status("online"))
        self._news.clear()
        self._news.extend(self._retained)
        self._status_s = time.monotonic()

    def _serve(self, session: Session) -> None:
        traffic = self._traffic
        while True:
            now = time.monotonic()
            self._publish_news()
            if self._stop_at is not None:
                traffic.draining = True
                if traffic.idle or now >= self._stop_at - GOODBYE_S:
                    self._goodbye(session)
                    return
            traffic.collect()
            while (parcel := traffic.next()) is not None:
                self._outbox.leaving()
                if not (packet := session.publish(parcel)):
                    break
                traffic.sent(packet, parcel)
                parcel.goal = session.handed()
            if not session.alive:
                raise words.disconnected(session.reason, self._to.url)
            enough = len(traffic.delivered) >= CONFIRM_COUNT or now - self._delivered_s >= CONFIRM_S
            if traffic.delivered and (enough or not traffic.in_flight):
                self._report()
            if self._stall.age_s(traffic.oldest, now, session.arrived()) > self._ack_timeout_s:
                raise BrokerError(
                    f"the broker took packs but acknowledged nothing for {self._ack_timeout_s:.0f} s",
                    where=self._to.url,
                    hint="Does something between us and the broker swallow packets?",
                )
            if now - self._status_s >= STATUS_S:
                self._status_s = now
                traffic.publish(f"{self._base}/status", self._status("online"))
            if traffic.allowed_again():
                self._announce()
            if (large := traffic.too_large) is not None:
                traffic.too_large = None
                self._refused(words.TOO_LARGE, large)
            if not traffic.troubled:
                self._trouble = None
                self._edges.well()
            wait = 0.0 if traffic.mailbox else min(traffic.wait_s(), self._ack_timeout_s / 4)
            wait = min(wait, self._replay.wait_s)
            self._turn(session, min(wait, CONFIRM_S) if traffic.delivered else wait)

    def _publish_news(self) -> None:
        while self._news:
            topic = self._news.popleft()
            data = self._retained[topic]
            if len(data) + len(self._base) + 100 <= self._traffic.max_packet:
                self._traffic.publish(f"{self._base}/{topic}", data)

    def _turn(self, session: Session, wait_s: float) -> None:
        session.turn(wait_s)
        for packet, code in session.acks:
            self._acked(packet, code)
        for topic, payload in session.messages:
            self._heard(topic, payload)
        for topic in session.stale:
            what = "%s: a retained message on %s is left alone: acks and requests count once; let its operator clear it"
            self._wrong_acks.say(log.warning, what, self.name, clean_text(topic, 200))
        session.acks.clear()
        session.messages.clear()
        session.stale.clear()

    def _goodbye(self, session: Session) -> None:
        """Offline by our own word, so that the will stays in the drawer."""
        until = time.monotonic() + GOODBYE_S
        parcel = Parcel(f"{self._base}/status", self._status("offline"), OTHER, True)
        if packet := session.publish(parcel):
            self._traffic.sent(packet, parcel)
        while self._traffic.in_flight and session.alive and (left := until - time.monotonic()) > 0:
            self._turn(session, left)
        session.close()
        log.info("%s: disconnected", self.name)

    def _report(self) -> None:
        """Tell the store what was delivered."""
        if ids := self._traffic.delivered:
            self._outbox.confirm(self.name, ids)
            self._traffic.delivered = []

    def _down(self, error: BrokerError) -> None:
        """A connection ended or did not come about: said once, until the reason changes."""
        if self._stopping:  # we gave up ourselves
            return
        if self._connected or self._trouble is None:
            self._since, self._since_mono = time.time(), time.monotonic()
        self._edges.trouble(error)
        self._connected, self._trouble = False, error

    # --- what comes back

    def _acked(self, packet: int, code: int) -> None:
        if not self._traffic.delivered:
            self._delivered_s = time.monotonic()
        parcel = self._traffic.answered(packet, code)
        if parcel is not None:
            self._refused(code, parcel.topic)

    def _refused(self, code: int, topic: str) -> None:
        self._trouble = words.unanswered(code, topic, self._to.url)
        self._edges.trouble(self._trouble)

    def _heard(self, topic: str, payload: bytes) -> None:
        if topic == f"{self._base}/replay/request":
            self._replay.ask(payload)
            return
        if topic != f"{self._base}/ack":
            return
        ack = parse_ack(payload, self._gateway)
        if isinstance(ack, str):
            self._wrong_ack(ack)
        elif self._acks_left.acquire(blocking=False):
            self._outbox.acknowledge(self.name, ack, partial(self._looked_at, self._acks_left))
        else:
            self._wrong_ack("too many at once; what they confirm is sent again in a minute")

    def _looked_at(self, left: threading.Semaphore, wrong: str | None) -> None:
        """From the store's thread: None for an ack that is ours."""
        left.release()
        if wrong is None:
            self._traffic.acknowledged()
        else:
            self._wrong_ack(wrong)

    def _wrong_ack(self, what: str) -> None:
        self._wrong_acks.say(log.warning, "%s: an ack that is not ours: %s", self.name, clean_text(what, 160))

    def _status(self, state: str) -> bytes:
        facts: dict[str, object] = {"gateway": self._gateway, "state": state, "v": 1, "version": self._version}
        if state == "online":
            facts["newest"] = self._newest_ms / 1000 or None
            facts["since"] = round(self._since, 3)
        return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
