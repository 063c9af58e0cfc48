"""Recorded answers of devices, read as their driver reads them: for samples of profiles and for dumps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from drivers.line import LineConfig, open_line
from drivers.model import DeviceSpec, Point, Reading
from drivers.profile import Profile
from drivers.registry import driver_class, protocol_of
from ext.ring import Ring


def read_sample(
    profile: Profile,
    points: tuple[Point, ...],
    words: Mapping[int, Mapping[int, int]] | None = None,
    frames: Mapping[str, str] | None = None,
) -> dict[str, Reading]:
    """Point name -> reading; points whose registers or frames are not there are left out.

    Args:
        words: of a protocol with registers: function -> address -> word.
        frames: of others: question -> hex of its answer, several frames in a row where there are.

    Raises ValueError where there is no hex or no sound frame, LineError where the answer is a refusal, ConfigError
    where the driver reads no samples.
    """
    address = protocol_of(profile.protocol).any_address
    spec = DeviceSpec("sample", "", address, profile.protocol, profile.id, points, (0, 0, 0, 0, 0))
    line = open_line(LineConfig("sample", "serial:/dev/null"))  # never opened: nothing is asked
    device = driver_class(profile.protocol)(spec, line, cast(Ring, None), 0)
    return device.read_sample(words or {}, frames or {})
