"""Serves packs that a platform requests again: one job at a time, at the backlog's rate and within a daily quota.

This module uses no socket. A job survives a reconnect, but not a restart of the agent. After a reconnect it goes back
to a position before which all packs have certainly arrived.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from agent.outbox import Outbox, OutboxItem, ReplayPage
from drivers.model import clean_text
from drivers.rate_limit import RateLimitedLog, TokenBucket

if TYPE_CHECKING:
    from agent.uplink.wire import ReplayWire

log = logging.getLogger("meterhouse.uplink")
MAX_JOBS: Final = 8  # while one job is served, at most this many jobs wait
MAX_IDS: Final = 16  # if requests have overlapping or adjacent ranges, one job answers at most this many of them
# the highest number of requests per second on average, and in a burst; further requests are ignored
REQUEST_RATE, REQUEST_BURST = 1.0, 20.0
RESUMES: Final = 10  # a job is refused when it has resumed after more reconnects than this
QUOTA_BYTES: Final = 256 << 20  # a destination gets at most this much by replay in one UTC day
PAGE_PACKS, PAGE_BYTES = 32, 1 << 20
STORE_TIMEOUT_S: Final = 60.0
DISCONNECT_S: Final = 3.0  # a disconnect by the broker within this time counts as a refusal of our subscription
STRIKES, DISABLED_S = 3, 3600.0  # after this many refusals, we do not subscribe again for this time
DAY_S: Final = 86_400
# the store records used quota in steps of this size, so a restart wastes at most one step
RESERVE_BYTES: Final = 4 << 20


@dataclass(slots=True, eq=False)
class _Page:
    """A page of the store, and what happened to its packs."""

    position: int  # the first sequence
    sent: int = 0
    refused: int = 0  # number of sent packs that the broker has refused


@dataclass(slots=True, eq=False)
class _Job:
    stream: str
    boot: str | None
    first: int
    last: int
    ids: list[str]
    begun: bool = False
    position: int = 0  # the next sequence that is requested from the store
    requested_s: float = 0.0  # time of the request for a page that the store has not returned yet; 0: none
    page_number: int = 0  # number of the last requested page; if a page has an earlier number, it is dropped
    exhausted: bool = False  # True: the store has no more pages
    sent: int = 0
    # for each sent pack that the broker has neither accepted nor refused yet: the page of the pack
    unanswered: deque[_Page] = field(default_factory=deque)
    refused: int = 0  # number of sent packs that the broker has refused
    items: deque[OutboxItem] = field(default_factory=deque)  # packs of the last page that are not sent yet
    pages: deque[_Page] = field(default_factory=lambda: deque(maxlen=256))  # the last pages
    resumed: int = 0

    def outcome(self) -> tuple[str, str]:
        """Return the final verdict and its reason, after the broker has answered all packs."""
        if self.refused:
            return "refused", f"the broker did not accept {self.refused} of {self.sent} packs"
        return "done", f"{self.sent} packs"

    def rewind(self, in_flight: int) -> None:
        """Go back to a position before which all packs have arrived. The last ``in_flight`` sent packs may be lost.

        The packs after this position are sent again, so the job counts only what happens to them then.
        """
        sent = 0  # number of packs in the pages removed below that were already sent
        while self.pages and sent < in_flight:
            page = self.pages.pop()
            self.position = page.position
            sent += page.sent
            self.refused -= page.refused
        self.sent -= sent
        self.items.clear()
        self.unanswered.clear()
        self.requested_s, self.exhausted = 0.0, False
        self.resumed, self.page_number = self.resumed + 1, self.page_number + 1


class ReplayServer:
    """The replay jobs of one destination.

    Args:
        gateway: full name of the gateway, such as ``park7/gw01``.
        reply: publishes a JSON object on ``replay/reply``.
        wake: called from the database thread when the store has answered.
        in_flight: number of packs that may be lost when a connection ends.
        wants: returns True for a stream that this destination gets. Requests for other streams are refused.
        size: returns the size in bytes of a pack as it is sent.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        gateway: str,
        reply: Callable[[bytes], None],
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        quota_bytes: int = QUOTA_BYTES,
        in_flight: int = 20,
        wall: Callable[[], float] = time.time,
        wants: Callable[[str], bool] = lambda stream: True,
        size: Callable[[OutboxItem], int] = lambda item: len(item.data),
    ) -> None:
        self._wants, self._size = wants, size
        self._name, self._outbox, self._gateway, self._reply, self._wake = name, outbox, gateway, reply, wake
        self._monotonic, self._in_flight = monotonic, in_flight
        self._quota = DailyQuota(name, outbox, quota_bytes, wake, monotonic, wall)
        self._jobs: deque[_Job] = deque()  # the job that is being served comes first
        self._pages: deque[tuple[_Job, int, ReplayPage]] = deque()  # the database thread fills this queue
        self._requests = TokenBucket(REQUEST_RATE, REQUEST_BURST, monotonic())
        self._rejected_log = RateLimitedLog(monotonic)
        # whether this connection is subscribed to requests, and when we last subscribed
        self._subscribed, self._subscribed_s = False, 0.0
        self._strikes = 0  # how often in succession the broker refused our subscription
        self._unanswered = 0  # number of unanswered packs of jobs that were refused meanwhile

    def begin(self) -> bool:
        """Begin a connection. Returns False if we must not subscribe, because the broker refused that too often."""
        self._subscribed = False
        while self._jobs and (self._disabled or self._jobs[0].resumed > RESUMES):
            self._finish(self._jobs[0], "refused", "the connection was lost too often")
        return self.resubscribe()

    @property
    def _disabled(self) -> bool:
        return self._strikes >= STRIKES and self._monotonic() - self._subscribed_s < DISABLED_S

    def resubscribe(self) -> bool:
        """Return True if the caller must subscribe now: this connection is not subscribed, and no longer disabled.

        A connection can last for weeks, so requests must be read again without a reconnect.
        """
        if self._subscribed or self._disabled:
            return False
        self._subscribed, self._subscribed_s = True, self._monotonic()
        self._quota.refresh()
        return True

    def end(self, by_broker: bool) -> None:
        """End a connection. If the broker ends it soon after our subscription, that counts as a refusal.

        Some brokers disconnect a client for a subscription that they do not allow.
        """
        if by_broker and self._subscribed and self._monotonic() - self._subscribed_s < DISCONNECT_S:
            self._strikes += 1
            if self._strikes >= STRIKES:
                text = (
                    "%s: the connection was lost %d times within %.0f s of our subscription to replay/request; replay "
                    "requests are not read for an hour"
                )
                log.warning(text, self._name, self._strikes, DISCONNECT_S)
        elif self._subscribed:
            self._strikes = 0
        self._subscribed = False
        self._pages.clear()
        self._unanswered = 0
        if self._jobs and self._jobs[0].begun:
            self._jobs[0].rewind(self._in_flight)

    # --- requests

    def on_request(self, payload: bytes) -> None:
        """Process a message on ``replay/request``, valid or not."""
        if not self._requests.take(self._monotonic()):
            self._log_rejected("too many requests")
            return
        from agent.uplink.wire import parse_replay_request

        try:
            wire = parse_replay_request(payload, self._gateway)
        except ValueError as error:
            self._log_rejected(str(error))
            return
        if wire.first > wire.last:
            self._send_reply(wire.id, wire.stream, "refused", reason='"first" is greater than "last"')
        elif not self._wants(wire.stream):
            reason = "this stream is not sent to this destination ([[uplink]] streams)"
            self._send_reply(wire.id, wire.stream, "refused", reason=reason)
        elif self._quota.is_spent:
            self._send_reply(wire.id, wire.stream, "refused", reason=self._quota_text())
        elif not self._enqueue(wire):
            self._send_reply(wire.id, wire.stream, "refused", reason="busy: too many requests are waiting")
        else:
            self._send_reply(wire.id, wire.stream, "accepted")

    def _enqueue(self, wire: ReplayWire) -> bool:
        """Add the request to a job whose range overlaps or touches the requested range; otherwise to a new job.

        Returns False if too many jobs wait.
        """
        for job in self._jobs:
            wanted = (wire.stream, wire.boot, wire.first, wire.last)
            if wire.id in job.ids and (job.stream, job.boot, job.first, job.last) == wanted:
                return True  # a repeated request, perhaps after a reconnect: its job is not finished yet
            if (job.stream, job.boot) != (wire.stream, wire.boot) or len(job.ids) >= MAX_IDS:
                continue
            if not job.begun and wire.first <= job.last + 1 and wire.last >= job.first - 1:
                job.first, job.last = min(job.first, wire.first), max(job.last, wire.last)
            elif not (job.begun and job.position == job.first and job.first <= wire.first and wire.last <= job.last):
                continue  # the range of this job does not fit, or a part of the job is already sent
            job.ids.append(wire.id)
            return True
        if len(self._jobs) > MAX_JOBS:
            return False
        self._jobs.append(_Job(wire.stream, wire.boot, wire.first, wire.last, [wire.id]))
        return True

    def _log_rejected(self, reason: str) -> None:
        self._rejected_log.log(log.warning, "%s: replay request rejected: %s", self._name, clean_text(reason, 160))

    # --- packs

    def next(self, max_bytes: int) -> OutboxItem | None:
        """Return the next pack to publish on ``backfill``; None if there is none now.

        ``max_bytes``: the largest payload that the broker accepts.
        """
        now = self._monotonic()
        while self._pages:
            job, number, found = self._pages.popleft()
            if self._jobs and job is self._jobs[0] and number == job.page_number:
                self._on_page(job, found)
        while self._jobs:
            job = self._jobs[0]
            if job.items:
                size = self._size(job.items[0])
                if size > max_bytes:
                    job.items.popleft()
                    self._reply_all(job, "refused", reason="a pack is larger than this broker accepts")
                    continue
                reserved = self._quota.reserve(size)
                if reserved is None:
                    return None
                if not reserved:
                    self._finish(job, "refused", self._quota_text())
                    continue
                page = job.pages[-1]
                page.sent, job.sent = page.sent + 1, job.sent + 1
                job.unanswered.append(page)
                return job.items.popleft()
            if job.exhausted:
                if job.unanswered:
                    return None
                self._finish(job, *job.outcome())
            elif not job.requested_s:
                job.position, job.requested_s, job.begun = job.position if job.begun else job.first, now, True
                job.page_number += 1
                put = partial(self._put_page, job, job.page_number)
                self._outbox.replay(job.stream, job.boot, job.position, job.last, PAGE_PACKS, PAGE_BYTES, put)
                return None
            elif now - job.requested_s > STORE_TIMEOUT_S:
                self._finish(job, "refused", "the store does not respond")
            else:
                return None
        return None

    def on_answer(self, accepted: bool) -> None:
        """Process the broker's answer to a pack from ``next``. The broker answers in the order of sending."""
        if self._unanswered:
            self._unanswered -= 1
        elif self._jobs and self._jobs[0].unanswered:
            job = self._jobs[0]
            page = job.unanswered.popleft()
            page.refused += not accepted
            job.refused += not accepted

    def _put_page(self, job: _Job, number: int, page: ReplayPage) -> None:
        """Put a page of the store into ``_pages``. This is called in the database thread."""
        self._pages.append((job, number, page))
        self._wake()

    def _on_page(self, job: _Job, page: ReplayPage) -> None:
        job.requested_s = 0.0
        for gone in page.gone:
            more = {"loss": gone.loss} if gone.loss else {}
            self._reply_all(job, "lost" if gone.loss else "expired", first=gone.first, last=gone.last, **more)
        if page.refused:
            self._finish(job, "refused", page.refused)
            return
        job.items.extend(page.items)
        job.pages.append(_Page(job.position))
        job.position, job.exhausted = page.next_seq, not page.next_seq

    # --- replies

    def _finish(self, job: _Job, verdict: str, reason: str) -> None:
        self._jobs.popleft()
        self._unanswered += len(job.unanswered)
        self._reply_all(job, verdict, reason=reason)

    def _quota_text(self) -> str:
        return f"the daily quota of {self._quota.quota_bytes >> 20} MiB is used up; ask again tomorrow (UTC)"

    def _reply_all(self, job: _Job, verdict: str, **more: object) -> None:
        for name in job.ids:
            self._send_reply(name, job.stream, verdict, **more)

    def _send_reply(self, name: str, stream: str, verdict: str, **more: object) -> None:
        reply = {"id": name, "stream": stream, "verdict": verdict, **more}
        self._reply(json.dumps(reply, sort_keys=True, separators=(",", ":")).encode())


class DailyQuota:
    """The number of bytes that one destination may get by replay in a UTC day.

    The store records used bytes in advance, in steps of ``RESERVE_BYTES``. Otherwise a restart of the agent would renew
    the quota.

    Args:
        wake: called from the database thread when the store has answered.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        quota_bytes: int,
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._outbox, self.quota_bytes, self._wake = name, outbox, quota_bytes, wake
        self._monotonic, self._wall = monotonic, wall
        # (day, bytes recorded for this day, bytes reserved by the request)
        self._answers: deque[tuple[int, int, int]] = deque()
        self._day = -1
        # number of bytes that were replayed today, as the store has recorded it; None: not known yet
        self._recorded: int | None = None
        self._reserved = 0  # number of bytes that are recorded but not used yet
        self._requested_s: float | None = None

    def refresh(self) -> None:
        """Ask the store how many bytes are recorded for today, if this is not known."""
        self._update()
        if self._recorded is None:
            self._request(0)

    @property
    def is_spent(self) -> bool:
        """True if today's quota is known to be used up."""
        self._update()
        return self._reserved <= 0 and self._recorded is not None and self._recorded >= self.quota_bytes

    def reserve(self, size: int) -> bool | None:
        """Take ``size`` bytes from the quota. Returns False if today's quota does not suffice.

        Returns None if the store must answer first. The caller tries again later.
        """
        self._update()
        if size <= self._reserved:
            self._reserved -= size
            return True
        if self._recorded is None:
            self._request(0)
            return None
        more = min(max(RESERVE_BYTES, size), self.quota_bytes - self._recorded)
        if self._reserved + max(more, 0) < size:
            return False
        self._request(more)
        return None

    def _update(self) -> None:
        """Process the store's answers, and begin a new quota if a new day has begun."""
        if (day := int(self._wall() // DAY_S)) != self._day:
            self._day, self._recorded, self._reserved, self._requested_s = day, None, 0, None
        while self._answers:
            day, recorded, reserved = self._answers.popleft()
            if day == self._day:
                self._recorded, self._requested_s = recorded, None
                self._reserved += reserved

    def _request(self, size: int) -> None:
        now = self._monotonic()
        if self._requested_s is None or now - self._requested_s > STORE_TIMEOUT_S:
            self._requested_s = now
            day = self._day
            self._outbox.spend(self._name, day, size, lambda recorded: self._put_answer(day, recorded, size))

    def _put_answer(self, day: int, recorded: int, reserved: int) -> None:
        """Put an answer of the store into ``_answers``. This is called in the database thread."""
        self._answers.append((day, recorded, reserved))
        self._wake()
