"""Reads CSV files that spreadsheet programs saved in UTF-8, UTF-16 or GBK, with one of several delimiters."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path
from typing import Final

from drivers.model import UsageError, clean_text

MAX_BYTES: Final = 4 << 20
MAX_ROWS: Final = 10_000
MAX_CELL: Final = 300  # limit of the characters in a cell
SAVE: Final = "Save the file as CSV UTF-8"
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WORKBOOK: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # first bytes of .xlsx and .xls


def read_rows(path: Path, delimiters: str = "\t;,，|", hint: str = "") -> list[tuple[int, list[str]]]:
    """Return the rows of a file as (line number, cells). Cells are stripped and cut to ``MAX_CELL``. Raises UsageError.

    Args:
        delimiters: the possible delimiters. The file is split at the one that is most frequent in its first line.
        hint: advice in the error for too many lines.
    """
    text = _text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(delimiters, key=first.count)
    if delimiter == "，":
        text, delimiter = text.replace("，", ","), ","
    # the csv reader must find the line ends, because it knows all kinds: an older Excel on a Mac writes \r alone
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    line = 1  # number of the line where the row begins; a row has several lines if a quoted cell has several lines
    try:
        for cells in reader:
            if len(rows) >= MAX_ROWS:
                raise UsageError(f"the file has more than {MAX_ROWS} lines", where=str(path), hint=hint)
            rows.append((line, [clean_text(" ".join(cell.split()), MAX_CELL) for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        what = f"a cell has more than {csv.field_size_limit()} characters"
        raise UsageError(what, where=f"{path}:{line}", hint="Is the closing quotation mark missing?") from error
    return rows


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(raw) > MAX_BYTES:
        raise UsageError("is larger than 4 MiB", where=str(path), hint="Is this the right file?")
    if raw.startswith(_WORKBOOK):
        hint = "Save the file as CSV: in Excel, File, Save as, CSV UTF-8"
        raise UsageError("this is a workbook, not a CSV file", where=str(path), hint=hint)
    if b"\0" in raw and not raw.startswith(_UTF_16):
        raise UsageError("this is not a CSV file", where=str(path), hint=SAVE)
    # UTF-8 is tried first, because most UTF-8 text is also valid GBK, but with another meaning
    encodings = ["utf-8", "gb18030"]
    if raw.startswith(_UTF_16):
        encodings = ["utf-16"]
    elif raw.startswith(codecs.BOM_UTF8):
        raw, encodings = raw.removeprefix(codecs.BOM_UTF8), ["utf-8"]
    good = 0  # number of bytes before the first error, in the encoding that could decode most bytes
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            good = max(good, error.start)
    line = len((raw[:good] + b".").splitlines())
    raise UsageError("the file is not text in UTF-8, UTF-16 or GBK", where=f"{path}:{line}", hint=SAVE)
