"""Reads the state of the kernel's clock with adjtimex. It never sets the clock."""
from typing import NamedTuple

class ClockState(NamedTuple):
    synced: bool | None  # None: the kernel does not tell it, for example because a seccomp filter forbids the call
    error_us: int | None  # the kernel's estimate of the maximum error (maxerror), in us; None: not known

def state() -> ClockState: ...
def now() -> tuple[int, int]:
    """Return (UTC ns, monotonic ns). The two clocks are read directly one after the other."""
