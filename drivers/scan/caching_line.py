"""A line that caches answers, so that each register is read only once while many profiles are tried. ``dump`` returns
the registers that were answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any, cast

from drivers.line import Answer, Line, Request, RequestOptions, StepRequest
from drivers.meter_device import MeterRequest
from drivers.model import DeviceException, FrameError, LineDown, LineError, LineLent, LineTimeout

HASTY_S = 0.2  # with ``hasty``, a timeout is never shortened to less than this
HASTY_TIMES = 3  # with ``hasty``, a timeout is shortened to the longest answer time so far, multiplied by this
ILLEGAL_FUNCTION = 1  # the exception for an unsupported function
NO_FUNCTION = 3  # a function counts as unsupported if it was refused this many times, but never answered
SPACES = {1: "coils", 2: "discrete", 3: "holding", 4: "input"}


class CachingLine:
    """Replaces a ``Line``. It caches the result of each request, even a refusal or a timeout. No request is sent twice,
    except at another place in a sequence.

    Args:
        timeout_s: the longest wait for one answer; None: as the caller specifies.
        most_silences: after this many timeouts nothing more is sent. Each further request then counts as timed out.
        None: no limit.
        most_s: when requests have taken this many seconds in total, nothing more is sent either. None: no limit.
        hasty: use short timeouts for a device that has answered quickly.
    """

    def __init__(
        self,
        line: Line,
        timeout_s: float | None = None,
        most_silences: int | None = None,
        most_s: float | None = None,
        hasty: bool = False,
    ) -> None:
        self._line, self._timeout_s, self._most, self._most_s = line, timeout_s, most_silences, most_s
        self._hasty = hasty
        self._spent_s = 0.0
        self._answer_s: list[float] = []  # times from request to answer, without the transmission time of the bytes
        self._answered: set[tuple[int, int]] = set()  # the registers that were answered, as (function, address)
        # (bytes of a request, its place in a sequence) -> result
        self._known: dict[tuple[bytes, int], Answer | LineError] = {}
        # each answered read of registers: (function, address, count), and the payload of its answer
        self._asked: list[tuple[tuple[int, int, int], bytes]] = []
        self._no_function = Counter[int]()  # function -> number of refusals that call it unsupported
        self.silences = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)

    def as_line(self) -> Line:
        """This object, typed as a ``Line`` for drivers."""
        return cast(Line, self)

    async def exchange(self, request: Request, options: RequestOptions | None = None) -> Answer:
        """See ``Line.exchange``."""
        answer = await self._ask(request, options or self._line.request_options())
        if isinstance(answer, LineError):
            raise answer
        return answer

    async def burst(self, requests: Sequence[Request], options: RequestOptions) -> list[Answer | LineError]:
        """See ``Line.burst``."""
        results: list[Answer | LineError] = []
        for request in requests:
            results.append(await self._ask(request, options))
            if isinstance(results[-1], LineTimeout | LineDown | LineLent):
                break
        return results

    @property
    def is_exhausted(self) -> bool:
        """Whether a limit is reached, so that no new request is sent."""
        silent = self._most is not None and self.silences >= self._most
        return silent or (self._most_s is not None and self._spent_s >= self._most_s)

    @property
    def has_answered(self) -> bool:
        """Whether the device has answered or refused any request."""
        return any(isinstance(known, Answer | DeviceException) for known in self._known.values())

    @property
    def is_garbled(self) -> bool:
        """Whether bytes were received that are not a valid frame."""
        return any(isinstance(known, FrameError) for known in self._known.values())

    @property
    def answer_s(self) -> float:
        """The device's usual time from request to answer, without the transmission time of the bytes. 0: no answer
        yet.
        """
        return median(self._answer_s) if self._answer_s else 0.0

    def has_all(self, registers: set[tuple[int, int]]) -> bool:
        """Whether all these registers, given as (function, address), were answered."""
        return registers <= self._answered

    def allow(self, more_s: float) -> None:
        """Allow requests for ``more_s`` more seconds from now on, and forget earlier timeouts."""
        self.silences, self._most_s = 0, self._spent_s + more_s

    def dump(self) -> dict[str, dict[str, int]]:
        """The registers that were answered: table ("holding" and so on) -> address in decimal -> word. For coils, 0 or
        1.
        """
        found: dict[str, dict[int, int]] = {}
        for registers, payload in self._asked:
            function, address, count = registers
            words = found.setdefault(SPACES[function], {})
            for n in range(count):
                if function >= 3:
                    words[address + n] = int.from_bytes(payload[2 * n : 2 * n + 2], "big")
                else:
                    words[address + n] = payload[n // 8] >> n % 8 & 1
        return {space: {str(at): words[at] for at in sorted(words)} for space, words in sorted(found.items())}

    async def _ask(self, request: Request, options: RequestOptions) -> Answer | LineError:
        key = request.frame, request.place if isinstance(request, MeterRequest) else 0
        known = self._known.get(key)
        if known is not None:
            return known
        if self.is_exhausted:
            return LineTimeout(
                "the device is no longer queried: too many requests timed out or were slow", where=request.where
            )
        if self._timeout_s is not None:
            options = replace(options, timeout_s=min(options.timeout_s, self._timeout_s), retries=0)
        if self._hasty and len(self._answer_s) > 1:
            quick_s = max(HASTY_S, HASTY_TIMES * max(self._answer_s))
            options = replace(options, timeout_s=min(options.timeout_s, quick_s))
        function = request.function
        if self._no_function[function] >= NO_FUNCTION:
            return DeviceException(
                "the device does not support this function", where=request.where, code=ILLEGAL_FUNCTION
            )
        begin_ns = self._line.clock()[1]
        (answer,) = await self._line.burst((request,), options)
        took_s = (self._line.clock()[1] - begin_ns) / 1e9
        self._spent_s += took_s
        # a multi-step query is left out, because the times of its single steps are unknown
        if isinstance(answer, Answer) and not isinstance(request, StepRequest):
            char_s = options.setting.char_s if options.setting is not None else 0.0
            size = len(request.frame) + request.expect
            self._answer_s.append(max(took_s - size * char_s - options.quiet_s, 0.0))
        if isinstance(answer, LineTimeout):
            self.silences += 1
        elif isinstance(answer, DeviceException) and answer.code == ILLEGAL_FUNCTION:
            self._no_function[function] += 1
        elif isinstance(answer, Answer | DeviceException):
            self._no_function[function] = -(1 << 20)  # the function is supported: ignore later refusals
        if not isinstance(answer, LineDown | LineLent):
            self._known[key] = answer
        if isinstance(answer, Answer) and request.registers is not None:
            function, address, count = request.registers
            self._asked.append((request.registers, answer.payload))
            self._answered |= {(function, n) for n in range(address, address + count)}
        return answer
