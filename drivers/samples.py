"""Reads recorded answers exactly as the driver reads them. Used for samples of profiles and for dumps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from drivers.line import LineConfig, open_line
from drivers.model import PACES, DeviceSpec, Point, Reading
from drivers.profile import Profile
from drivers.registry import driver_class, protocol_of
from ext.ring import Ring


def read_sample(
    profile: Profile,
    points: tuple[Point, ...],
    words: Mapping[int, Mapping[int, int]] | None = None,
    frames: Mapping[str, str] | None = None,
) -> dict[str, Reading]:
    """Return point name -> reading. A point is left out if its registers or frames are missing.

    Args:
        words: for a protocol with registers: function -> address -> word.
        frames: for other protocols: query -> hex of its answer, which may consist of several frames.

    Raises ValueError if the hex is invalid or has no valid frame, LineError if the answer is a refusal, and ConfigError
    if the driver cannot read samples.
    """
    address = protocol_of(profile.protocol).any_address
    periods = (0,) * len(PACES)
    spec = DeviceSpec(
        "sample", "", address, profile.protocol, profile.id, points, periods, impossible=profile.impossible
    )
    line = open_line(LineConfig("sample", "serial:/dev/null"))  # the line is never opened, because nothing is sent
    device = driver_class(profile.protocol)(spec, line, cast(Ring, None), 0)
    return device.read_sample(words or {}, frames or {})
