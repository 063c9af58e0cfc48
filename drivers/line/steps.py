"""Questions of several steps, such as a sign-on, its identification, and a readout at another speed.

The steps of a question are one turn of the line: nothing else is asked between them, and an error in any of them is
the answer to the whole question. The next question begins at the device's own setting again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from drivers.model import LineError
from drivers.serial_setting import SerialSetting


class StepRequest(ABC):
    """A ``Request`` that is one step of a question. Its answer may have any length: it ends where ``find`` says so.

    Args:
        frame: what is sent; b"" only listens.
        function: the name under which it is counted.
        unit: who answers.
        where: for messages.
        quiet_s: silence before the frame; None: as for other requests.
        answer_setting: the speed of the answer, where it is not that of the frame; the line switches once the frame
            is out. Only for lines that can: ``Line.can_switch``.
        least_s: the time that the protocol grants to the start of an answer; shorter time-outs do not apply.
        gap_s: a silence of this length within an answer ends it.
        most_bytes: no answer is longer.
    """

    registers = None  # it reads none

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
        """As ``Request.expect``: at least one byte."""
        return 1

    @abstractmethod
    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        """As ``Request.find``."""

    def then(self, payload: bytes) -> StepRequest | None:
        """The next step after this answer; None: ``payload`` is the answer to the question."""
        return None
