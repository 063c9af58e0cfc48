"""The SQL recipes of docs/platform.md, and made-up rows for which the answers were computed by hand.

There are two sites. park7/gw01 lacks packs, park7/gw02 is complete, and park8/gw03 had a device asleep. The packs end
after two days in November 2020.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "platform.md"
DAY_MS = 86_400_000
MONDAY_MS = 1_604_275_200_000  # 2020-11-02T00:00Z
FROM, TO = "2020-10-31", "2020-11-03"

# stream, sequence, from and to in hours after Monday, due, readings, gaps, asleep
PACKS = (
    ("park7/gw01/grid", 1, 0, 12, 1200, 1200, 0, 0),
    ("park7/gw01/grid", 4, 18, 24, 600, 500, 100, 0),  # the two packs before it are missing: 6 hours, 600 readings
    ("park7/gw01/grid", 5, 24, 48, 2400, 2400, 0, 0),
    ("park7/gw02/grid", 1, 0, 24, 2400, 2300, 100, 0),
    ("park7/gw02/grid", 2, 24, 48, 2400, 2400, 0, 0),
    ("park8/gw03/roof", 1, 0, 24, 2400, 1190, 1210, 1200),  # slept for half a day
    ("park8/gw03/roof", 2, 24, 48, 2400, 0, 2400, 0),
)
COMPLETENESS = [  # gateway, day, readings, wanted, percent
    ("park8/gw03", "2020-11-03", 0, 2400, 0.0),
    ("park7/gw01", "2020-11-02", 1700, 2400, 70.83),
]

# stream, point, seconds after Monday, value, unit, quality; a local day of Shanghai begins at 16:00 UTC
READINGS = (
    ("park7/gw01/grid", "ac.energy.import", -28_795, 1.0, "kWh", ""),
    ("park7/gw02/grid", "ac.energy.import", -28_795, 1.0, "kWh", ""),
    ("park7/gw01/grid", "ac.energy.import", 57_590, 10.0, "kWh", ""),
    ("park7/gw01/grid", "ac.energy.import", 57_690, 11.0, "kWh", ""),  # 90 s after midnight
    ("park7/gw02/grid", "ac.energy.import", 57_595, 10.0, "kWh", ""),
    ("park7/gw02/grid", "ac.energy.import", 57_605, 10.5, "kWh", ""),  # 5 s after midnight
    ("park7/gw01/grid", "ac.power.active", 60, 4000.0, "W", ""),
    ("park7/gw01/grid", "ac.power.active", 90, 5000.0, "W", ""),
    ("park7/gw01/grid", "ac.power.active", 100, 9e9, "W", "range"),
    ("park7/gw01/grid", "ac.power.active", 130, 6000.0, "W", ""),
)
LATE = [("park7/gw01/grid", "ac.energy.import", "2020-11-03", 90)]
MINUTES = [("00:01", "W", 4500.0, 2, 1), ("00:02", "W", 6000.0, 1, 0)]

# gateway, id, period, label, first and last day after 1 November (local), value, unit, completeness, sequence
FIGURES = (
    ("park7/gw01", "plain/co2", "month", "2020-11", 0, 3, 30.0, "tCO2", 0.9, 10),
    ("park7/gw01", "plain/co2", "month", "2020-11", 0, 3, 31.0, "tCO2", 0.95, 12),  # signed again
    ("park7/gw02", "plain/co2", "month", "2020-11", 0, 3, 12.0, "tCO2", 1.0, 10),
    ("park8/gw03", "plain/co2", "month", "2020-11", 0, 3, None, "tCO2", 0.0, 10),
    *(("park7/gw01", "plain/co2", "day", f"2020-11-0{n + 1}", n, n + 1, 10.0, "tCO2", 1.0, n + 1) for n in range(3)),
    ("park7/gw02", "plain/co2", "day", "2020-11-01", 0, 1, 6.0, "tCO2", 1.0, 1),
    ("park7/gw02", "plain/co2", "day", "2020-11-02", 1, 2, 5.0, "tCO2", 1.0, 2),
    ("park7/gw02", "plain/peak", "month", "2020-11", 0, 3, 99.0, "kW", 1.0, 10),  # no amount: not in the answers
)
FIGURES_FROM_MS = 1_604_160_000_000  # 2020-11-01T00:00+08:00
DEVIATIONS = [  # gateway, id, month, of the month, of its days, unit, days, percent
    ("park7/gw02", "plain/co2", "2020-11", 12.0, 11.0, "tCO2", 2, 8.33),
    ("park8/gw03", "plain/co2", "2020-11", None, None, "tCO2", 0, None),
]
CARBON = [  # site, month, id, tCO2, gateways, unknown, completeness, signed again
    ("park7", "2020-11", "plain/co2", 43.0, 2, 0, 0.95, 1),
    ("park8", "2020-11", "plain/co2", None, 1, 1, 0.0, 0),
]


def recipes(engine: str, low: str = FROM, high: str = TO) -> dict[str, str]:
    """The statements of one engine by title, with Grafana's macros as Grafana fills them in."""
    text = PAGE.read_text()
    found = dict(re.findall(rf"^\*\*([^*\n]+), {engine}\*\*.*?```sql\n(.*?)```", text, re.MULTILINE | re.DOTALL))
    filled = {
        title: re.sub(r"\$__timeFilter\(([^)]+)\)", rf"\1 BETWEEN '{low}' AND '{high}'", sql)
        for title, sql in found.items()
    }
    return {title: sql.strip().removesuffix(";") for title, sql in filled.items()}
