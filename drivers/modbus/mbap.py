"""Modbus TCP: a burst of requests on one connection, with one request outstanding at a time and little work in Python.

pymodbus's framer takes the answers apart. Each request is sent inside the call that delivered the previous answer. So
without errors, no task wakes up between the first request and the last answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import cast

from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU

from drivers.framing import crc_ok
from drivers.line.config import RequestOptions
from drivers.line.deadlines import STEP_S, deadlines_of
from drivers.line.port import CHUNK, Port, down
from drivers.line.request import Answer, Request
from drivers.line.stats import LineStats
from drivers.line.trace import RECEIVED, SENT, FrameTrace
from drivers.modbus.frames import MAX_ADU, ModbusRequest
from drivers.model import FrameError, LineDown, LineError, LineTimeout

_decode = cast(Callable[[bytes], tuple[int, int, int, bytes]], FramerSocket(DecodePDU(False)).decode)
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)  # pymodbus need not log errors, because we raise them
_REMEMBERED = 64  # number of abandoned transaction ids that are remembered, because their late answers may still arrive


class MbapLink:
    """An open Modbus TCP connection. ``run`` sends requests; the owner allows only one ``run`` at a time."""

    def __init__(
        self,
        port: Port,
        clock: Callable[[], tuple[int, int]],
        stats: LineStats,
        trace: FrameTrace | None,
        lost: Callable[[MbapLink, LineError], None],
    ) -> None:
        self.port = port
        self.silent = 0  # number of consecutive timeouts in which not a single byte was received
        self._clock, self._stats, self._lost = clock, stats, lost
        self._trace = trace.put if trace else None
        self._loop = asyncio.get_running_loop()
        self._read, self._write = port.read, port.write
        self._rest = b""
        self._tid = 0
        self._given_up: dict[int, None] = {}
        self._request: ModbusRequest | None = None  # the outstanding request
        self._requests: Sequence[ModbusRequest] = ()
        self._results: list[Answer | LineError] = []
        self._done: asyncio.Future[LineError | None] | None = None
        self._timeout_s = 1.0
        self._quiet_s = 0.0
        self._free_at = 0.0  # nothing is sent before this time of the loop's clock: the device needs a pause
        self._deadline = self._checked_at = 0.0
        self._watch, self._check = deadlines_of(self._loop).add, self._expire  # bound once, not for each request
        self._loop.add_reader(port.fd, self._received)

    def run(
        self, requests: Sequence[Request], results: list[Answer | LineError], options: RequestOptions
    ) -> asyncio.Future[LineError | None]:
        """Send ``requests`` from index ``len(results)`` on, and append the answers to ``results``.

        After an error no further request is sent. The result of the returned future is this error, or None if all
        requests were answered.
        """
        self._requests = cast(Sequence[ModbusRequest], requests)
        self._results = results
        self._timeout_s, self._quiet_s = options.timeout_s, options.quiet_s
        self._done = done = self._loop.create_future()
        if self._quiet_s:
            self._send_in_time()
        else:
            self._send()
        return done

    def abandon(self) -> None:
        """Forget the request of a cancelled caller. If its answer still arrives, the answer is dropped."""
        if self._request is not None:
            self._give_up()
        self._done = None

    def close(self) -> None:
        """Close the connection. If a caller waits for an answer, it gets a LineDown."""
        self._loop.remove_reader(self.port.fd)
        self.port.close()
        self._request = None
        self._finish(LineDown("closed", where=self.port.where))

    def _send_in_time(self) -> None:
        wait_s = self._free_at - self._loop.time()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._send_later, self._done)
        else:
            self._send()

    def _send_later(self, done: asyncio.Future[LineError | None] | None) -> None:
        if done is not None and done is self._done and not done.done():
            self._send()

    def _send(self) -> None:
        request = self._requests[len(self._results)]
        self._tid = tid = self._tid % 0xFFFF + 1
        frame = tid.to_bytes(2, "big") + request.tail
        try:
            sent = self._write(frame)
        except BlockingIOError:  # the output buffer is full
            sent = 0
        except OSError as error:
            self._break(down(self.port.where, error, "sending failed"))
            return
        if sent != len(frame):
            self._break(down(self.port.where, None, "sending failed: the connection accepts no more bytes"))
            return
        self._request = request
        counts = self._stats.sent
        counts[request.function] = counts.get(request.function, 0) + 1
        if self._trace is not None:
            self._trace(SENT, frame, self._clock()[0])
        self._deadline = deadline = self._loop.time() + self._timeout_s
        if not deadline <= self._checked_at < deadline + STEP_S:
            self._checked_at = self._watch(deadline, self._check)

    def _received(self) -> None:
        utc_ns, mono_ns = self._clock()
        try:
            data = self._read(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(down(self.port.where, error, "connection lost"))
            return
        if not data:
            self._break(down(self.port.where, None, "the connection was closed by the other side"))
            return
        self.silent = 0
        self._take(self._rest + data if self._rest else data, utc_ns, mono_ns)

    def _take(self, data: bytes, utc_ns: int, mono_ns: int) -> None:
        self._rest = b""
        while True:
            used, unit, tid, pdu = _decode(data)
            if not used:
                self._incomplete(data)
                return
            if self._trace is not None:
                self._trace(RECEIVED, data[:used], utc_ns)
            request = self._request
            if request is None or tid != self._tid:
                self._unasked(tid)
            elif unit == request.unit and pdu[:2] == request.head and len(pdu) == request.pdu_bytes:
                self._answered(Answer(pdu[2:], utc_ns, mono_ns, False))
            else:
                verdict = request.judge_from(unit, pdu)
                if isinstance(verdict, LineError):
                    self._request = None
                    self._free_at = self._loop.time() + self._quiet_s
                    self._finish(verdict)
                else:
                    self._answered(Answer(verdict, utc_ns, mono_ns, False))
            if used == len(data):
                return
            data = data[used:]

    def _answered(self, answer: Answer) -> None:
        self._request = None
        results = self._results
        results.append(answer)
        if self._quiet_s:
            self._free_at = self._loop.time() + self._quiet_s
        if len(results) == len(self._requests):
            self._finish(None)
        elif self._quiet_s:
            self._send_in_time()
        else:
            self._send()

    def _incomplete(self, data: bytes) -> None:
        """Keep an incomplete frame until more bytes arrive. If the bytes cannot begin a frame, break the connection."""
        if len(data) >= 6 and (data[2] or data[3] or not 2 <= int.from_bytes(data[4:6], "big") <= MAX_ADU - 6):
            self._break(self._no_mbap())
        else:
            self._rest = data

    def _no_mbap(self) -> FrameError:
        hint = "A serial server that passes bytes through needs tcp:// instead of modbus-tcp://"
        return FrameError("the received bytes are not Modbus TCP", where=self.port.where, hint=hint)

    def _unasked(self, tid: int) -> None:
        """Count an answer that was not expected: a late answer, or the answer to another master on this connection."""
        if tid in self._given_up:
            del self._given_up[tid]
            self._stats.stale += 1
        else:
            self._stats.foreign += 1

    def _give_up(self) -> None:
        self._request = None
        self._given_up[self._tid] = None
        if len(self._given_up) > _REMEMBERED:
            del self._given_up[next(iter(self._given_up))]

    def _expire(self) -> None:
        request = self._request
        # a later request has a deadline of its own
        if request is None or self._loop.time() < self._deadline - 0.0005:
            return
        self.silent += 1
        # an RTU refusal is shorter than an MBAP header, so it can only be recognized here
        if len(self._rest) >= 4 and crc_ok(self._rest):
            self._break(self._no_mbap())
            return
        self._give_up()
        self._finish(LineTimeout(f"no answer within {round(self._timeout_s, 2):g} s", where=request.where))

    def _break(self, error: LineError) -> None:
        self._request = None
        done, self._done = self._done, None
        self._lost(self, error)
        if done is not None and not done.done():
            done.set_result(error)

    def _finish(self, trouble: LineError | None) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(trouble)
