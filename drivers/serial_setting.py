"""Serial settings such as ``9600 8N1``. No other module parses them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivers.model import ConfigError

BAUD_RATES = (300, 600, 1200, 2400, 4800, 9600, 14400, 19200, 28800, 38400, 57600, 76800, 115200, 230400)
DEFAULT_SERIAL = "9600 8N1"
_SETTING = re.compile(r"([0-9]{1,9})\s+([78])([NEO])([12])")
_NEAR = re.compile(r"([0-9]{3,7})[ ,/-]*([78])[ ,/-]*([NEO])[ ,/-]*([12])")


@dataclass(frozen=True, slots=True)
class SerialSetting:
    """Baud rate and character frame of a serial line."""

    baud: int
    bits: int = 8
    parity: str = "N"  # N (none), E (even) or O (odd)
    stop: int = 1

    @classmethod
    def parse(cls, text: str, where: str) -> SerialSetting:
        """Parse a text such as ``9600 8N1``. Raises ConfigError with a hint that shows the right form."""
        found = _SETTING.fullmatch(text.strip().upper())
        if found is None or int(found[1]) not in BAUD_RATES:
            hint = f'Write the setting like "9600 8N1"; allowed baud rates: {", ".join(map(str, BAUD_RATES))}'
            raise ConfigError(f"invalid serial setting {text!r}", where=where, hint=hint)
        return cls(int(found[1]), int(found[2]), found[3], int(found[4]))

    @property
    def char_bits(self) -> int:
        """The number of bits of one character on the wire, including start and stop bits."""
        return 1 + self.bits + (self.parity != "N") + self.stop

    @property
    def char_s(self) -> float:
        """The time that one character takes on the wire, in seconds."""
        return self.char_bits / self.baud

    @property
    def quiet_s(self) -> float:
        """The silence between frames (t3.5), in seconds."""
        return silence_ns(self.baud) / 1e9

    def __str__(self) -> str:
        return f"{self.baud} {self.bits}{self.parity}{self.stop}"


def silence_ns(baud: int) -> int:
    """The silence between frames (t3.5), in ns. Above 19200 baud it is a fixed time."""
    return 1_750_000 if baud > 19_200 else round(3.5 * 11 * 1e9 / baud)


def nearest_baud(baud: int) -> int:
    """The valid baud rate that was probably meant."""
    return min(BAUD_RATES, key=lambda rate: abs(rate - baud))


def nearest_setting(text: str) -> str:
    """The setting that was probably meant: ``9600 8N1`` for ``9600,8,n,1``. "" if the text does not look like a
    setting.
    """
    found = _NEAR.fullmatch(text.upper())
    return f"{found[1]} {found[2]}{found[3]}{found[4]}" if found else ""
