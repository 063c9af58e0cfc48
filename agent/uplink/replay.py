"""What a platform asks for again: one job at a time, within a rate and a daily budget; all else costs a log line.

Knows no socket and no thread but the letters that the store's thread leaves. What was under way when a connection ends
goes on with the next one, from where nothing can have been lost on the way; the end of the agent ends it.
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
from agent.uplink.purse import Purse
from agent.uplink.reconnect import Seldom
from drivers.model import clean_text

if TYPE_CHECKING:
    from agent.uplink.wire import ReplayWire

log = logging.getLogger("meterhouse.uplink")
MAX_REQUEST_BYTES: Final = 4096
MAX_JOBS: Final = 8  # that wait
MAX_IDS: Final = 16  # requests that one job answers
BURST, EVERY_S = 20, 1.0  # requests that are read: so many at once, then one a second
RESUMES: Final = 10  # a job whose connection ended more often is given up
BUDGET_BYTES: Final = 256 << 20  # a day and destination
PAGE, PAGE_BYTES = 32, 1 << 20
ANSWER_S: Final = 60.0  # a store that says nothing for so long has lost the question
HUNG_UP_S: Final = 3.0
STRIKES, AGAIN_S = 3, 3600.0  # after so many quick ends we do without replay for so long


@dataclass(slots=True, eq=False)
class _Job:
    stream: str
    boot: str | None
    first: int
    last: int
    ids: list[str]
    begun: bool = False
    at: int = 0  # the next sequence to ask the store for
    asked_s: float = 0.0  # when the store was asked; 0: it is not being asked
    question: int = 0  # number of what it was asked: an answer to an earlier one is of another place
    ended: bool = False  # nothing more will come from the store
    sent: int = 0
    items: deque[OutboxItem] = field(default_factory=deque)
    pages: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=256))  # first sequence, packs
    resumed: int = 0

    def rewind(self, in_flight: int) -> None:
        """Back to where everything before has certainly arrived."""
        out = -len(self.items)  # packs that left, of the pages looked at
        while self.pages and out < in_flight:
            self.at, count = self.pages.pop()
            out += count
        self.items.clear()
        self.asked_s, self.ended, self.resumed, self.question = 0.0, False, self.resumed + 1, self.question + 1


class Replay:
    """The jobs of one destination.

    Args:
        gateway: ``park7/gw01``.
        reply: publishes one object on ``replay/reply``.
        wake: called from the store's thread when it left something.
        in_flight: packs that may be lost when a connection ends.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        gateway: str,
        reply: Callable[[bytes], None],
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        budget_bytes: int = BUDGET_BYTES,
        in_flight: int = 20,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._outbox, self._gateway, self._reply, self._wake = name, outbox, gateway, reply, wake
        self._monotonic, self._in_flight = monotonic, in_flight
        self._purse = Purse(name, outbox, budget_bytes, wake, monotonic, wall)
        self._jobs: deque[_Job] = deque()  # the first is under way
        self._mail: deque[tuple[_Job, int, ReplayPage]] = deque()
        self._tokens, self._tokens_s = float(BURST), monotonic()
        self._wrong = Seldom(monotonic)
        self._begun_s, self._quick = 0.0, 0

    @property
    def wait_s(self) -> float:
        """At most how long there will be nothing to send."""
        return 0.05 if self._jobs else 1.0

    def begin(self) -> bool:
        """Connected. May requests be subscribed to?"""
        now = self._monotonic()
        if self._quick >= STRIKES and now - self._begun_s < AGAIN_S:
            return False
        self._begun_s = now
        self._purse.look()
        while self._jobs and self._jobs[0].resumed > RESUMES:
            self._finish(self._jobs[0], "refused", "the connection ended again and again")
        return True

    def end(self, by_broker: bool) -> None:
        """The connection is gone. Some brokers hang up on a subscription that they do not allow."""
        hung_up = by_broker and self._monotonic() - self._begun_s < HUNG_UP_S
        if hung_up:
            self._quick += 1
        elif self._quick < STRIKES:
            self._quick = 0
        self._mail.clear()
        if self._quick >= STRIKES:
            self._jobs.clear()
        elif self._jobs and self._jobs[0].begun:
            self._jobs[0].rewind(self._in_flight)

    # --- requests

    def ask(self, payload: bytes) -> None:
        """A message on ``replay/request``, whatever it is."""
        now = self._monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._tokens_s) / EVERY_S)
        self._tokens_s = now
        if self._tokens < 1:
            self._complain("too many requests; they are not read")
            return
        self._tokens -= 1
        wrong = f"{len(payload)} bytes, at most {MAX_REQUEST_BYTES} are read"
        from agent.uplink.wire import decode_replay

        try:
            wire = decode_replay(payload) if len(payload) <= MAX_REQUEST_BYTES else None
        except ValueError as error:
            wire, wrong = None, str(error)[:120]
        if wire is not None and not wire.stream.startswith(self._gateway + "/"):
            wire, wrong = None, f"stream is not one of {self._gateway}"
        if wire is None:
            self._complain(wrong)
            return
        if wire.first > wire.last:
            self._say(wire.id, wire.stream, "refused", reason="first is after last")
        elif self._purse.is_empty:
            self._say(wire.id, wire.stream, "refused", reason=self._spent_text())
        elif not self._enqueue(wire):
            self._say(wire.id, wire.stream, "refused", reason="busy: too many requests wait")
        else:
            self._say(wire.id, wire.stream, "accepted")

    def _enqueue(self, wire: ReplayWire) -> bool:
        """Join a job that covers or touches the range, else wait behind the others."""
        for job in self._jobs:
            wanted = (wire.stream, wire.boot, wire.first, wire.last)
            if wire.id in job.ids and (job.stream, job.boot, job.first, job.last) == wanted:
                return True  # asked again, perhaps after a reconnect: it is still under way
            if (job.stream, job.boot) != (wire.stream, wire.boot) or len(job.ids) >= MAX_IDS:
                continue
            if not job.begun and wire.first <= job.last + 1 and wire.last >= job.first - 1:
                job.first, job.last = min(job.first, wire.first), max(job.last, wire.last)
            elif not (job.begun and job.at == job.first and job.first <= wire.first and wire.last <= job.last):
                continue  # another range, or part of it has gone out already
            job.ids.append(wire.id)
            return True
        if len(self._jobs) > MAX_JOBS:
            return False
        self._jobs.append(_Job(wire.stream, wire.boot, wire.first, wire.last, [wire.id]))
        return True

    def _complain(self, what: str) -> None:
        """One line a minute, however many there are."""
        self._wrong.say(log.warning, "%s: a replay request that is none: %s", self._name, clean_text(what, 160))

    # --- packs

    def next(self, max_bytes: int) -> OutboxItem | None:
        """The next pack to publish on ``backfill``, if there is one now. ``max_bytes``: the broker's limit."""
        now = self._monotonic()
        while self._mail:
            job, question, page = self._mail.popleft()
            if self._jobs and job is self._jobs[0] and question == job.question:
                self._take(job, page)
        while self._jobs:
            job = self._jobs[0]
            if job.items:
                item = job.items.popleft()
                if len(item.data) > max_bytes:
                    self._tell(job, "refused", reason="a pack is larger than this broker takes")
                    continue
                may = self._purse.take(len(item.data))
                if not may:
                    job.items.appendleft(item)
                    if may is None:
                        return None
                    self._finish(job, "refused", self._spent_text())
                    continue
                job.sent += 1
                return item
            if job.ended:
                self._finish(job, "done", f"{job.sent} packs")
            elif not job.asked_s:
                job.at, job.asked_s, job.begun = job.at if job.begun else job.first, now, True
                job.question += 1
                post = partial(self._post, job, job.question)
                self._outbox.replay(job.stream, job.boot, job.at, job.last, PAGE, PAGE_BYTES, post)
                return None
            elif now - job.asked_s > ANSWER_S:
                self._finish(job, "refused", "the store does not answer")
            else:
                return None
        return None

    def _post(self, job: _Job, question: int, page: ReplayPage) -> None:
        """From the store's thread."""
        self._mail.append((job, question, page))
        self._wake()

    def _take(self, job: _Job, page: ReplayPage) -> None:
        job.asked_s = 0.0
        for gone in page.gone:
            more = {"loss": gone.loss} if gone.loss else {}
            self._tell(job, "lost" if gone.loss else "expired", first=gone.first, last=gone.last, **more)
        if page.refused:
            self._finish(job, "refused", page.refused)
            return
        job.items.extend(page.items)
        job.pages.append((job.at, len(page.items)))
        job.at, job.ended = page.next_seq, not page.next_seq

    def _finish(self, job: _Job, verdict: str, reason: str) -> None:
        self._jobs.popleft()
        self._tell(job, verdict, reason=reason)

    def _spent_text(self) -> str:
        return f"the {self._purse.budget_bytes >> 20} MiB of a day are used up; ask again tomorrow"

    def _tell(self, job: _Job, verdict: str, **more: object) -> None:
        for name in job.ids:
            self._say(name, job.stream, verdict, **more)

    def _say(self, name: str, stream: str, verdict: str, **more: object) -> None:
        said = {"id": name, "stream": stream, "verdict": verdict, **more}
        self._reply(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
