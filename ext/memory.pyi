"""Keeps the C allocator small. On a C library other than glibc both do nothing."""

def stay_small() -> None:
    """One arena for all threads, and large blocks mapped on their own: to be called before threads start.

    glibc gives every thread an arena of its own, each with its own holes; our threads allocate little and seldom at once."""

def give_back() -> bool:
    """Give free memory back to the kernel. True if some was."""
