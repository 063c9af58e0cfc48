"""A request to a line, and its answer."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from drivers.model import LineError


class Answer(NamedTuple):
    """The payload of one answer, stamped when its last byte arrived."""

    payload: bytes
    time_ns: int  # UTC
    mono_ns: int
    suspect: bool  # it may be a late answer to another request, as frames on this line have no transaction ids


class Request(Protocol):
    """One request, and how to tell its answer from other bytes on the line."""

    @property
    def frame(self) -> bytes:
        """The bytes to send on a line that carries bytes."""

    @property
    def function(self) -> int:
        """The number under which sent requests are counted."""

    @property
    def unit(self) -> str | int:
        """The unit that answers; late answers are matched by it."""

    @property
    def where(self) -> str:
        """The device, as messages name it."""

    @property
    def registers(self) -> tuple[int, int, int] | None:
        """(function, address, count) of the registers it reads; None if it reads none."""

    @property
    def expect(self) -> int:
        """Number of bytes of a full answer, from which the deadline is computed."""

    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        """The answer's payload, or an error. None: the answer is not complete.

        With ``final`` no more bytes will come; None then means that no answer was received.
        """
