"""From readings to energy: counters cut into intervals, with the flags of each amount.

``query`` and ``sums`` read stored intervals; ``Cut`` cuts local time; ``balance`` and ``derived`` work on top of them.
"""

from agent.intervals.cut import Cut
from agent.intervals.query import Book, changes, query
from agent.intervals.rows import FLAW, Flag, IntervalRow, Mark, RoleSum, Source
from agent.intervals.sums import sums
from agent.intervals.tracked_points import Rule

__all__ = [
    "FLAW",
    "Book",
    "Cut",
    "Flag",
    "IntervalRow",
    "Mark",
    "RoleSum",
    "Rule",
    "Source",
    "changes",
    "query",
    "sums",
]
