"""Results computed again from exported packs, as a library: the same readings, the same formulas, the same digits?

found = recompute([Path("june/")])
found.agree, found.differ, found.unknown, found.as_dict()
"""

from agent.recompute.compare import Recomputed, recompute

__all__ = ["Recomputed", "recompute"]
