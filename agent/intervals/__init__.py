"""From readings to energy: counters cut into intervals, with everything that has to be said of an amount.

``query`` and ``sums`` read what was kept; ``Cut`` cuts local time; ``balance`` and ``derived`` work on top of them.
"""

from agent.intervals.cut import Cut
from agent.intervals.query import Book, changes, query
from agent.intervals.rows import FLAW, Flag, IntervalRow, Mark, RoleSum, Source
from agent.intervals.sketch import Rule
from agent.intervals.sums import sums

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
