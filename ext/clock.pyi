"""Reads the state of the kernel's clock (adjtimex, read only)."""
from typing import NamedTuple

class ClockState(NamedTuple):
    synced: bool | None  # None: the kernel does not tell (EPERM under a seccomp filter)
    error_us: int | None  # estimated maximum error (maxerror)

def state() -> ClockState: ...
def now() -> tuple[int, int]:
    """(UTC ns, monotonic ns), read back to back."""
