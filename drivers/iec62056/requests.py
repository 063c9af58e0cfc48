"""The steps of the query for a readout: sign-on, option select, data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drivers.iec62056.frames import (
    BAUDS,
    MOST_BYTES,
    SOH,
    Identification,
    Parser,
    broken,
    build_select,
    build_sign_on,
    find_block,
    find_identification,
)
from drivers.line import SerialSetting, StepRequest
from drivers.model import DeviceException, FrameError, LineError, MismatchError

REACTION_S = 1.5  # the longest time between a message and its answer (IEC 62056-21, 6.3.13)
GAP_S = 1.5  # the longest silence between two characters of a message
_MARGIN_S = 0.2  # added to the timeouts, for delays in adapters and serial servers
LEAST_S = REACTION_S + _MARGIN_S
STANDARD = SerialSetting(300, 7, "E", 1)
# The line counts these requests under these numbers. The code of ACK (06h) is not used, because it would look like a
# Modbus write.
SIGN_ON_FUNCTION, SELECT_FUNCTION = 0x2F, 0x30
_NAK = 0x15


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of the data: the character Z to select, and the serial setting to switch to.

    The setting is None if the line stays at its own setting.
    """

    choice: str
    switch_to: SerialSetting | None = None


SpeedRule = Callable[[Identification], Speed]


def speed_rule(setting: SerialSetting | None, server: str = "") -> SpeedRule:
    """Return the rule that chooses the speed of the data.

    Args:
        setting: the device's setting on a serial line; None if the line cannot switch. If it is 300 baud, the
        standard's sign-on speed, the line switches to the speed that the meter offers. Any other speed is used for the
        data, too.
        server: the configured setting of a line that cannot switch. These meters send 7 bits, so a setting with 8 bits
        cannot be right. Then 300 baud is assumed.
    """
    if setting is None:
        given = SerialSetting.parse(server, "") if server else STANDARD
        baud = (given if given.bits == STANDARD.bits else STANDARD).baud
    elif setting.baud == STANDARD.baud:
        begin = setting
        return lambda found: _offered(found, begin)
    else:
        baud = setting.baud
    return lambda found: Speed(str(BAUDS.index(baud)) if baud in BAUDS else found.speed)


def stay(found: Identification) -> Speed:
    """A ``SpeedRule``: the data are read at the speed of the sign-on."""
    return Speed("0")


def _offered(found: Identification, setting: SerialSetting) -> Speed:
    if found.baud is None or found.baud == setting.baud:
        return Speed("0")
    switched = SerialSetting(found.baud, setting.bits, setting.parity, setting.stop)
    return Speed(found.speed, switched)


class SignOn(StepRequest):
    """The first step. The answer to it is a whole readout, from ``/`` to BCC.

    ``identification`` is the identification received in the latest attempt. ``speed`` is the speed chosen for its data.
    """

    def __init__(self, address: str, where: str, rule: SpeedRule) -> None:
        super().__init__(
            build_sign_on(address),
            SIGN_ON_FUNCTION,
            address,
            where,
            least_s=LEAST_S,
            gap_s=GAP_S + _MARGIN_S,
            most_bytes=MOST_BYTES,
        )
        self._rule = rule
        self.identification: Identification | None = None
        self.speed = Speed("0")

    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        found = find_identification(received)
        if found is not None:
            if not self._data_follow(found):
                return found.raw
            if readouts := Parser().feed(received):
                return readouts[-1].raw
        rest = _without(received, self.frame)
        return FrameError(broken(rest)[2], where=self.where) if final and rest else None

    def then(self, payload: bytes) -> StepRequest | None:
        found = find_identification(payload)
        if found is None or self._data_follow(found):
            return None
        self.identification, self.speed = found, self._rule(found)
        return Data(found, self.unit, self.where, self.speed)

    def _data_follow(self, found: Identification) -> bool:
        """Whether the data follow without a request, at the speed of the sign-on."""
        return found.mode == "A" or (found.mode == "B" and self._rule(found).switch_to is None)


class Data(StepRequest):
    """The second step: receive the data message. In mode C the step first selects the readout; in mode B it sends
    nothing.
    """

    def __init__(self, identification: Identification, unit: str, where: str, speed: Speed) -> None:
        in_mode_c = identification.mode == "C"
        super().__init__(
            build_select(speed.choice) if in_mode_c else b"",
            SELECT_FUNCTION,
            unit,
            where,
            quiet_s=identification.reaction_s if in_mode_c else 0.0,
            answer_setting=speed.switch_to,
            least_s=LEAST_S,
            gap_s=GAP_S + _MARGIN_S,
            most_bytes=MOST_BYTES,
        )
        self._identification = identification

    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        if (block := find_block(received)) is not None:
            return self._identification.raw + block
        rest = _without(received, self.frame)
        if rest == bytes((_NAK,)):
            return DeviceException("the meter refuses a readout", where=self.where, code=_NAK)
        if rest[:1] == bytes((SOH,)) and len(rest) > 2 and final:
            what = "the meter asks for a password instead of sending a readout"
            return MismatchError(
                what,
                where=self.where,
                hint="Set the meter to send its readout without a password; meterhouse never sends a password",
            )
        return FrameError(broken(self._identification.raw + rest)[2], where=self.where) if final and rest else None


def _without(received: bytes, echo: bytes) -> bytes:
    """The received bytes without padding, and without our own message, which an optical head echoes."""
    return received.replace(echo, b"", 1).strip(b"\x00\x7f\xff") if echo else received.strip(b"\x00\x7f\xff")
