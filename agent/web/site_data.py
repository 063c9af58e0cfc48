"""Gets days, figures, births and packs from the running agent for the page.

Answers are kept, so that more viewers do not cause more queries. A closed day, month or year is queried once. If the
agent reports that a day was corrected, the answers that depend on this day are queried again. The current day is
queried at most once a minute, an open month or year at most once in 15 minutes. If nothing has changed, the agent
answers in a few milliseconds. Live values are not queried; they come from ring and snapshot.

If the agent hangs, one query waits a few seconds. Until the agent answers again, all other queries return the kept
answer or raise the error at once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from agent.cli.answers import Count, Time, checked, loaded
from agent.cli.common import NoAgent
from agent.cli.control import AnswerBuffer, NoAnswer, ask_running
from agent.cli.report.answer import check_page
from agent.service.control.protocol import Birth, Day, Days, Pack, PeriodReport, Request
from drivers.model import GatewayError, UsageError

PeriodName = Literal["day", "month", "year", "rolling"]
Ask = Callable[..., dict[str, Any]]

OPEN_S: Final = 60.0  # an answer about today is used until this age
# an answer about an open month or year is used until this age, because the agent writes intervals this often
LONG_S: Final = 900.0
ERROR_S: Final = 5.0  # for this long after an error, the same query raises it again without asking the agent
PATIENCE_S: Final = 5.0  # longest wait without a sign of life from the agent; a working agent sends one every second
MOST_BYTES: Final = 16 << 20  # limit of the bytes of all kept answers together
LARGEST_BYTES: Final = 1 << 20  # a larger answer is not kept
AT_ONCE: Final = 2  # number of concurrent queries; the agent accepts only four connections per user

Share = Annotated[float, Meta(ge=0, le=1)]
# reason -> (ms in which at least one point is missing, ms in which the whole device is missing)
Missing = dict[str, tuple[Count, Count]]
Words = Annotated[list[str], Meta(max_length=32)]


class Validity(TypedDict):
    """Members that say how long an answer is valid. ``unchanged``: True if the client's copy is still valid."""

    closed: bool
    stamp: Annotated[str, Meta(max_length=64)]
    epoch: Annotated[str, Meta(max_length=64)]
    change: Count
    changed: Annotated[list[str], Meta(max_length=400)] | None
    unchanged: NotRequired[bool]
    asked_s: NotRequired[float]  # time of the query by the clock of ``SiteData``, which adds this member


class DayList(Validity):
    """The days that have intervals, as ISO dates."""

    first: str | None
    last: str | None
    days: list[str]
    today: str
    timezone: str


class RoleSeries(TypedDict):
    """A role's amounts. ``rows`` has [from, amount, mean, known, estimated, flags] for each interval.

    ``gaps`` has [from, device with the most missing data, number of devices with missing data, gaps of that device] for
    each interval. Each of these gaps is [reason, ms, whole_ms], as in ``Missing``.
    """

    role: str
    flow: str
    u: str
    mean_u: str
    total: float | None
    known: Share
    rows: list[tuple[Time, float | None, float | None, Share, Share, Words]]
    gaps: list[tuple[Time, str, Count, list[tuple[str, Count, Count]]]]


class Total(TypedDict):
    """A point's total of the day."""

    n: str
    role: str
    flow: str
    u: str
    total: float | None
    known: Share


class PointSeries(Total):
    """A point's series.

    ``rows`` has [from, to, amount, mean, low, high, known, flags, first pack, last pack] for each interval. The packs
    are given by their sequences.
    """

    kind: Literal["counter", "gauge"]
    part: str
    mean_u: str
    rows: list[
        tuple[
            Time, Time, float | None, float | None, float | None, float | None, Share, Words, Count | None, Count | None
        ]
    ]


class DeviceDay(TypedDict):
    """A device's day.

    ``gaps`` has items [from, reason, ms, whole_ms] by interval; ``Missing`` explains ms and whole_ms.
    """

    device: str
    label: str
    profile: str
    configured: bool
    gaps_from: Time | None
    missing: Missing
    energy: list[Total]
    points: NotRequired[list[PointSeries]]
    left_out: NotRequired[list[str]]
    gaps: NotRequired[list[tuple[Time, str, Count, Count]]]


_Ends = TypedDict("_Ends", {"from": Time, "to": Time})


class SiteDay(Validity, _Ends):
    """A day of the site, or of one device.

    ``gaps`` has [from, reason, number of devices, ms, whole_ms] of all devices.
    """

    day: str
    timezone: str
    length: Annotated[int, Meta(ge=1, le=86_400)]
    until: Time
    starts: list[Time]
    site: list[RoleSeries]
    gaps: list[tuple[Time, str, Count, Count, Count]]
    devices: list[DeviceDay]


class SignedPack(TypedDict):
    """A pack as it was signed, and its hash."""

    hash: str
    pack: dict[str, Any]
    asked_s: NotRequired[float]  # as in ``Validity``


@dataclass(slots=True)
class _Kept:
    """A kept answer: its JSON, the time of the query, and the first and last day on which it depends.

    ``stale``: True if the agent must be queried again. The stale answer is shown only if that query gets no answer.
    """

    data: bytes
    asked_s: float
    closed: bool
    stamp: str
    first: str  # an ISO date, like ``last``
    last: str
    stale: bool = False


def ask_agent(runtime_dir: Path, request: Request, take: Callable[[bytes], object]) -> dict[str, Any]:
    """Return the answer of the running agent. Raises NoAnswer after PATIENCE_S if the agent hangs."""
    return ask_running(runtime_dir, request, take, pick_up_s=PATIENCE_S, silence_s=PATIENCE_S)


@dataclass(slots=True)
class _Failed:
    """An error, and the time until which it is raised again without a new query."""

    error: GatewayError
    until_s: float


Key = tuple[str, ...]
SIGNED: Final = ("birth", "pack")  # queries whose answers do not depend on days


class SiteData:
    """Answers of the agent of a runtime directory. Every method blocks and may be called from any thread.

    The methods raise NoAgent if no agent runs, GatewayError if it does not answer, and UsageError for an unknown day or
    device. Earlier answers stay available while no agent runs or answers. At most two queries go to the agent at a
    time. Equal queries at the same time are not merged, so a caller with many viewers should send each query only once,
    as ``agent.web.routes.Page`` does.

    Args:
        ask: sends a query to the agent; a test can replace it.
        clock: monotonic seconds.
    """

    def __init__(self, runtime_dir: Path, ask: Ask = ask_agent, clock: Callable[[], float] = time.monotonic) -> None:
        self._runtime_dir, self._ask, self._clock = runtime_dir, ask, clock
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._failed: dict[Key, _Failed] = {}
        self._silent: _Failed | None = None  # the error while the agent does not answer; None while it answers
        self._trying = False  # True while one query finds out whether the agent answers again
        self._size = 0
        self._epoch, self._today = "", ""
        self._change: int | None = None
        # protects all attributes above; it is not held while a query waits for its answer
        self._lock = threading.Lock()
        self._gate = threading.BoundedSemaphore(AT_ONCE)

    @property
    def silence(self) -> GatewayError | None:
        """The error of the last query if the agent runs but did not answer it; None otherwise."""
        with self._lock:
            return self._silent.error if self._silent is not None else None

    def days(self) -> DayList:
        """Return the days that have intervals, and today."""
        found: DayList = self._answer(("days",), lambda known: Days(now_ms=_now_ms(), **known), OPEN_S)
        return found

    def day(self, day: date | None = None, device: str = "") -> SiteDay:
        """Return a day of the site with the totals of all devices, or a day of one device with its points and gaps.

        Args:
            day: the day to return; None means today.
            device: name of the device; "" means the site.
        """
        text = self._text(day)
        streams = [device] if device else []

        def request(known: Mapping[str, Any]) -> Request:
            return Day(now_ms=_now_ms(), day=text, streams=streams, **known)

        found: SiteDay = self._answer(("day", text, device), request, OPEN_S)
        return found

    def report(self, period: PeriodName, day: date | None = None) -> dict[str, Any]:
        """Return the figures of the period that contains ``day``, as ``meterhouse report --json`` prints them.

        ``day`` None means today.
        """
        text = self._text(day)

        def request(known: Mapping[str, Any]) -> Request:
            return PeriodReport(now_ms=_now_ms(), period=period, day=text, **known)

        found: dict[str, Any] = self._answer(("report", text, period), request, OPEN_S if period == "day" else LONG_S)
        return found

    def birth(self, device: str, seq: int = 0) -> SignedPack:
        """Return a signed birth of a device, with profile, registers and identity.

        Args:
            seq: sequence of a pack, for which the birth in effect is returned; 0 means the newest birth.
        """
        key = ("birth", device, str(seq))
        found: SignedPack = self._answer(key, lambda known: Birth(stream=device, seq=seq), OPEN_S)
        return found

    def pack(self, stream: str, seq: int) -> SignedPack:
        """Return a pack of a device, or of a stream of the gateway itself such as ``_indicators``."""
        key = ("pack", stream, str(seq))
        found: SignedPack = self._answer(key, lambda known: Pack(stream=stream, seq=seq), OPEN_S)
        return found

    def _text(self, day: date | None) -> str:
        """Return the day as an ISO date.

        Returns "" for today, so that queries with and without today's date are the same.
        """
        if day is None:
            return ""
        self._refresh()
        with self._lock:
            return "" if str(day) == self._today else str(day)

    def _refresh(self) -> None:
        """Ask the agent, at most once a minute, which days were corrected. Errors are ignored here."""
        try:
            self.days()
        except GatewayError:
            return

    def age_s(self, answer: Mapping[str, Any]) -> float:
        """Return the seconds since the agent gave an answer, or confirmed that it is unchanged."""
        return max(0.0, self._clock() - float(answer["asked_s"]))

    # --- queries to the agent

    def _answer(self, key: Key, request: Callable[[Mapping[str, Any]], Request], open_s: float) -> Any:
        kept = self._usable(key, open_s)
        if kept is None:
            with self._gate:  # another thread may have got the answer while this thread waited, so look again
                kept = self._usable(key, open_s) or self._while_silent(key) or self._fetch(key, request)
        return {**msgspec.json.decode(kept.data), "asked_s": kept.asked_s}

    def _usable(self, key: Key, open_s: float) -> _Kept | None:
        """Return the kept answer if it is still valid. None: the agent must be queried.

        If the same query failed less than ``ERROR_S`` ago, returns an outdated answer, or raises the error if there is
        none.
        """
        now = self._clock()
        with self._lock:
            kept = self._kept.get(key)
            # while the agent does not answer, a kept list of days is never valid, so the agent is queried again
            open_s = 0.0 if self._silent is not None and key[0] == "days" else open_s
            if kept is not None and not kept.stale and (kept.closed or now - kept.asked_s < open_s):
                self._kept.move_to_end(key)
                return kept
            failed = self._failed.pop(key, None)
            if failed is None or now >= failed.until_s:
                return None
            self._failed[key] = failed
            if (seen := self._seen(key)) is not None and not isinstance(failed.error, UsageError):
                return seen
            raise failed.error

    def _seen(self, key: Key) -> _Kept | None:
        """Return the kept answer of any age.

        For a past day, also look for an answer that was kept while that day was today.
        """
        kept = self._kept.get(key)
        if kept is None and key[0] not in SIGNED and key[1:]:
            today = self._kept.get((key[0], "", key[2]))
            kept = today if today is not None and today.first <= key[1] <= today.last else None
        return kept

    def _while_silent(self, key: Key) -> _Kept | None:
        """While the agent does not answer, return the kept answer of any age. None: the agent must be queried.

        After ``ERROR_S``, None is returned to one caller at a time, whose query finds out whether the agent answers
        again. Raises the last error if there is no kept answer.
        """
        with self._lock:
            if self._silent is None:
                return None
            if not self._trying and self._clock() >= self._silent.until_s:
                self._trying = True
                return None
            kept = self._seen(key)
            if kept is None:
                raise self._silent.error
            return kept

    def _fetch(self, key: Key, request: Callable[[Mapping[str, Any]], Request]) -> _Kept:
        while True:
            with self._lock:
                kept = self._kept.get(key)
                stamp = "" if kept is None or kept.stale else kept.stamp
                known = {"unless": stamp, "after_change": self._change}
            found = self._ask_once(key, request, kept, known)
            if found is not None:
                return found

    def _ask_once(
        self, key: Key, request: Callable[[Mapping[str, Any]], Request], kept: _Kept | None, known: Mapping[str, Any]
    ) -> _Kept | None:
        """Send one query. Keep and return its answer.

        Returns None if the query must be repeated. This happens if the agent confirms that ``kept`` is unchanged, but
        another answer has made it stale during the query.
        """
        buffer, asked_s = AnswerBuffer(), self._clock()
        try:
            done = self._ask(self._runtime_dir, request(known), buffer.take)
            found = _checked(key, done, buffer.whole)
        except GatewayError as error:
            now = self._clock()
            with self._lock:
                self._silent = _Failed(error, now + ERROR_S) if isinstance(error, NoAnswer) else None
                seen = None if isinstance(error, UsageError) else self._seen(key)
                if self._silent is None and not (seen is not None and isinstance(error, NoAgent)):
                    self._failed = {k: one for k, one in self._failed.items() if now < one.until_s}
                    self._failed[key] = _Failed(error, now + ERROR_S)
                if seen is not None:
                    return seen
            raise
        finally:
            with self._lock:
                self._trying = False
        with self._lock:
            self._silent = None
            if key[0] not in SIGNED:
                self._learn(found, key)
            if not found.get("unchanged"):
                return self._keep(key, found, asked_s)
            if kept is None or kept.stale or self._kept.get(key) is not kept:
                return None
            kept.asked_s, kept.closed = asked_s, found["closed"] and key[0] != "days"
            return kept

    def _learn(self, found: Mapping[str, Any], key: Key) -> None:
        """Mark the kept answers that depend on corrected days as stale.

        After a restart of the agent, mark all of them.
        """
        changed: Collection[str] | None = found["changed"]
        if found["epoch"] != self._epoch or changed is None:
            stale = [one for other, one in self._kept.items() if other != key]
        else:
            stale = [
                one
                for other, one in self._kept.items()
                if other != key and any(one.first <= day <= one.last for day in changed)
            ]
        for one in stale:
            one.stale = True
        self._epoch, self._change = found["epoch"], found["change"]
        if key[0] == "days" and "today" in found:
            self._today = found["today"]

    def _keep(self, key: Key, found: Mapping[str, Any], asked_s: float) -> _Kept:
        first, last = _range(key, found)
        closed = bool(found.get("closed")) and key[0] != "days"
        if key[0] in SIGNED:
            closed = key[2] != "0"
        data = msgspec.json.encode({name: one for name, one in found.items() if name not in ("change", "changed")})
        kept = _Kept(data, asked_s, closed, found.get("stamp", ""), first, last)
        before = self._drop(key)
        # ``before`` is about a day that was today and is over now, so it is kept under the date of that day
        if before is not None and key[:2] == ("day", "") and before.first != first:
            before.stale = True
            if (past := ("day", before.first, key[2])) not in self._kept:
                self._put(past, before)
        if len(data) <= LARGEST_BYTES:  # a larger answer would displace too many other answers
            self._put(key, kept)
        return kept

    def _put(self, key: Key, kept: _Kept) -> None:
        self._drop(key)
        self._kept[key] = kept
        self._size += len(kept.data)
        while self._size > MOST_BYTES and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> _Kept | None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._size -= len(kept.data)
        return kept


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _checked(key: Key, done: Mapping[str, Any], data: bytes) -> dict[str, Any]:
    """Check the form of an answer and return it. Raises GatewayError if the answer is malformed."""
    if key[0] in SIGNED:
        found: dict[str, Any] = {"hash": done.get("hash"), "pack": loaded(data, "pack")}
        return dict(checked(found, SignedPack, "pack"))
    if done.get("unchanged") is True:
        return dict(checked(dict(done), Validity, key[0]))
    if key[0] == "days":
        return dict(checked(dict(done), DayList, "list of days"))
    if key[0] == "report":
        page = check_page(data)
        checked(page, Validity, "report")
        return page
    return dict(checked(loaded(data, "day"), SiteDay, "day"))


def _range(key: Key, found: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first and the last day on which an answer depends, as ISO dates; ("", "") if it depends on no day."""
    if key[0] == "day":
        return found["day"], found["day"]
    if key[0] != "report":
        return "", ""
    # the label is 2026-11-24, 2026-11, 2026, or two days with a slash between them
    label = str(found["period"]["label"])
    first, _, last = label.partition("/")
    # "~" sorts after digits and "-", so 2026-11-24 sorts between "2026-11" and "2026-11~"
    return first, last or f"{first}~"


__all__ = ["DayList", "SignedPack", "SiteData", "SiteDay"]
