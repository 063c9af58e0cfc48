"""Lines without framing of their own: serial, raw TCP to a serial server, UDP. A line sends one request at a time, with
a silence before each.

A query may have several steps (``drivers.line.steps``). No other request comes between them, and each step has its own
speed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from drivers.line.config import RequestOptions
from drivers.line.port import CHUNK, Port, down
from drivers.line.request import Answer, Request
from drivers.line.stats import LineStats
from drivers.line.steps import StepRequest
from drivers.line.trace import MOST_SHOWN, NOISE, RECEIVED, SENT, FrameTrace
from drivers.model import FrameError, LineDown, LineError, LineTimeout
from drivers.registry import own_schemes
from drivers.serial_setting import SerialSetting

# a request fails if the bus is not silent within this time: another master may be sending
LONGEST_NOISE_S = 0.5
LONGEST_PAUSES_S = 60.0  # limit for the sum of all pauses within a multi-step answer, whose length is not limited
LATE_STEPS_S, AFTER_LATE_S, LONGEST_LATE_S = 2.0, 2.5, 30.0  # times in seconds, explained at ``_steps_silence``
# Unsolicited bytes count as a late answer for this time after a request was given up. It is short, because a dead
# device must not hide another master.
LATE_NS = 10_000_000_000
_MOST_BUFFERED = 4096
_SLOWEST_CHAR_S = 11 / 300  # time of a character at 300 baud: assumed if the speed of the bus is unknown
_SETTLED_S = 0.1  # a pause of this length ends the wait if enough bytes for a full answer have come
_ONE_FRAME_NS = 20_000_000  # bytes that arrive within this time after one another belong to the same frame


class ByteLink:
    """An open port without framing of its own. ``run`` sends requests. The line's owner allows only one ``run`` at a
    time.
    """

    def __init__(
        self,
        port: Port,
        clock: Callable[[], tuple[int, int]],
        stats: LineStats,
        trace: FrameTrace | None,
        lost: Callable[[ByteLink, LineError], None],
        *,
        char_s: float = 0.0,
        echo: bool = False,
    ) -> None:
        self.port = port
        self.silent = 0  # number of consecutive timeouts in which not a single byte was received
        self._clock, self._stats, self._trace, self._lost = clock, stats, trace, lost
        self._char_s, self._echo = char_s, echo
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._echo_due = b""
        # bytes of a multi-step answer that are not yet in the trace, and the arrival time of the first of them
        self._untraced, self._untraced_ns = b"", 0
        self._request: Request | None = None  # the outstanding request
        self._done: asyncio.Future[Answer | LineError] | None = None
        self._unasked_ns = 0
        self._give_up_ns = 0
        # each received byte of a multi-step answer extends the answer's deadline by this time
        self._answer_char_s = 0.0
        # when the latest multi-step query was given up without an answer, in monotonic ns; 0: it was not given up
        self._silent_step_ns = 0
        self._steps_late = False  # whether bytes arrived after the latest multi-step query was given up
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._active_ns = clock()[1]  # monotonic ns of the last activity on the line
        # unit -> end of the time in which a late answer of the unit may arrive, in monotonic ns
        self._late_until: dict[str | int, int] = {}
        # units whose next answer may be a late answer to an earlier request -> when that request was given up, in
        # monotonic ns
        self._suspects: dict[str | int, int] = {}
        self._loop.add_reader(port.fd, self._received)

    async def run(
        self, requests: Sequence[Request], results: list[Answer | LineError], options: RequestOptions
    ) -> LineError | None:
        """Send ``requests`` from index ``len(results)`` on, and append the answers to ``results``. Stops at the first
        error and returns it; None: there was no error.
        """
        while len(results) < len(requests):
            request = requests[len(results)]
            if isinstance(request, StepRequest) and (trouble := await self._steps_silence(request)) is not None:
                return trouble
            answer = await self._ask(request, options)
            while isinstance(request, StepRequest) and isinstance(answer, Answer):
                following = request.then(answer.payload)
                if following is None:
                    answer = answer._replace(suspect=answer.suspect or self._steps_late)
                    self._steps_late = False
                    break
                request, answer = following, await self._ask(following, options)
            if isinstance(answer, LineError):
                return answer
            results.append(answer)
        return None

    def abandon(self) -> None:
        """Forget the request of a cancelled caller. If its answer still arrives, the answer is dropped."""
        if self._request is not None:
            self._suspects[self._request.unit] = self._clock()[1]
            self._request = None

    def close(self) -> None:
        """Close the port. If a caller waits for an answer, it gets a LineDown."""
        self._loop.remove_reader(self.port.fd)
        self.port.close()
        self._request = None
        self._finish(LineDown("closed", where=self.port.where))

    async def _ask(self, request: Request, options: RequestOptions) -> Answer | LineError:
        char_s, quiet_s = self._char_s, options.quiet_s
        old, new = self.port.setting, options.setting
        step = request if isinstance(request, StepRequest) else None
        if step is not None and step.quiet_s is not None:
            quiet_s = step.quiet_s
        if new is not None and old is not None:
            # the silence depends on the setting: before a switch to another setting, wait for the longer of both
            # silences
            if new != old:
                quiet_s = max(quiet_s, old.quiet_s)
            char_s = new.char_s
        trouble = await self._silence(request, quiet_s)
        if trouble is not None:
            return trouble
        if new is not None and new != old and (broken := self._switch(new)) is not None:
            return broken
        self._buffer = b""
        self._request = request
        self._echo_due = request.frame if self._echo else b""
        done: asyncio.Future[Answer | LineError] = self._loop.create_future()
        self._done = done
        if (broken := self._send(request)) is not None:
            return broken
        wire_s = (len(request.frame) + request.expect) * char_s
        longest_s, timeout_s = LONGEST_NOISE_S, options.timeout_s
        try:
            if step is not None:
                if step.answer_setting is not None:
                    if (broken := await self._switch_after(step, char_s, done)) is not None:
                        return broken
                    char_s = step.answer_setting.char_s
                    wire_s = step.expect * char_s
                longest_s, self._answer_char_s = LONGEST_PAUSES_S, char_s or _SLOWEST_CHAR_S
                timeout_s = max(timeout_s, step.least_s)
            deadline_s = timeout_s + wire_s
            self._give_up_ns = self._clock()[1] + int((deadline_s + longest_s) * 1e9)
            self._timer = self._loop.call_later(deadline_s, self._expire, done, request, options)
            return await done
        finally:
            self._cancel_timers()
            self._trace_rest()
            if not done.done() or done.cancelled():
                self.abandon()

    def _cancel_timers(self) -> None:
        """Cancel the timers of a request. While ``_settling`` is set, the next request would not start its own."""
        for timer in (self._timer, self._settling):
            if timer is not None:
                timer.cancel()
        self._timer = self._settling = None

    def _switch(self, setting: SerialSetting) -> LineError | None:
        try:
            self.port.apply(setting)
        except OSError as error:
            return self._break(down(self.port.where, error, f"cannot switch to the serial setting {setting}"))
        return None

    async def _switch_after(
        self, step: StepRequest, char_s: float, done: asyncio.Future[Answer | LineError]
    ) -> LineError | None:
        """Switch to the speed of the answer as soon as the last bit of the request has been sent."""
        setting = step.answer_setting
        assert setting is not None
        if self.port.setting is None:
            self._request = None
            return LineDown(
                f"cannot switch to the serial setting {setting}",
                where=self.port.where,
                hint="The serial setting can be changed only if the line is a serial port of this machine",
            )
        rest_s = len(step.frame) * char_s
        give_up_ns = self._clock()[1] + int((rest_s + LONGEST_NOISE_S) * 1e9)
        try:
            while rest_s:
                await asyncio.sleep(rest_s)
                if done.done():  # the port broke during the wait
                    break
                rest_s = char_s if self.port.unsent() and self._clock()[1] < give_up_ns else 0.0
        except OSError as error:
            return self._break(down(self.port.where, error, "sending failed"))
        return None if done.done() else self._switch(setting)

    def _send(self, request: Request) -> LineError | None:
        try:
            sent = self.port.write(request.frame)
        except BlockingIOError:  # the output buffer is full
            sent = 0
        except OSError as error:
            return self._break(down(self.port.where, error, "sending failed"))
        if sent != len(request.frame):
            return self._break(down(self.port.where, None, "sending failed: the port accepts no more bytes"))
        if not request.frame:  # this step sends nothing, it only listens
            return None
        self._stats.sent[request.function] = self._stats.sent.get(request.function, 0) + 1
        if self._trace is not None:
            self._trace.put(SENT, request.frame, self._clock()[0])
        return None

    async def _silence(self, request: Request, quiet_s: float) -> LineError | None:
        """Wait until the line has been silent for ``quiet_s``, and until a late answer of this unit can no longer
        arrive.
        """
        late_ns = self._late_until.pop(request.unit, 0)
        quiet_ns = int(quiet_s * 1e9)
        begin = now = self._clock()[1]
        while True:
            free_ns = max(self._active_ns + quiet_ns, late_ns)
            if now >= free_ns:
                return None
            if now - max(begin, late_ns) > LONGEST_NOISE_S * 1e9 + quiet_ns:
                return FrameError(
                    f"the request was not sent: for {LONGEST_NOISE_S:g} s the line carried other bytes without a pause",
                    where=request.where,
                    hint="Is there another master on the bus?",
                )
            waiter = self._loop.create_future()
            timer = self._loop.call_later((free_ns - now) / 1e9, _wake, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
            now = self._clock()[1]

    async def _steps_silence(self, request: Request) -> LineError | None:
        """Before a multi-step query, wait until a late answer to the previous query can no longer be mistaken for its
        answer.

        The answer to a first step does not contain the device's address, so the wait is needed before a query to any
        device. There are two cases:

        - No bytes arrive: the query may start ``LATE_STEPS_S`` after the previous query was given up.
        - A late answer arrives: it is dropped. But the meter that sent it waits for the next step, and may then send
          its data without a request. So the line must be silent for ``AFTER_LATE_S`` after that.

        If ``LONGEST_LATE_S`` pass without such a silence, the query fails.
        """
        given_up_ns = self._silent_step_ns
        if not given_up_ns:
            return None
        while True:
            now = self._clock()[1]
            is_late = self._active_ns > given_up_ns
            free_ns = self._active_ns + int(AFTER_LATE_S * 1e9) if is_late else given_up_ns + int(LATE_STEPS_S * 1e9)
            self._steps_late |= is_late and now < free_ns
            if now >= free_ns:
                self._silent_step_ns = 0
                return None
            if now - given_up_ns > LONGEST_LATE_S * 1e9:
                self._silent_step_ns = now
                what = f"a late answer to the previous request did not end within {LONGEST_LATE_S:g} s"
                return FrameError(what, where=request.where, hint="Is there another master on the bus?")
            await asyncio.sleep((free_ns - now) / 1e9)

    def _received(self) -> None:
        utc_ns, mono_ns = self._clock()
        try:
            data = self.port.read(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(down(self.port.where, error, "receiving failed"))
            return
        if not data:
            self._break(down(self.port.where, None, "connection lost"))
            return
        self.silent = 0
        self._active_ns = mono_ns
        request = self._request
        if request is None:
            self._unasked(data, utc_ns, mono_ns)
            return
        step = request if isinstance(request, StepRequest) else None
        if self._trace is not None:
            if step is None:
                self._trace.put(RECEIVED, data, utc_ns)
            else:
                self._trace_piece(data, utc_ns)
        if self._echo_due:
            data = self._without_echo(data, request.frame)
        most, whole = (step.most_bytes, step.most_bytes) if step else (_MOST_BUFFERED, request.expect)
        self._buffer = received = (self._buffer + data)[-most:]
        verdict = request.find(received, False)
        if verdict is None:
            if len(received) >= whole and self._settling is None and self._done is not None:
                self._settling = self._loop.call_later(_SETTLED_S, self._settle, self._done, request)
            return
        self._request = None
        if isinstance(verdict, LineError):
            self._finish(verdict)
            return
        suspect = request.unit in self._suspects
        if suspect:
            del self._suspects[request.unit]
        self._finish(Answer(verdict, utc_ns, mono_ns, suspect))

    def _trace_piece(self, data: bytes, utc_ns: int) -> None:
        """Collect bytes before they are put into the trace. So thousands of bytes that arrive one by one become only a
        few frames.
        """
        if not self._untraced:
            self._untraced_ns = utc_ns
        self._untraced += data
        if len(self._untraced) >= MOST_SHOWN:
            self._trace_rest()

    def _trace_rest(self) -> None:
        for at in range(0, len(self._untraced), MOST_SHOWN):
            if self._trace is not None:
                self._trace.put(RECEIVED, self._untraced[at : at + MOST_SHOWN], self._untraced_ns)
        self._untraced = b""

    def _without_echo(self, data: bytes, sent: bytes) -> bytes:
        """Remove our own echo, whose length is known. If bytes differ from the request, there was a collision: they are
        kept.
        """
        due = self._echo_due
        size = min(len(due), len(data))
        if data[:size] != due[:size]:
            self._stats.notes["echo"] = "the adapter's echo of the request is missing, or differs from the request"
            self._echo_due = b""
            # the bytes that were removed as the beginning of the echo are the beginning of something else
            return sent[: len(sent) - len(due)] + data
        self._echo_due = due[size:]
        return data[size:]

    def _unasked(self, data: bytes, utc_ns: int, mono_ns: int) -> None:
        """Count received bytes that answer no request: a late answer, or a frame of another master.

        All pieces of one frame count as one.
        """
        if mono_ns - self._unasked_ns > _ONE_FRAME_NS:
            if any(mono_ns - given_up_ns < LATE_NS for given_up_ns in self._suspects.values()):
                self._stats.stale += 1
            else:
                self._stats.foreign += 1
        self._unasked_ns = mono_ns
        if self._trace is not None:
            self._trace.put(NOISE, data, utc_ns)

    def _settle(self, done: asyncio.Future[Answer | LineError], request: Request) -> None:
        """Give up before the timeout, because enough bytes for a full answer have arrived, but they contain no
        answer.
        """
        self._settling = None
        if done is not self._done or done.done():
            return
        noise = request.noise(self._buffer)
        if noise is None or noise < request.expect:
            return  # the answer may still come. The next bytes start this timer again
        rest_s = _SETTLED_S - (self._clock()[1] - self._active_ns) / 1e9
        if rest_s > 0.001:
            self._settling = self._loop.call_later(rest_s, self._settle, done, request)
            return
        self._request = None
        verdict = self._judged(request)
        if isinstance(verdict, bytes):
            done.set_result(Answer(verdict, *self._clock(), True))
        else:
            done.set_result(verdict or FrameError("the received bytes contain no valid answer", where=request.where))

    def _judged(self, request: Request) -> bytes | LineError | None:
        """The result of a request when no more bytes are expected: the answer's payload, or an error.

        None: the received bytes contain neither.
        """
        verdict = request.find(self._buffer, True)
        if not isinstance(verdict, bytes):
            for scheme in own_schemes():
                if scheme.recognizes(self._buffer):
                    return FrameError(f"received a {scheme.title} frame", where=request.where, hint=scheme.hint)
        return verdict

    def _expire(self, done: asyncio.Future[Answer | LineError], request: Request, options: RequestOptions) -> None:
        if done is not self._done or done.done():
            return
        now_ns = self._clock()[1]
        step = request if isinstance(request, StepRequest) else None
        # a gateway may pause inside a frame for longer than a bus does
        is_inside_frame = step is None and bool(self._buffer) and request.noise(self._buffer) is None
        gap_ns = int(step.gap_s * 1e9) if step else int(_SETTLED_S * 1e9) if is_inside_frame else _ONE_FRAME_NS
        needed_s = len(self._buffer) * self._answer_char_s if step else 0.0
        is_sending = bool(self._buffer) and now_ns - self._active_ns < gap_ns
        if is_sending and now_ns < self._give_up_ns + int(needed_s * 1e9):
            wait_ns = max(self._active_ns + gap_ns - now_ns, _ONE_FRAME_NS)
            self._timer = self._loop.call_later(wait_ns / 1e9, self._expire, done, request, options)
            return  # the device is in the middle of its answer
        self._request = None
        verdict = self._judged(request)
        if isinstance(verdict, bytes):  # bytes that looked like the start of an answer arrived before the real answer
            done.set_result(Answer(verdict, *self._clock(), True))
            return
        if not self._buffer:
            self.silent += 1
        if step is None:
            self._suspects[request.unit] = now_ns
        else:
            self._silent_step_ns = now_ns
            if is_sending:
                size = f"bytes so far: {len(self._buffer)}, transmission time without pauses: {needed_s:.1f} s"
                what = f"bytes still arrive after a minute, with pauses ({size})"
                verdict = FrameError(what, where=request.where, hint="Is there interference, or another master?")
        self._active_ns = max(self._active_ns, now_ns - 1)
        if options.late_s:
            self._late_until[request.unit] = now_ns + int(options.late_s * 1e9)
        waited_s = max(options.timeout_s, step.least_s if step else 0.0)
        done.set_result(verdict or LineTimeout(f"no answer within {round(waited_s, 2):g} s", where=request.where))

    def _break(self, error: LineError) -> LineError:
        self._request = None
        self._finish(error)
        self._lost(self, error)
        return error

    def _finish(self, answer: Answer | LineError) -> None:
        done = self._done
        if done is not None and not done.done():
            done.set_result(answer)


def _wake(waiter: asyncio.Future[None]) -> None:
    """End the wait for ``waiter``, unless it has already ended."""
    if not waiter.done():
        waiter.set_result(None)
