"""Decides which zeros of a visit are not readings, because a profile declares that they are impossible together."""

from __future__ import annotations

from collections.abc import Sequence, Set
from fnmatch import fnmatchcase

from drivers.model import ImpossibleZeros, Point


def matching(points: Sequence[Point], globs: Sequence[str]) -> frozenset[int]:
    """The numbers of the points whose names match any of ``globs``."""
    return frozenset(n for n, point in enumerate(points) if any(fnmatchcase(point.name, glob) for glob in globs))


class ZeroGuard:
    """The rules of one device. A rule applies only if the device has all points that the rule needs.

    A rule that needs a point that this firmware lacks, or that is read in other visits, would find zeros that are
    possible.
    """

    def __init__(self, points: Sequence[Point], rules: Sequence[ImpossibleZeros]) -> None:
        # points that cannot all be 0, and points of which a 0 is then no reading; empty if no rule applies
        self.rules = [
            (matching(points, rule.zeros_together), matching(points, rule.gaps))
            for rule in rules
            if all(matching(points, (glob,)) for glob in rule.zeros_together)
        ]

    def lost(self, zeros: Set[int]) -> frozenset[int]:
        """The points whose values are not readings. ``zeros``: all points that were 0 in the same visit."""
        return frozenset(n for needed, gaps in self.rules if needed <= zeros for n in gaps & zeros)
