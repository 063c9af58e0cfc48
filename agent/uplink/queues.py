"""Reading an outbox page by page, and remembering which ids are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from agent.outbox import OutboxItem

PAGE: Final = 128  # packs
PAGE_BYTES: Final = 1 << 20
PATIENCE_S: Final = 30.0
LOW: Final = 32  # fewer than this at hand: ask for the next page


class Lane:
    """A walk through an outbox in the order of ids, one page ahead.

    Args:
        fetch: asks for a page after an id; the answer comes later, by ``fill``.
    """

    def __init__(self, fetch: Callable[[Lane, int, int, int], None], monotonic: Callable[[], float]) -> None:
        self._fetch, self._monotonic = fetch, monotonic
        self.queue: deque[OutboxItem] = deque()
        self.cursor = 0  # the last id read
        self.after_stream = ""  # the last stream read: births are walked by name
        self.asked_up_to = 0
        self.session = 0
        self.dry = True  # a page came back empty: there is no more
        self._loading = False
        self._asked_s = 0.0
        self._moved = False  # went back while a page was on its way

    def restart(self, after: int) -> None:
        """Begin anew after an id; pages of the walk before are not wanted any more."""
        self.stop()
        self.cursor, self.after_stream, self.dry = after, "", False

    def stop(self) -> None:
        """Hold nothing, ask for nothing."""
        self.session += 1
        self.queue.clear()
        self.dry, self._loading, self._moved = True, False, False

    def reopen(self, number: int) -> None:
        """``number`` is due (again): the walk must come by once more."""
        self.dry = False
        if number <= self.cursor:
            self.cursor = min(number, self.queue[0].id if self.queue else number) - 1
            self.queue.clear()
            self._moved = self._loading

    def fill(self, page: Sequence[OutboxItem], wanted: Sequence[OutboxItem] | None = None) -> None:
        """The page asked for; ``wanted`` if only some of it is to be sent."""
        self._loading = False
        if self._moved:  # all that came will be read again
            self._moved = False
            return
        if not page:
            self.dry = True
            return
        self.cursor, self.after_stream = page[-1].id, page[-1].stream
        self.queue.extend(page if wanted is None else wanted)

    @property
    def ready(self) -> bool:
        """Is something at hand? Asks for more where little is."""
        if len(self.queue) < LOW and not self.dry and self._may_ask():
            self._loading, self._asked_s = True, self._monotonic()
            self._fetch(self, self.cursor, PAGE, PAGE_BYTES)
        return bool(self.queue)

    def _may_ask(self) -> bool:
        # a store that failed never answers
        return not self._loading or self._monotonic() - self._asked_s > PATIENCE_S

    def peek(self) -> OutboxItem | None:
        """The next one, if it is at hand."""
        return self.queue[0] if self.ready else None

    def pop(self) -> OutboxItem | None:
        """Take the next one, if it is at hand."""
        return self.queue.popleft() if self.ready else None


class Recent:
    """The last ``size`` ids that were added."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._order: deque[int] = deque()
        self._ids: set[int] = set()
        self.newest = 0

    def add(self, number: int) -> None:
        """Remember an id, forget the oldest."""
        if number in self._ids:
            return
        self._ids.add(number)
        self._order.append(number)
        self.newest = max(self.newest, number)
        if len(self._order) > self._size:
            self._ids.discard(self._order.popleft())

    def forget_up_to(self, number: int) -> bool:
        """Forget ids up to this one. False if there were none."""
        kept = deque(n for n in self._order if n > number)
        some = len(kept) < len(self._order)
        self._order, self._ids = kept, set(kept)
        return some

    def __contains__(self, number: int) -> bool:
        return number in self._ids
