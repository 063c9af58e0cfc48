"""Multi-step queries, such as a sign-on, its identification, and a readout at another speed.

The steps of a query are one turn on the line: nothing else is sent between them, and an error in any of them is
the result of the whole query. The next query begins at the device's own setting again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from drivers.model import LineError
from drivers.serial_setting import SerialSetting


class StepRequest(ABC):
    """A ``Request`` that is one step of a query. Its answer may have any length; ``find`` determines its end.

    Args:
        frame: the bytes to send; b"": only listen.
        function: the number under which the request is counted.
        unit: the unit that answers.
        where: the device, as messages name it.
        quiet_s: silence before the frame; None: as for other requests.
        answer_setting: the speed of the answer if it differs from that of the frame; the line switches once the frame
            has left. Only for lines that can switch: ``Line.can_switch``.
        least_s: the time that the protocol allows until the answer starts. A shorter timeout is raised to it.
        gap_s: a silence of this length within an answer ends it.
        most_bytes: length of the longest possible answer.
    """

    registers = None  # a step reads no registers

    def __init__(
        self,
        frame: bytes,
        function: int,
        unit: str,
        where: str,
        *,
        quiet_s: float | None = None,
        answer_setting: SerialSetting | None = None,
        least_s: float = 0.0,
        gap_s: float,
        most_bytes: int,
    ) -> None:
        self.frame, self.function, self.unit, self.where = frame, function, unit, where
        self.quiet_s, self.answer_setting = quiet_s, answer_setting
        self.least_s, self.gap_s, self.most_bytes = least_s, gap_s, most_bytes

    @property
    def expect(self) -> int:
        """See ``Request.expect``; only the first byte is certain."""
        return 1

    @abstractmethod
    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        """See ``Request.find``."""

    def then(self, payload: bytes) -> StepRequest | None:
        """The next step after this answer; None: this was the last step, and ``payload`` answers the query."""
        return None
