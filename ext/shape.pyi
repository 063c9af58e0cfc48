"""The records of a pack against the pieces of one before it: where all but the numbers is the same, nothing is parsed."""

def fit(
    raw: bytes, start: int, end: int, pieces: tuple[bytes, ...], odd: tuple[int, ...], /
) -> list[bytes] | None:
    """Cut ``raw[start:end]`` at each ``},{"n":"``, and hold what lies between against the pieces of a shape.

    A plain piece must be followed by a JSON number, and nothing else. Numbers of 10^15 and more, and those with a
    positive exponent, fit no shape.

    Args:
        pieces: of plain records, ``bytes`` each: from the name up to the number.
        odd: places among all pieces that may hold anything, in ascending order.

    Returns:
        The pieces in the odd places; None where anything but the numbers differs.

    Raises:
        IndexError: ``start`` and ``end`` are not within ``raw``.
        TypeError: a piece is no ``bytes``.
    """
