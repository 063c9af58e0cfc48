"""The texts of the full screen, in English and Chinese."""

from __future__ import annotations

from typing import Final

from drivers.texts import Catalogue

LANGUAGES: Final = ("en", "zh")
WORDS: Final = Catalogue(__package__, "watch")
KEYS: Final[tuple[tuple[str, str, str], ...]] = (
    ("1 2 3 4 5", "devices, values, lines, destinations, findings", "设备、数值、线路、上行目标、诊断"),
    ("Tab", "the next page", "下一页"),
    ("↑ ↓ PgUp PgDn", "move; also j and k", "移动；也可用 j、k"),
    ("Home End", "first or last row; also g and G", "首行、末行；也可用 g、G"),
    ("Enter", "a device's values, a line's frames", "查看设备的数值、线路的报文"),
    ("/", "search names of devices and points", "按名称搜索设备和测点"),
    ("t", "only rows with trouble, or all", "仅看异常 / 全部"),
    ("Esc", "clear the search, show all", "清除搜索，返回"),
    ("q  Ctrl-C", "quit; the agent keeps running", "退出；不影响采集程序"),
)


def word(key: str, language: str, **values: object) -> str:
    """Return a text of ``WORDS`` with its values inserted."""
    return WORDS.text(key, language, **values)
