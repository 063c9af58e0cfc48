"""Modbus frames: requests, and how an answer is found in a byte stream. No I/O.

Only reads can be built: the functions 1, 2, 3, 4 and 43/14 (read device identification). Source for the silence between
frames (t3.5, ``drivers.serial_setting``): MODBUS over serial line 1.02, 2.5.1.1.
"""

from __future__ import annotations

from collections.abc import Mapping

from drivers.framing import crc16, crc_ok
from drivers.modbus import FRAMES
from drivers.model import DeviceException, FrameError, GatewayTimeout, LineError, MismatchError

READ_FUNCTIONS: Mapping[int, str] = {int(name.removeprefix("function ")): what for name, what in FRAMES.items()}
EXCEPTIONS: Mapping[int, str] = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge: the device is still processing the request",
    6: "busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target failed to respond",
}
BUSY = frozenset((5, 6))
MAX_ADU = 260


class ModbusRequest:
    """A read from one unit. Its frames for RTU and for MBAP are prepared in advance.

    Args:
        unit: 0 to 255 (over a bus 1 to 247; direct TCP devices also use 0 and 255).
        pdu: function code and its parameters, as pymodbus encodes them.
        payload_bytes: value of the byte count in the expected answer; 0 if the size varies (function 43).
        where: the device as messages name it, such as "cabinet-2 unit 7".

    Raises:
        ValueError: any function that is not a read. Frames of this protocol are built only here.
    """

    __slots__ = ("_head", "_sized", "expect", "frame", "function", "head", "pdu_bytes", "tail", "unit", "where")

    def __init__(self, unit: int, pdu: bytes, payload_bytes: int, where: str) -> None:
        if pdu[0] not in READ_FUNCTIONS or (pdu[0] == 43 and pdu[1:2] != b"\x0e"):
            raise ValueError(
                f"{where}: function {pdu[0]} is not a read function; "
                f"only the functions {sorted(READ_FUNCTIONS)} may be sent"
            )
        if not 0 <= unit <= 255 or not 0 <= payload_bytes <= 250:
            raise ValueError(f"{where}: unit {unit} or answer of {payload_bytes} bytes is impossible")
        self.unit, self.function, self.where = unit, pdu[0], where
        body = bytes((unit,)) + pdu
        self.frame = body + crc16(body).to_bytes(2, "little")
        self.tail = b"\x00\x00" + len(body).to_bytes(2, "big") + body
        self._sized = payload_bytes > 0
        # the first two bytes of an answer
        self.head = bytes((self.function, payload_bytes)) if self._sized else b"\x00"
        self.pdu_bytes = 2 + payload_bytes
        self.expect = 5 + payload_bytes if self._sized else 64

    @property
    def registers(self) -> tuple[int, int, int] | None:
        """The registers that it reads, as (function, address, count). None for a read of the identification."""
        pdu = self.frame[1:6]
        return (pdu[0], pdu[1] << 8 | pdu[2], pdu[3] << 8 | pdu[4]) if self._sized else None

    def judge(self, pdu: bytes) -> bytes | LineError:
        """The payload of a PDU that answers this request over MBAP, or the error in the PDU."""
        function = pdu[0] if pdu else 0
        if function == self.function | 0x80 and len(pdu) >= 2:
            return self.refusal(pdu[1])
        if function != self.function:
            return self._mismatch(f"answer has function {function}, expected {self.function}")
        if not self._sized:
            right = self._identity_bytes(pdu, 0) == len(pdu)
            return pdu[1:] if right else self._mismatch("the identification in the answer has a wrong length")
        if pdu[:2] != self.head or len(pdu) != self.pdu_bytes:
            count = pdu[1] if len(pdu) > 1 else 0
            return self._mismatch(
                f"answer announces {count} data bytes ({len(pdu) - 2} received), expected {self.pdu_bytes - 2}"
            )
        return pdu[2:]

    def refusal(self, code: int) -> LineError:
        """The error for an exception answer. The exception "no response" from a gateway means that the device is
        silent.
        """
        what = EXCEPTIONS.get(code, "unknown exception")
        if code in (10, 11):
            return GatewayTimeout(f"the gateway answers with exception {code:02X}h, {what}", where=self.where)
        busy = code in BUSY
        return DeviceException(
            f"the device answers with exception {code:02X}h, {what}", where=self.where, code=code, busy=busy
        )

    def judge_from(self, unit: int, pdu: bytes) -> bytes | LineError:
        """Check the unit that the answer names as its sender, then call ``judge``."""
        if unit != self.unit:
            return self._mismatch(f"answer is from unit {unit}, expected unit {self.unit}")
        return self.judge(pdu)

    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        """Find the answer in the bytes from an RTU line. Noise and frames of other devices are skipped.

        None means that more bytes are needed: no answer, or only a part of it, has arrived. With ``final`` no more
        bytes will come. Then an error is returned, or None if no bytes were received.
        """
        size, at, unit, function = len(received), 0, self.unit, self.function
        seen: LineError | None = None
        while at + 1 < size:
            if received[at] != unit or received[at + 1] & 0x7F != function:
                at = self._past_foreign(received, at)
                continue
            need = self._length(received, at)
            if at + need > size:
                if not final and self._is_wanted(received, at):
                    return self._after_incomplete(received, at)
                at += 1
                continue
            frame = received[at : at + need]
            if not crc_ok(frame):
                if self._is_wanted(received, at):
                    seen = seen or FrameError(f"the answer of {need} bytes has a wrong CRC", where=self.where)
                at += 1
            elif frame[1] & 0x80:
                return self.refusal(frame[2])
            elif self._is_wanted(received, at):
                return frame[3:-2] if self._sized else frame[2:-2]
            else:  # a valid frame, but the answer to another request: it is late, or for another master
                seen = self._mismatch(f"answer announces {frame[2]} data bytes, expected {self.pdu_bytes - 2}")
                at += need
        if not final or not received:
            return None
        return seen or FrameError(f"received {size} bytes, but no frame from unit {self.unit}", where=self.where)

    def _after_incomplete(self, received: bytes, at: int) -> bytes | LineError | None:
        """A shorter answer after ``at``, where an incomplete answer seems to begin: these bytes may be noise."""
        heads = [bytes((self.unit, self.function | 0x80)), *([] if self._sized else [received[at : at + 2]])]
        for head in heads:
            start = received.find(head, at + 1)
            while start >= 0:
                end = start + self._length(received, start)
                if end <= len(received) and crc_ok(received[start:end]):
                    is_refusal = received[start + 1] & 0x80
                    return self.refusal(received[start + 2]) if is_refusal else received[start + 2 : end - 2]
                start = received.find(head, start + 1)
        return None

    def noise(self, received: bytes) -> int | None:
        """See ``drivers.line.Request``."""
        size, at, noise = len(received), 0, 0
        while at + 1 < size:
            end = at + len(self.frame) if received.startswith(self.frame, at) else self._past_foreign(received, at)
            if received[at] == self.unit and received[at + 1] & 0x7F == self.function:
                need = self._length(received, at)
                if at + need > size and self._is_wanted(received, at):
                    return None
                if at + need <= size and crc_ok(received[at : at + need]):
                    end = max(end, at + need)
            elif not noise and self._begins_foreign(received, at):
                return None
            noise += end == at + 1
            at = end
        return noise + size - at

    @staticmethod
    def _begins_foreign(received: bytes, at: int) -> bool:
        """Whether an incomplete answer of another unit may begin here."""
        is_read = 0 < received[at] <= 247 and received[at + 1] in (1, 2, 3, 4)
        return is_read and (at + 2 >= len(received) or at + 5 + received[at + 2] > len(received))

    def _is_wanted(self, received: bytes, at: int) -> bool:
        if received[at + 1] & 0x80 or not self._sized:
            return True
        return at + 2 >= len(received) or received[at + 2] == self.head[1]

    def _length(self, received: bytes, at: int) -> int:
        if received[at + 1] & 0x80:
            return 5
        if self._sized:
            return 5 + received[at + 2] if at + 2 < len(received) else 5
        return self._identity_bytes(received, at + 1) + 3

    @staticmethod
    def _past_foreign(received: bytes, at: int) -> int:
        """The position at which the search continues.

        If a valid answer of another unit begins at ``at``, this is the position after that answer. Otherwise it is the
        next byte.
        """
        if received[at] <= 247 and received[at + 1] in (1, 2, 3, 4) and at + 2 < len(received):
            end = at + 5 + received[at + 2]
            if end <= len(received) and crc_ok(received[at:end]):
                return end
        return at + 1

    @staticmethod
    def _identity_bytes(pdu: bytes, at: int) -> int:
        """Size in bytes of the PDU of function 43/14 that begins at ``at``. 999 if there are too few bytes to know the
        size.
        """
        if len(pdu) < at + 7:
            return 999
        end = at + 7
        for _ in range(pdu[at + 6]):
            if len(pdu) < end + 2:
                return 999
            end += 2 + pdu[end + 1]
        return end - at

    def _mismatch(self, what: str) -> MismatchError:
        return MismatchError(
            what, where=self.where, hint="Is there another master on the bus, or do two devices have the same address?"
        )
