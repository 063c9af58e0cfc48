"""Tells whether it is dark at a site. In the dark, a silent photovoltaic inverter is asleep, not broken.

Source of the formulas: NOAA Global Monitoring Laboratory, "General Solar Position Calculations". The elevation is right
to half a degree, which corresponds to two minutes at dawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

# Inverters start some time after sunrise and stop some time before sunset; on dull days they start later and stop
# earlier.
# The limit of 5 degrees allows for about 25 minutes at 30 degrees of latitude. At any other time of the day, silence is
# never treated as sleep.
DARK_BELOW_DEG = 5.0
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Night:
    """The nights of one place. Latitude and longitude are in degrees; north and east are positive."""

    latitude: Decimal
    longitude: Decimal

    def sun_deg(self, utc_ms: int) -> float:
        """Elevation of the sun above the horizon, in degrees, without refraction."""
        days, rest_ms = divmod(utc_ms, _DAY_MS)
        hour = rest_ms / 3_600_000
        # days since the start of 1970. From 1901 to 2099, every four years have 1461 days. An error below a day is
        # harmless
        day_of_year = (days % 1461) % 365.25
        angle = 2 * math.pi / 365.25 * (day_of_year + (hour - 12) / 24)
        time_min = 229.18 * (
            0.000075
            + 0.001868 * math.cos(angle)
            - 0.032077 * math.sin(angle)
            - 0.014615 * math.cos(2 * angle)
            - 0.040849 * math.sin(2 * angle)
        )
        declination = (
            0.006918
            - 0.399912 * math.cos(angle)
            + 0.070257 * math.sin(angle)
            - 0.006758 * math.cos(2 * angle)
            + 0.000907 * math.sin(2 * angle)
            - 0.002697 * math.cos(3 * angle)
            + 0.00148 * math.sin(3 * angle)
        )
        hour_angle = math.radians((60 * hour + time_min + 4 * float(self.longitude)) / 4 - 180)
        latitude = math.radians(float(self.latitude))
        height = math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(
            hour_angle
        )
        return math.degrees(math.asin(max(-1.0, min(1.0, height))))

    def is_dark(self, utc_ms: int) -> bool:
        """Whether the sun is too low for an inverter to wake up."""
        return self.sun_deg(utc_ms) < DARK_BELOW_DEG
