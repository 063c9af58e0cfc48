"""TOML files read by hand-written rules: every complaint at once, each with file, line, key and hint."""

from drivers.toml.lines import KeyPath
from drivers.toml.parsers import Wrong, did_you_mean, nearest, show, suggestion
from drivers.toml.table import Complaint, Complaints, Layer, Source, Table, parse_source, read_source

__all__ = [
    "Complaint",
    "Complaints",
    "KeyPath",
    "Layer",
    "Source",
    "Table",
    "Wrong",
    "did_you_mean",
    "nearest",
    "parse_source",
    "read_source",
    "show",
    "suggestion",
]
