"""The texts of the full screen, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.cli.common import singular

LANGUAGES: Final = ("en", "zh")
WORDS: Final[Mapping[str, tuple[str, str]]] = {
    # names of the pages
    "devices": ("Devices", "设备"), "values": ("Values", "数值"), "lines": ("Lines", "线路"),
    "destinations": ("Destinations", "上行目标"), "findings": ("Findings", "诊断"),
    "frames": ("Frames", "报文"),
    # titles of the columns
    "device": ("device", "设备"), "state": ("state", "状态"), "complete": ("complete", "完整率"),
    "missing": ("missing by", "缺失原因"), "answered": ("answered", "上次应答"), "line": ("line", "线路"),
    "point": ("point", "测点"), "value": ("value", "数值"), "unit": ("unit", "单位"), "trend": ("trend", "趋势"),
    "quality": ("quality", "质量"), "age": ("age", "距今"), "name": ("name", "标识"),
    "load": ("load", "负荷"), "asked": ("asked", "请求"), "errors": ("errors", "错误"),
    "minute": ("last min", "近1分钟"), "trouble": ("which", "类型"), "url": ("url", "地址"),
    "destination": ("destination", "上行目标"), "subscriber": ("subscriber", "接收方"), "waiting": ("waiting", "待发"),
    "drain": ("empty in", "发完还需"), "confirmed": ("confirmed", "已确认"), "refused": ("refused", "被拒"),
    "confirm": ("by", "确认方式"),
    # words for the states of devices, lines and destinations
    "alive": ("alive", "有应答"), "dead": ("silent", "无应答"),
    "asleep": ("asleep", "休眠"), "unknown": ("unknown", "未知"),
    "swapped": ("swapped", "已更换"), "open": ("open", "已打开"),
    "closed": ("closed", "未打开"), "lent": ("lent", "借出"),
    "connected": ("connected", "已连接"),
    "not reached": ("not reached", "未连接"), "catching up": ("catching up", "补传中"),
    "yes": ("yes", "有"), "no": ("no", "无"), "growing": ("growing", "仍在增加"),
    # texts at the top of the screen
    "answering": ("{alive} of {count} devices answer", "{count} 台设备，{alive} 台应答"),
    "dozing": (", {count} asleep", "，{count} 台休眠"),
    "faults": ("{count} faults", "{count} 个故障"), "no faults": ("no fault", "无故障"),
    "heard": ("the agent's status is {age} old", "状态更新于 {age}前"),
    "stale": ("no status from the agent for {age}", "采集程序已 {age}未更新状态"),
    "no agent": ("no agent is running in {folder}: waiting for one", "{folder} 没有运行中的采集程序，等待启动"),
    "ended": ("the agent has ended: waiting for the next one. What is shown is old",
              "采集程序已停止，等待重新启动；以下为旧数据"),
    "reading": ("reading the ring ...", "正在读取环形缓冲区…"),
    "machine time": ("time of this machine", "本机时间"),
    # texts at the bottom of the screen
    "keys": ("q quit  ? keys  1-5 page  / search  Enter open", "q 退出  ? 帮助  1-5 翻页  / 搜索  Enter 打开"),
    "t trouble": ("t trouble only", "t 仅看异常"), "t all": ("t all", "t 全部"),
    "searched": ('"{text}"', "“{text}”"), "only trouble": ("trouble only", "仅看异常"),
    "search": ("parts of a name, separated by spaces; Enter keeps the search, Esc clears it",
               "名称的一部分，多个词用空格分开；Enter 保留，Esc 清除"),
    "nothing": ("nothing", "无"), "no match": ("nothing matches; Esc shows all", "没有匹配项；按 Esc 显示全部"),
    "not heard": ("not read yet", "尚未读取"), "all well": ("Nothing found.", "未发现问题。"),
    "no frames": ("choose a line on page 3 and press Enter", "请在第 3 页选择线路并按 Enter"),
}  # fmt: skip
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
    text = WORDS[key][LANGUAGES.index(language)].format(**values)
    return singular(text) if language == "en" else text
