"""A line that remembers its answers: trying many profiles asks each register once, and a dump is the set of answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from drivers.line import Answer, Line, ModbusRequest, Request, RequestOptions
from drivers.model import LineDown, LineError, LineLent, LineTimeout

_SPACES = {1: "coils", 2: "discrete", 3: "holding", 4: "input"}


class CachingLine:
    """Stands in for a ``Line``. A question that was answered or refused is not asked again; others go to the line.

    Args:
        timeout_s: the longest wait for one answer; None: as the caller wants it.
        most_silences: after so many questions without an answer everything new counts as silent; None: no bound.
        most_s: the same after so many seconds of asking.
    """

    def __init__(
        self,
        line: Line,
        timeout_s: float | None = None,
        most_silences: int | None = None,
        most_s: float | None = None,
    ) -> None:
        self._line, self._timeout_s, self._most, self._most_s = line, timeout_s, most_silences, most_s
        self._spent_s = 0.0
        self._known: dict[bytes, Answer | LineError] = {}
        self._asked: list[tuple[ModbusRequest, bytes]] = []
        self.silences = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)

    def as_line(self) -> Line:
        """For drivers, which want a Line."""
        return cast(Line, self)

    async def exchange(self, request: Request, options: RequestOptions | None = None) -> Answer:
        """As ``Line.exchange``."""
        answer = await self._ask(request, options or self._line.request_options())
        if isinstance(answer, LineError):
            raise answer
        return answer

    async def burst(self, requests: Sequence[Request], options: RequestOptions) -> list[Answer | LineError]:
        """As ``Line.burst``."""
        results: list[Answer | LineError] = []
        for request in requests:
            results.append(await self._ask(request, options))
            if isinstance(results[-1], LineTimeout | LineDown | LineLent):
                break
        return results

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing new is asked."""
        silent = self._most is not None and self.silences >= self._most
        return silent or (self._most_s is not None and self._spent_s >= self._most_s)

    def dump(self) -> dict[str, dict[str, int]]:
        """Registers that were answered: "holding" and so on -> address in decimal -> word (0 or 1 for coils)."""
        found: dict[str, dict[int, int]] = {}
        for request, payload in self._asked:
            address = int.from_bytes(request.frame[2:4], "big")
            count = int.from_bytes(request.frame[4:6], "big")
            words = found.setdefault(_SPACES[request.function], {})
            for n in range(count):
                if request.function >= 3:
                    words[address + n] = int.from_bytes(payload[2 * n : 2 * n + 2], "big")
                else:
                    words[address + n] = payload[n // 8] >> n % 8 & 1
        return {space: {str(at): words[at] for at in sorted(words)} for space, words in sorted(found.items())}

    async def _ask(self, request: Request, options: RequestOptions) -> Answer | LineError:
        known = self._known.get(request.frame)
        if known is not None:
            return known
        if self.is_exhausted:
            return LineTimeout("no longer asked: too many requests were silent or slow", where=request.where)
        if self._timeout_s is not None:
            options = replace(options, timeout_s=min(options.timeout_s, self._timeout_s), retries=0)
        begin = time.monotonic()
        (answer,) = await self._line.burst((request,), options)
        self._spent_s += time.monotonic() - begin
        if isinstance(answer, LineTimeout):
            self.silences += 1
        if not isinstance(answer, LineDown | LineLent):
            self._known[request.frame] = answer
        if isinstance(answer, Answer) and isinstance(request, ModbusRequest) and request.function in _SPACES:
            self._asked.append((request, answer.payload))
        return answer
