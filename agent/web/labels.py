"""The page's own words in English and Chinese; those of findings and reasons are where `status` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.cli.finding_words import LANGUAGES, Texts

__all__ = ["LABELS", "LANGUAGES", "LINE_TROUBLE", "QUALITIES", "label"]

LABELS: Final[Mapping[str, Texts]] = {
    # --- the frame of all pages
    "skip": ("Skip to the content", "跳到正文"),
    "nav": ("Pages", "页面"),
    "nav.now": ("Now", "实时"),
    "nav.day": ("Days", "日曲线"),
    "nav.figures": ("Figures", "指标"),
    "nav.frames": ("Frames", "报文"),
    "language": ("中文", "English"),
    "logout": ("Log out", "退出登录"),
    "pause": ("Pause", "暂停刷新"),
    "resume": ("Resume", "继续刷新"),
    "lost": ("The page cannot be reached; what is shown is old.", "无法连接到网页服务，所示内容已过时。"),
    "readonly": (
        "Read-only. Values come from the running agent of this gateway.",
        "只读页面，数据来自本网关正在运行的采集程序。",
    ),
    "gateway": ("gateway", "网关"),
    # --- login
    "login.title": ("Log in", "登录"),
    "login.password": ("Password", "密码"),
    "login.submit": ("Log in", "登录"),
    "login.wrong": ("That is not the password.", "密码不正确。"),
    "login.later": ("Too many tries. Wait a moment, then try again.", "尝试次数过多，请稍候再试。"),
    "login.lost": (
        "Password lost? `sudo meterhouse web --setup` sets another one.",
        "忘记密码？执行 `sudo meterhouse web --setup` 可重新设置。",
    ),
    # --- errors
    "error.title": ("This cannot be shown", "无法显示"),
    "error.404": ("There is no such page, device or line.", "没有这个页面、设备或线路。"),
    "error.other": ("The request was not understood ({status}).", "无法处理该请求（{status}）。"),
    "error.back": ("Back to the first page", "返回首页"),
    # --- now
    "now.title": ("Now", "实时状态"),
    "verdict.well": ("All is well", "一切正常"),
    "verdict.early": ("Nothing is wrong, but it is too early to be sure", "暂无故障，但现在下结论还为时过早"),
    "verdict.fault": ("1 fault", "1 个故障"),
    "verdict.faults": ("{count} faults", "{count} 个故障"),
    "verdict.stopped": ("The agent is not running", "采集程序未运行"),
    "seen": ("What is shown was last seen {age} ago.", "所示内容为 {age} 前的状态。"),
    "catching_up": ("Older values are still being read.", "正在读取较早的数值。"),
    "findings": ("Findings", "检查结果"),
    "fault": ("fault", "故障"),
    "note": ("note", "提示"),
    "do": ("What to do:", "处理："),
    "head.running": ("running for", "已运行"),
    "head.clock": ("clock", "时钟"),
    "head.store": ("store", "存储"),
    "head.key": ("key", "密钥"),
    "head.boot": ("boot", "启动编号"),
    "clock.synced": ("synchronised within {error} ms", "已同步，误差 {error} ms 内"),
    "clock.not": ("NOT synchronised", "未同步"),
    "clock.unknown": ("not known", "未知"),
    "store.of": ("{size} of {limit}, disk {free} free", "{size}／{limit}，磁盘剩余 {free}"),
    "devices": ("Devices", "设备"),
    "device": ("device", "设备"),
    "state": ("state", "状态"),
    "values": ("live values", "实时值"),
    "complete": ("complete", "完整率"),
    "complete.help": ("of the readings due in ten minutes", "最近十分钟应有读数"),
    "missing": ("missing because", "缺失原因"),
    "doubtful": ("doubtful", "可疑值"),
    "answered": ("answered", "上次应答"),
    "ago": ("{age} ago", "{age} 前"),
    "line": ("line", "线路"),
    "state.alive": ("answers", "正常"),
    "state.dead": ("no answer", "无应答"),
    "state.asleep": ("asleep", "休眠"),
    "state.unknown": ("not known yet", "未知"),
    "state.swapped": ("swapped", "已更换"),
    "lines": ("Lines", "线路"),
    "busy": ("busy", "占用"),
    "asked": ("asked", "询问"),
    "answers": ("answers", "应答"),
    "trouble": ("trouble", "异常"),
    "url": ("address", "地址"),
    "line.open": ("open", "已打开"),
    "line.closed": ("closed", "未打开"),
    "line.lent": ("lent to {who}", "借给 {who}"),
    "uplinks": ("Destinations", "目的地"),
    "uplink": ("destination", "目的地"),
    "uplink.connected": ("connected", "已连接"),
    "uplink.not": ("not reached", "未连接"),
    "uplink.backfilling": ("catching up", "补传中"),
    "subscriber": ("subscriber", "接收方"),
    "subscriber.yes": ("yes", "有"),
    "subscriber.no": ("no", "无"),
    "subscriber.unknown": ("not known", "未知"),
    "waiting": ("waiting", "等待"),
    "confirmed": ("confirmed", "已确认"),
    "refused": ("refused", "拒收"),
    "confirm": ("confirmed by", "确认方式"),
    "learned": (
        "{name} has a register map that the agent had to learn: {what}",
        "{name} 的寄存器表由程序自行学得：{what}",
    ),
    "none": ("none", "无"),
    # --- one device
    "device.title": ("Device {name}", "设备 {name}"),
    "profile": ("profile", "设备模板"),
    "variant": ("variant", "变体"),
    "identity": ("identity", "身份信息"),
    "last_error": ("last error", "最近错误"),
    "points": ("Points", "测点"),
    "point": ("point", "测点"),
    "value": ("value", "数值"),
    "unit": ("unit", "单位"),
    "quality": ("quality", "质量"),
    "good": ("good", "正常"),
    "age": ("age", "时间"),
    "source.link": ("where {point} comes from", "{point} 的来源"),
    "day.link": ("The day's curves and gaps", "当日曲线与缺口"),
    "no_points": ("No values yet.", "暂无数值。"),
    "filter": ("Filter", "筛选"),
    # --- frames
    "frames.title": ("Frames of line {name}", "线路 {name} 的报文"),
    "frames.caption": (
        "The last {count} frames, the newest first; times of the site",
        "最近 {count} 帧，最新在前；时间为园区当地时间",
    ),
    "frames.none": ("No frames yet: they are shown once the line has been opened.", "暂无报文：线路打开后才会显示。"),
    "time": ("time", "时间"),
    "direction": ("direction", "方向"),
    "direction.0": ("sent", "发送"),
    "direction.1": ("received", "接收"),
    "direction.2": ("noise", "杂波"),
    "bytes": ("bytes", "字节"),
}

LINE_TROUBLE: Final[Mapping[str, Texts]] = {
    "timeouts": ("timeouts", "超时"),
    "broken": ("broken", "坏帧"),
    "mismatches": ("mismatches", "不匹配"),
    "exceptions": ("refusals", "拒绝"),
    "stale": ("late", "迟到"),
    "foreign": ("foreign", "外来帧"),
    "open_failures": ("not opened", "打不开"),
    "lost": ("lost", "断开"),
}

QUALITIES: Final[Mapping[str, Texts]] = {
    "": ("", ""),
    "suspect": ("suspect", "可疑"),
    "range": ("out of range", "超出量程"),
    "frozen": ("frozen", "长时间不变"),
    "clock": ("device's clock is wrong", "设备时钟不准"),
    "estimated": ("estimated", "估算"),
    "substituted": ("substituted", "替代值"),
}


def label(key: str, language: str, **values: object) -> str:
    """A text in a language. Raises KeyError for a key that does not exist."""
    return LABELS[key][LANGUAGES.index(language)].format(**values)
