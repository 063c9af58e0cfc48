"""Facts learned about a device's register map: places to cut blocks, missing registers, and the longest possible read.

If a request covers a missing register, the whole request fails (field pains 24, 25, 30, 40). After two illegal-address
answers the block is cut. It is cut first at registers that no point needs, then into halves, until the missing point is
isolated. If other points lie inside the registers of this point, they are read without it from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from drivers.model import Point
from drivers.plan.timing import Block

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
# number of refusals before something is learned, because a single refusal may come from a device that is starting
STRIKES = 2
EXPIRES_S = 7 * 86_400  # facts are forgotten after this time, because new firmware may have added the register

Place = tuple[int, int]  # (function, address)


class KnownHoles:
    """The facts learned for one identity and firmware (``key``). Times are UTC seconds, given by the caller.

    ``version`` counts the changes of the facts. A change tells the driver to plan again.
    """

    def __init__(self, key: str = "", expires_s: int = EXPIRES_S) -> None:
        self.key, self.expires_s, self.version = key, expires_s, 0
        # (function, address): no block may contain both this register and the register before it
        self.cuts: set[Place] = set()
        # (function, address, count): the device lacks every point that needs one of these registers
        self.absent: set[tuple[int, int, int]] = set()
        # (function, address, count): the device lacks the points that need exactly these registers, but it may have
        # points that need only some of them
        self.absent_points: set[tuple[int, int, int]] = set()
        # (function, address, count): reads that were split because they got no answer, perhaps because of noise
        self.unanswered: set[tuple[int, int, int]] = set()
        # longest read that the device accepts (field pain 27), in registers; None: no limit was found
        self.max_words: int | None = None
        self._since: int | None = None
        # (function, address, count, exception) -> (number of refusals, the value of ``_answers`` at the first refusal)
        self._strikes: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        self._answers = 0  # number of reads, of any block, that were answered

    def good(self, block: Block) -> None:
        """Note that a block was answered: the device works normally, and earlier refusals of this block were
        temporary.
        """
        self._answers += 1
        if self._strikes:
            for code in (ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE):
                self._strikes.pop((block.function, block.address, block.count, code), None)

    def refused(self, block: Block, points: Sequence[Point], code: int, now_s: int) -> bool:
        """Note that a read was refused with an exception. Returns True if something was learned, so that the reads must
        be planned again.

        A point counts as absent only if the device has answered another read since it first refused this one. So a
        device that refuses everything for a while does not lose its points.
        """
        if code not in {ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE}:
            return False
        key = (block.function, block.address, block.count, code)
        count, answers = self._strikes.get(key, (0, self._answers))
        self._strikes[key] = (count + 1, answers)
        if count + 1 < STRIKES:
            return False
        pieces = _pieces(block, points)
        longest = max(end - start for start, end in pieces)
        words = block.count if block.function in {3, 4} else 0
        if code == ILLEGAL_VALUE and words > max(1, longest) and words > 8:
            self.max_words = max(longest, words // 2)
        elif len(pieces) > 1:
            self.cuts.update((block.function, address) for address in _cuts(block, pieces))
        elif self._answers > answers:
            self._lose(block, points)
        else:
            return False
        del self._strikes[key]
        self._learned(now_s)
        return True

    def silent(self, block: Block, points: Sequence[Point], now_s: int) -> bool:
        """Split a read that gets no answer. Returns False if it cannot be split."""
        pieces = _pieces(block, points)
        if len(pieces) < 2:
            return False
        self.cuts.update((block.function, address) for address in _cuts(block, pieces))
        self.unanswered.add((block.function, block.address, block.count))
        self._learned(now_s)
        return True

    def whole(self, function: int, address: int, count: int) -> None:
        """Forget the cuts in a read that was split because it got no answer: it was answered as a whole."""
        end = address + count
        self.cuts = {cut for cut in self.cuts if cut[0] != function or not address < cut[1] < end}
        self.unanswered = {
            read for read in self.unanswered if read[0] != function or read[1] < address or read[1] + read[2] > end
        }
        if not (self.cuts or self.absent or self.absent_points or self.max_words):
            self._since = None
        self.version += 1

    def _learned(self, now_s: int) -> None:
        self._since = now_s if self._since is None else self._since
        self.version += 1

    def _lose(self, block: Block, points: Sequence[Point]) -> None:
        """Note that the device lacks those points of a block that need all its registers. The other points of the block
        are judged by their own reads, which come next.
        """
        start, end = block.address, block.address + block.count
        spans = _spans(block, points)
        lost = [n for n, span in spans.items() if span == (start, end)] or list(block.points)
        others = (p.span for n, p in enumerate(points) if p.function == block.function and n not in lost)
        if any(low < end and start < high for low, high in others):
            for low, high in (points[n].span for n in lost):
                self.absent_points.add((block.function, low, high - low))
        else:
            self.absent.add((block.function, block.address, block.count))

    def expire(self, now_s: int) -> bool:
        """Forget facts that are too old, or from the future because the clock was wrong.

        Returns True if a fact was forgotten, so that the reads must be planned again.
        """
        if self._since is None or 0 <= now_s - self._since < self.expires_s:
            return False
        self.forget()
        return True

    def forget(self) -> None:
        """Forget all facts, so that the reads must be planned again."""
        self.cuts.clear()
        self.unanswered.clear()
        self.absent.clear()
        self.absent_points.clear()
        self.max_words, self._since = None, None
        self.version += 1

    @property
    def has_absent(self) -> bool:
        """Whether the device is known to lack at least one point."""
        return bool(self.absent or self.absent_points)

    def lacks(self, point: Point) -> bool:
        """Whether the device is known to lack this point."""
        start, end = point.span
        return (point.function, start, end - start) in self.absent_points or any(
            f == point.function and a < point.address + point.count and point.address < a + n for f, a, n in self.absent
        )

    def summary(self) -> str:
        """The learned facts in one line, for a technician. "" if nothing was learned."""
        parts: list[str] = []
        if self.cuts:
            addresses = ", ".join(str(a) for _, a in sorted(self.cuts)[:8])
            parts.append(f"reads are split at {len(self.cuts)} address(es): {addresses}")
        if self.absent:
            parts.append(f"the device has no registers {', '.join(str(a) for _, a, _ in sorted(self.absent)[:8])}")
        if self.absent_points:
            addresses = ", ".join(str(a) for a in sorted({a for _, a, _ in self.absent_points})[:8])
            parts.append(f"the device refuses reads of the multi-register values at {addresses}")
        if self.max_words:
            parts.append(f"a read returns at most {self.max_words} registers")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The facts as a JSON object, which ``from_json`` reads."""
        facts: dict[str, Any] = {
            "absent": sorted(list(a) for a in self.absent),
            "cuts": sorted(list(c) for c in self.cuts),
            "key": self.key,
            "max_words": self.max_words,
            "since": self._since,
            "unanswered": sorted(list(a) for a in self.unanswered),
        }
        if self.absent_points:
            facts["absent_points"] = sorted(list(a) for a in self.absent_points)
        return facts

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], key: str, now_s: int, expires_s: int = EXPIRES_S) -> KnownHoles:
        """The learned facts for ``key`` from a stored JSON object.

        The result has no facts if the stored ones are about another identity or firmware, too old, or damaged.
        """
        holes = cls(key, expires_s)
        try:
            if stored["key"] != key or stored["since"] is None:
                return holes
            holes.cuts = {(int(f), int(a)) for f, a in stored["cuts"]}
            holes.unanswered = {(int(f), int(a), int(n)) for f, a, n in stored["unanswered"]}
            holes.absent = {(int(f), int(a), int(n)) for f, a, n in stored["absent"]}
            holes.absent_points = {(int(f), int(a), int(n)) for f, a, n in stored.get("absent_points", ())}
            holes.max_words = None if stored["max_words"] is None else int(stored["max_words"])
            holes._since = int(stored["since"])
        except (KeyError, TypeError, ValueError):
            return cls(key, expires_s)
        holes.expire(now_s)
        return holes


def holes_key(profile_hash: str, identity: Mapping[str, str] | None, firmware: str | None) -> str:
    """The key under which facts are stored. Another device, firmware or profile has another key, so it starts without
    facts.
    """
    texts = ",".join(f"{k}={v}" for k, v in sorted((identity or {}).items()))
    return f"{profile_hash}|{texts}|{firmware or ''}"


def _spans(block: Block, points: Sequence[Point]) -> dict[int, tuple[int, int]]:
    """Number of a point -> the registers [start, end) that must be read with it: its own, and those of its group."""
    groups: dict[str, tuple[int, int]] = {}
    for number in block.points:
        start, end = points[number].span
        name = points[number].together or f"#{number}"
        low, high = groups.get(name, (start, end))
        groups[name] = (min(low, start), max(high, end))
    return {number: groups[points[number].together or f"#{number}"] for number in block.points}


def _pieces(block: Block, points: Sequence[Point]) -> list[tuple[int, int]]:
    """The ranges [start, end) in a block that must stay in one piece, sorted by start and by end. A range that lies
    inside another one is left out, because both are read together.
    """
    pieces: list[tuple[int, int]] = []
    for start, end in sorted(_spans(block, points).values(), key=lambda span: (span[0], -span[1])):
        if not pieces or end > pieces[-1][1]:
            pieces.append((start, end))
    return pieces or [(block.address, block.address + block.count)]


def _cuts(block: Block, pieces: list[tuple[int, int]]) -> list[int]:
    """The addresses at which a block is cut: after every range without points. If there is no such range, near the
    middle.
    """
    holes = [start for (_, end), (start, _) in pairwise(pieces) if start > end]
    if holes:
        return holes
    return [min(pieces[1:], key=lambda p: abs(2 * p[0] - 2 * block.address - block.count))[0]]
