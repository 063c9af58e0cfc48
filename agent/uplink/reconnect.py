"""When to reconnect, when to give up a connection without answers, and how often to log a fault."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from agent.uplink.messages import OutgoingMessage
from drivers.backoff import Backoff
from drivers.model import BrokerError

log = logging.getLogger("meterhouse.uplink")
RETRY_MOST_S: Final = 60.0
SHORT_MOST_S, SHORT_FOR_S = 10.0, 600.0  # after a short outage the agent is back within 10 s
TAKEN_OVER_S, TAKEN_OVER_MOST_S = 60.0, 900.0  # another client uses our id: do not take the session back at once
STABLE_S: Final = 30.0  # a connection of this length was a good one
JITTER: Final = 0.5  # so that gateways do not reconnect in step
CLEAR_S: Final = 10.0  # without a fault, before all are considered cleared
MOST_KINDS: Final = 20
LOG_AGAIN_S: Final = 3600.0  # a fault that lasts is logged again


class ReconnectBackoff:
    """Delays between attempts to connect.

    At most 10 s in the first ten minutes in which the broker cannot be reached, or in which connections break after
    packs were accepted (an unstable modem); up to a minute otherwise. A longer backoff of its own applies after
    another client took over the session.
    """

    def __init__(self, first_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._backoff = Backoff(first_s, RETRY_MOST_S, JITTER)
        self._taken_over = Backoff(TAKEN_OVER_S, TAKEN_OVER_MOST_S, JITTER)
        self._healthy_s = monotonic()  # the last time that the connection worked

    def next(self, *, lived_s: float, answered: bool, taken_over: bool, served: bool = False) -> float:
        """Seconds to wait before the next attempt.

        Args:
            lived_s: duration of the last attempt and its connection.
            answered: it got a CONNACK.
            taken_over: another client with our id ended it.
            served: the broker accepted packs in it.
        """
        now = self._monotonic()
        if served:
            self._healthy_s = now
        if lived_s > STABLE_S and answered:
            self._backoff.reset()
            self._healthy_s = now
        if lived_s > TAKEN_OVER_MOST_S and answered:
            self._taken_over.reset()
        if taken_over:
            return self._taken_over.next_s()
        short = (served or not answered) and now - self._healthy_s < SHORT_FOR_S
        return self._backoff.next_s(SHORT_MOST_S if short else RETRY_MOST_S)


class AckWatchdog:
    """How long the broker has not acknowledged the oldest message although it has received all of it.

    A slow link may need minutes to deliver a message. While bytes still arrive there, the broker is not at fault.
    """

    def __init__(self) -> None:
        self._received, self._progress_s = 0, 0.0  # bytes that the broker has received, and when that last grew
        self._complete: OutgoingMessage | None = None  # a message that the broker has received entirely
        self._complete_s = 0.0

    def overdue_s(self, oldest: OutgoingMessage | None, now: float, received: int) -> float:
        """Seconds without progress.

        Args:
            oldest: the oldest message without a PUBACK; None: there is none.
            received: bytes of this connection that the broker's TCP has acknowledged; 0 where that is not known.
        """
        if received > self._received:
            self._received, self._progress_s = received, now
        if oldest is None:
            return 0.0
        if received < oldest.end_offset:
            return now - max(oldest.sent_s, self._progress_s)
        if self._complete is not oldest:
            slow = received and now - oldest.sent_s > 1.0  # the link delayed it
            self._complete, self._complete_s = oldest, now if slow else oldest.sent_s
        return now - self._complete_s


class FaultLog:
    """Logs each fault of a destination once, the connection once, and once that all faults are cleared.

    Faults that come and go are one episode. It ends after ``CLEAR_S`` without any.
    """

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name, self._monotonic = name, monotonic
        self._logged: dict[str, float] = {}  # fault -> time
        self._count = 0
        self._last_s = self._began_s = monotonic()
        self._connected = False

    def fault(self, error: BrokerError) -> None:
        """A fault occurred."""
        now = self._last_s = self._monotonic()
        if not self._logged:
            self._began_s, self._connected = now, False
        self._count += 1
        logged_s = self._logged.get(error.what)
        skip = len(self._logged) >= MOST_KINDS if logged_s is None else now - logged_s < LOG_AGAIN_S
        if skip:
            return
        self._logged[error.what] = now
        more = "" if logged_s is None else f" (still occurring, {self._count} faults so far)"
        log.warning("%s: %s%s", self._name, error, more)

    def connected(self, text: str) -> None:
        """A connection was made."""
        if not self._connected:
            self._connected = True
            log.info("%s: %s", self._name, text)

    def cleared(self) -> None:
        """There is no fault now."""
        now = self._monotonic()
        if self._logged and now - self._last_s >= CLEAR_S:
            count = f", {self._count} faults" if self._count > len(self._logged) else ""
            faults = "; ".join(sorted(self._logged))
            log.info("%s: recovered after %.0f s (%s%s)", self._name, self._last_s - self._began_s, faults, count)
            self._logged.clear()
            self._count = 0
