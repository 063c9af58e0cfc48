"""The texts of the record of commissioning, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from agent.cli.common import show_unit
from drivers.texts import Catalogue

# a wrong unit or decimal point multiplies a value by ten to the power of one of these
POWERS: Final = (3, -3, 1, -1, 2, -2, 6, -6)

WORDS: Final = Catalogue(__package__, "handover")


def verdict(entry: Mapping[str, object]) -> str:
    """Return the key in ``WORDS`` for the result of a device's comparison."""
    if "reading" in entry and entry.get("state") not in ("alive", "asleep"):
        return "silent"  # an old reading proves nothing about the present state of the device
    if "agrees" in entry:
        return "agrees" if entry["agrees"] else "differs"
    return "not compared" if "reading" in entry else "no reading"


def display_text(entry: Mapping[str, Any]) -> str:
    """Return the displayed value, then "±RESOLUTION" if the display has fewer digits; "" if there is no value."""
    step = entry.get("resolution", "")
    return f"{entry.get('display', '')} ±{step}" if step else str(entry.get("display", ""))


def why_different(entry: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Return a text if a transformer ratio or power of ten explains why reading and display differ; "" if none does."""
    from agent.service.control.attest import compare

    if entry.get("agrees", True) or not Decimal(entry["display"]):
        return ""
    ratio, read, step = Decimal(1), Decimal(entry["reading"]["v"]), entry.get("resolution", "")
    for factor in entry.get("ratio", {}).values():
        ratio *= Decimal(factor)
    if ratio != 1 and compare(format(read / ratio, ".6f"), entry["display"], step)[1]:
        return words["secondary"].format(device=entry["device"], ratio=format(ratio.normalize(), "f"))
    # with so few digits, the match could be a coincidence
    if len(Decimal(entry["display"]).normalize().as_tuple().digits) < 3:
        return ""
    for power in POWERS:
        if compare(format(read.scaleb(power), "f"), entry["display"], step)[1]:
            factor = format(Decimal(1).scaleb(power), "f")
            return words["scaled"].format(device=entry["device"], factor=factor, unit=show_unit(entry["reading"]["u"]))
    return ""
