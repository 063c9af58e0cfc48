"""A request to a line, and its answer."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from drivers.model import LineError


class Answer(NamedTuple):
    """The payload of one answer, with the time at which its last byte arrived."""

    payload: bytes
    time_ns: int  # time of arrival in UTC ns
    mono_ns: int
    # whether this may be a late answer to another request, on a line whose frames have no transaction ids
    suspect: bool


class Request(Protocol):
    """One request. It can find its own answer among other bytes on the line."""

    @property
    def frame(self) -> bytes:
        """The bytes to send on a line without framing of its own."""

    @property
    def function(self) -> int:
        """The number under which the line counts this request."""

    @property
    def unit(self) -> str | int:
        """The unit that answers. A late answer is recognized by its unit."""

    @property
    def where(self) -> str:
        """The device, as messages name it."""

    @property
    def registers(self) -> tuple[int, int, int] | None:
        """The registers that it reads, as (function, address, count). None if it reads no registers."""

    @property
    def expect(self) -> int:
        """The number of bytes of a full answer. The deadline is computed from it."""

    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        """Find the answer in ``received``. Returns its payload, or an error. None: the answer is not complete yet.

        ``final`` means that no more bytes will come. Then None means that no answer was received.
        """

    def noise(self, received: bytes) -> int | None:
        """The number of bytes that belong to no frame: not to the echo of the request, nor to a frame of another
        device. None: the last bytes are the beginning of a frame, so the rest of it is still to come.
        """
