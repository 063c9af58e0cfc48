"""Multi-step queries, such as a sign-on, its identification, and a readout at another speed.

All steps of a query belong to one turn on the line: no other request is sent between them. An error in any step is the
result of the whole query. The next query begins at the device's own setting again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from drivers.model import LineError
from drivers.serial_setting import SerialSetting


class StepRequest(ABC):
    """A ``Request`` that is one step of a query. Its answer may have any length; ``find`` determines where it ends.

    Args:
        frame: the bytes to send; b"": send nothing, only listen.
        function: the number under which the request is counted.
        unit: the unit that answers.
        where: the device, as messages name it.
        quiet_s: silence before the frame; None: as for other requests.
        answer_setting: the serial setting of the answer, if it differs from that of the frame. The line switches when
        the frame has been sent. Only for lines that can switch: ``Line.can_switch``.
        least_s: the longest time that the protocol allows until the answer starts. A shorter timeout is raised to this
        time.
        gap_s: a silence of this length within an answer ends the answer.
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
        """See ``Request.expect``. The result is 1, because only one byte is certain to come."""
        return 1

    @abstractmethod
    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        """See ``Request.find``."""

    def noise(self, received: bytes) -> int | None:
        """See ``Request.noise``. Only a silence of ``gap_s`` ends an answer, so no bytes are looked at."""
        return len(received)

    def then(self, payload: bytes) -> StepRequest | None:
        """The next step after this answer. None if this was the last step; then ``payload`` is the answer to the whole
        query.
        """
        return None
