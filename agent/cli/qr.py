"""Makes QR codes, as half-block characters for a terminal or as SVG for a page."""

from __future__ import annotations

import sys
from typing import Final

# width of the light border of a code on a terminal, in modules; the standard demands four, but two are enough there
BORDER: Final = 2
_HALVES: Final = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}


def terminal_qr(text: str, coloured: bool) -> str:
    """Return a QR code as text. Each line of text has two rows of modules.

    ``coloured``: True for black on white, independent of the terminal's colours.
    """
    import segno

    rows = [list(row) for row in segno.make(text, error="m", micro=False).matrix_iter(border=BORDER)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    begin, end = ("\x1b[30;107m", "\x1b[0m") if coloured else ("", "")
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        cells = "".join(_HALVES[(int(bool(a)), int(bool(b)))] for a, b in zip(upper, lower, strict=True))
        lines.append(f"{begin}{cells}{end}")
    return "\n".join(lines)


def can_show() -> bool:
    """True if the encoding of stdout has the block characters of a code."""
    try:
        "▀▄█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def svg_qr(text: str) -> str:
    """Return a QR code as an inline <svg>, black on white."""
    import segno

    svg: str = segno.make(text, error="m", micro=False).svg_inline(border=4, light="#fff", omitsize=True)
    return svg
