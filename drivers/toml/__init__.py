"""Reads TOML files with hand-written rules. All complaints are reported together, each with file, line, key and
hint.
"""

from drivers.toml.lines import KeyPath
from drivers.toml.parsers import InvalidValue, did_you_mean, nearest, show, suggestion
from drivers.toml.table import (
    Complaint,
    Complaints,
    Layer,
    TomlSource,
    TomlTable,
    parse_source,
    read_source,
    toml_loads,
)

__all__ = [
    "Complaint",
    "Complaints",
    "InvalidValue",
    "KeyPath",
    "Layer",
    "TomlSource",
    "TomlTable",
    "did_you_mean",
    "nearest",
    "parse_source",
    "read_source",
    "show",
    "suggestion",
    "toml_loads",
]
