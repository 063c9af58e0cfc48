"""Text in the form of /proc/self/mountinfo."""

from __future__ import annotations

from pathlib import Path


def mount_point(folder: Path) -> str:
    """A folder as the kernel writes it. It separates fields by spaces, so it writes a space as an octal number."""
    return str(folder).replace("\\", "\\134").replace(" ", "\\040")
