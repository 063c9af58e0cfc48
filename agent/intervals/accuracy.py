"""How far a meter may be off: its accuracy class as people write it, as a share of what it counted."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache

# Of electricity meters at rated conditions: numbers are percent (IEC 62053-21 and -22; S holds from 1 % of the rated
# current on), letters are those of EN 50470-3. With transformers both are off: then one writes the chain's percentage.
_LETTERS: Mapping[str, str] = {"A": "2", "B": "1", "C": "0.5", "D": "0.2"}
MOST = Decimal(20)
EXAMPLES = '"0.5S", "1", "B", or a percentage of the whole chain such as "1.2 %"'


@lru_cache(maxsize=256)
def limit(text: str) -> Decimal | None:
    """The largest error as a share of the amount: 0.005 of "0.5S"; None of what is no class."""
    plain = text.strip()
    if plain in _LETTERS:
        plain = _LETTERS[plain]
    elif plain.endswith("%"):
        plain = plain[:-1].strip()
    else:
        plain = plain.removesuffix("S")
    try:
        percent = Decimal(plain)
    except InvalidOperation:
        return None
    return percent / 100 if plain[:1].isdigit() and percent.is_finite() and 0 < percent <= MOST else None
