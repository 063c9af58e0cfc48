"""What became of the readings that were due in the last ten minutes: the tallies of sealed packs, in a few buckets."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from agent.pack import seconds
from drivers.model import Quality, Reason

WINDOW_MS = 600_000
BUCKETS = 20
FEWEST_TICKS = 10  # of the shortest period: one lost tick is never less than 0.9
SETTLING_MS = 60_000  # at first all paces are due at once and identities are read: this says little about later
# not missing through a fault: it is dark, a technician has the line, no agent ran, or the clock was set
EXCUSED = frozenset((Reason.ASLEEP, Reason.LENT, Reason.STOPPED, Reason.CLOCK))


class _Bucket(NamedTuple):
    from_ms: int
    to_ms: int
    tally: Counter[int]


class RecentReadings:
    """Of one stream: due readings by quality (0 good) or, from 128 on, by gap reason. Its cost does not grow.

    The window is ten minutes, or a little more than ten of the shortest period if that is longer; of packs that are
    longer still, the newest. The first minute counts only until something later is known.
    """

    def __init__(self, start_ms: int) -> None:
        self._settled_ms = start_ms + SETTLING_MS
        self._settled = False
        self._buckets: deque[_Bucket] = deque()
        self._total: Counter[int] = Counter()

    def add(self, from_ms: int, to_ms: int, tally: Mapping[int, int], period_ms: int) -> None:
        """Count a pack. ``period_ms``: the shortest of the stream."""
        if self._buckets and to_ms < self._buckets[-1].to_ms:  # the clock was set back
            self._buckets.clear()
            self._total.clear()
            self._settled_ms = min(self._settled_ms, to_ms)
        if not self._settled and (from_ms + to_ms) // 2 >= self._settled_ms:
            self._settled = True
            self._buckets.clear()
            self._total.clear()
        window_ms = _window_ms(period_ms)
        if self._buckets and to_ms - self._buckets[-1].from_ms <= window_ms // BUCKETS:
            last = self._buckets.pop()
            self._buckets.append(_Bucket(last.from_ms, to_ms, last.tally + Counter(tally)))
        else:
            self._buckets.append(_Bucket(from_ms, to_ms, Counter(tally)))
        self._total.update(tally)
        self._forget(to_ms - window_ms)

    def facts(self, now_ms: int, period_ms: int, silent: Mapping[int, int], sealed_ms: int) -> dict[str, Any] | None:
        """For the snapshot; None: nothing was due yet.

        Args:
            silent: a tally of what was due since ``sealed_ms`` and not answered: a silent stream is sealed rarely.
        """
        begin_ms = now_ms - _window_ms(period_ms)
        self._forget(begin_ms)
        kept = self._buckets and (not silent or self._buckets[-1].to_ms > begin_ms)
        total = Counter(silent) + self._total if kept else Counter(silent)
        if not total:
            return None
        first_ms = self._buckets[0].from_ms if kept else max(begin_ms, sealed_ms)
        end_ms = now_ms if silent else self._buckets[-1].to_ms
        due, missing = total.total(), {Reason(code): n for code, n in total.items() if code >= min(Reason)}
        readings = due - sum(missing.values())
        expected = due - sum(n for reason, n in missing.items() if reason in EXCUSED)
        return {
            "from": seconds(max(first_ms, begin_ms) if begin_ms < end_ms else first_ms),
            "to": seconds(end_ms),
            "settled": self._settled and end_ms - first_ms >= FEWEST_TICKS * period_ms,
            "due": due,
            "readings": readings,
            "complete": round(readings / expected, 4) if expected else None,
            "missing": {r.name.lower(): n for r, n in sorted(missing.items(), key=lambda item: (-item[1], item[0]))},
            "marked": {Quality(code).name.lower(): n for code, n in sorted(total.items()) if 0 < code < min(Reason)},
        }

    def _forget(self, before_ms: int) -> None:
        """All but the newest bucket that end before a time."""
        while len(self._buckets) > 1 and self._buckets[0].to_ms <= before_ms:
            self._total -= self._buckets.popleft().tally


def _window_ms(period_ms: int) -> int:
    return max(WINDOW_MS, (FEWEST_TICKS + 1) * period_ms)
