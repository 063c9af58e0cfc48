"""How an uplink bears with its broker: when to try again, when to give up on silence, how often to speak of it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final

from agent.uplink.parcel import Parcel
from drivers.model import BrokerError

log = logging.getLogger("meterhouse.uplink")
RETRY_MAX_S: Final = 60.0
SOON_MAX_S, SOON_FOR_S = 10.0, 600.0  # a broker that was away for a minute must not wait for us for another
CLONE_S, CLONE_MAX_S = 60.0, 900.0  # after another client with our id threw us out: no war
STEADY_S: Final = 30.0  # a connection that lived so long was a good one
SAY_EVERY_S: Final = 60.0
QUIET_S: Final = 10.0  # so long without trouble before it counts as over
MOST_KINDS: Final = 20
SAY_AGAIN_S: Final = 3600.0  # what lasts is said again


class Pauses:
    """The pauses between attempts to connect: longer each time, and never in step with other gateways.

    Where nobody can be reached, trying costs nobody anything: at most 10 s between attempts in the first ten minutes;
    so it is where connections break that do their work as long as they last, as those of a shaky modem.
    A broker that answers and then refuses or hangs up is given up to a minute, another client with our name still more.
    """

    def __init__(self, retry_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._first_s, self._monotonic = retry_s, monotonic
        self._delay_s, self._clone_s = retry_s, CLONE_S
        self._well_s = monotonic()  # when all was well last

    def next(self, *, lived_s: float, answered: bool, taken_over: bool, served: bool = False) -> float:
        """Seconds to wait now.

        Args:
            lived_s: how long the last attempt lasted, or the connection that it led to.
            answered: the broker spoke MQTT to us in it.
            taken_over: and said that another client has our name.
            served: and packs were confirmed in it.
        """
        now = self._monotonic()
        if served:
            self._well_s = now
        if lived_s > STEADY_S and answered:
            self._delay_s, self._well_s = self._first_s, now
        if lived_s > CLONE_MAX_S and answered:
            self._clone_s = CLONE_S
        if taken_over:
            delay, self._clone_s = self._clone_s, min(self._clone_s * 2, CLONE_MAX_S)
        else:
            soon = (served or not answered) and now - self._well_s < SOON_FOR_S
            delay = min(self._delay_s, SOON_MAX_S) if soon else self._delay_s
            self._delay_s = min(self._delay_s * 2, RETRY_MAX_S)
        return delay * random.uniform(0.5, 1.0)


class Stall:
    """Tells silence from slowness: how long a broker has owed the oldest PUBACK since it could give it.

    A thin link may need minutes for what a broker acknowledges at once: while bytes get through, nobody is silent.
    """

    def __init__(self) -> None:
        self._moved, self._moved_s = 0, 0.0  # bytes that reached the other side, and when that last grew
        self._there: Parcel | None = None  # a parcel that is entirely there
        self._there_s = 0.0

    def age_s(self, parcel: Parcel | None, now: float, arrived: int) -> float:
        """Seconds of silence.

        Args:
            parcel: the oldest without a PUBACK; None: nothing is owed.
            arrived: bytes of this connection that the other side has, by its TCP; 0 where that is not known.
        """
        if arrived > self._moved:
            self._moved, self._moved_s = arrived, now
        if parcel is None:
            return 0.0
        if arrived < parcel.goal:
            return now - max(parcel.sent_s, self._moved_s)
        if self._there is not parcel:
            late = arrived and now - parcel.sent_s > 1.0  # it took its time on the way
            self._there, self._there_s = parcel, now if late else parcel.sent_s
        return now - self._there_s


class Seldom:
    """One line a minute, however often there is something to say; the next line tells how many there were."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._said_s = -SAY_EVERY_S
        self._unsaid = 0

    def say(self, log: Callable[..., None], text: str, *args: object) -> None:
        """Call ``log`` now, or only count."""
        self._unsaid += 1
        now = self._monotonic()
        if now - self._said_s >= SAY_EVERY_S:
            more = f" ({self._unsaid} since the last such line)" if self._unsaid > 1 else ""
            log(f"{text}%s", *args, more)
            self._said_s, self._unsaid = now, 0


class Edges:
    """What the log hears of one destination: each trouble once, the connection once, the end of all of it once.

    Troubles that come and go are one episode, which ends after ``QUIET_S`` without any.
    """

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name, self._monotonic = name, monotonic
        self._said: dict[str, float] = {}  # -> when
        self._again = 0
        self._last_s = self._began_s = monotonic()
        self._up = False

    def trouble(self, error: BrokerError) -> None:
        """Something went wrong."""
        self._last_s = self._monotonic()
        if not self._said:
            self._began_s, self._up = self._last_s, False
        known = error.what in self._said
        if (known and self._last_s - self._said[error.what] < SAY_AGAIN_S) or (
            not known and len(self._said) >= MOST_KINDS
        ):
            self._again += 1
            return
        self._said[error.what] = self._last_s
        log.warning("%s: %s%s", self._name, error, f" (and {self._again} times before)" if known else "")

    def connected(self, text: str) -> None:
        """A connection stands."""
        if not self._up:
            self._up = True
            log.info("%s: %s", self._name, text)

    def well(self) -> None:
        """Nothing is wrong at the moment."""
        now = self._monotonic()
        if self._said and now - self._last_s >= QUIET_S:
            times = f", {self._again + len(self._said)} times" if self._again else ""
            log.info(
                "%s: over: %s (for %.0f s%s)",
                self._name,
                "; ".join(sorted(self._said)),
                self._last_s - self._began_s,
                times,
            )
            self._said.clear()
            self._again = 0
