"""Keeps the memory of the C allocator small. With a C library other than glibc, both functions do nothing."""

def stay_small() -> None:
    """Use one arena for all threads, and map large blocks separately. Call this before threads start.

    By default, glibc gives every thread its own arena, with its own unused space. Our threads do not need this, because
    they allocate little, and seldom at the same time."""

def give_back() -> bool:
    """Give free memory back to the kernel. Returns True if some was given back."""
