"""A library that recomputes signed results from exported packs and compares them, digit by digit.

found = recompute([Path("june/")])
found.agree, found.differ, found.unknown, found.as_dict()
"""

from agent.recompute.compare import Recomputed, recompute

__all__ = ["Recomputed", "recompute"]
