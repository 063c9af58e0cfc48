"""The texts of the record of commissioning, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from agent.cli.common import show_unit

# a wrong unit or decimal point multiplies a value by ten to the power of one of these
POWERS: Final = (3, -3, 1, -1, 2, -2, 6, -6)

WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "en": {
        "title": "Handover record", "site": "Site", "gateway": "Gateway", "recorded": "Recorded", "by": "Recorded by",
        "login": "signed in as", "remarks": "Remarks", "configuration": "Configuration", "thumbprint": "Thumbprint",
        "version": "Software",
        "device": "Device", "place": "Line and address", "profile": "Profile", "identity": "Identity",
        "point": "Counter", "reading": "Reading", "read": "read at", "display": "Display", "difference": "Difference",
        "verdict": "Comparison", "remark": "Remark", "quality": "quality", "state": "state",
        "agrees": "agrees", "differs": "DIFFERS", "not compared": "not compared", "no reading": "no reading",
        "alive": "answers", "dead": "DOES NOT ANSWER", "unknown": "no answer yet", "asleep": "asleep",
        "silent": "DOES NOT ANSWER NOW", "ratio": "ratio", "roles": "role",
        "secondary": "{device}: the reading is {ratio} times the display, which is the transformer ratio: the display "
        "shows the secondary side",
        "scaled": "{device}: the display is {factor} times the reading: is it in another unit than {unit}, or is a "
        "decimal point or a scale of the profile wrong?",
        "rule": "A display agrees if it differs by at most one unit of the last digit that both values have.",
        "summary": "{devices} devices: {agree} agree with their displays, {differ} differ, {open} not compared, "
        "{silent} do not answer.",
        "signed": "The gateway has signed this record as event handover {id} in these packs:",
        "pack": "stream {stream}, boot {boot}, sequence {seq}, SHA-256 (base64url) {hash}",
        "check": "To check it, run meterhouse verify --trust {trust} on an export or against the broker; it lists this "
        "record with its sequence and hash.",
        "code": "Content of the code: {trust}",
        "hands": "Handed over by", "takes": "Taken over by", "date": "Place, date, signature",
        "ask": "{device}: {point} = {value} {unit}. The display shows (empty: not compared)",
        "none": "{device}: its profile has no counter; recorded without a reading",
        "unread": "{device}: no counter has been read yet; recorded without a reading",
        "old": "{device}: the last value of {point} is {age} old ({why}); recorded without a reading",
        "not yet": "{device}: {point} not read yet, next reading in {seconds} s; waiting for it",
        "unsigned": "not signed: nothing was sent",
        "who": "Who records it", "confirm": "Sign this record?", "wrote": "wrote {file}",
        "done": "signed as {id}: sequence {seq} of {stream}",
    },
    "zh": {
        "title": "交接记录", "site": "站点", "gateway": "网关", "recorded": "记录时间", "by": "记录人",
        "login": "登录名", "remarks": "备注", "configuration": "配置", "thumbprint": "密钥指纹", "version": "软件版本",
        "device": "设备", "place": "线路与地址", "profile": "设备模板", "identity": "设备标识",
        "point": "计数器", "reading": "读数", "read": "读取时间", "display": "表计显示", "difference": "差值",
        "verdict": "比对", "remark": "备注", "quality": "质量", "state": "状态",
        "agrees": "一致", "differs": "不一致", "not compared": "未比对", "no reading": "无读数",
        "alive": "应答", "dead": "无应答", "unknown": "尚无应答", "asleep": "休眠",
        "silent": "当前无应答", "ratio": "变比", "roles": "角色",
        "secondary": "{device}：读数为表计显示的{ratio}倍，与互感器变比相同：表计显示的是二次侧数值",
        "scaled": "{device}：表计显示为读数的 {factor} 倍：显示的单位是否不是 {unit}，或小数点、设备模板的倍率有误？",
        "rule": "差值不超过两者共有末位的一个单位即为一致。",
        "summary": "共{devices}台设备：{agree}台与表计显示一致，{differ}台不一致，{open}台未比对，"
        "{silent}台当前无应答。",
        "signed": "本记录已由网关签名，为下列数据包中的 handover 事件 {id}：",
        "pack": "数据流 {stream}，boot {boot}，序号 {seq}，SHA-256（base64url）{hash}",
        "check": "核验方法：对导出文件或消息代理运行 meterhouse verify --trust {trust}，"
        "结果中列出本记录及其序号和哈希。",
        "code": "二维码内容：{trust}",
        "hands": "移交方", "takes": "接收方", "date": "地点、日期、签字",
        "ask": "{device}：{point} = {value} {unit}，表计显示（留空：不比对）",
        "none": "{device} 的设备模板没有计数器：记录中不含读数", "unread": "{device} 还没有计数器读数：记录中不含读数",
        "old": "{device}：{point} 的最近一个值已是{age}前的（{why}）：记录中不含读数",
        "not yet": "{device}：{point} 尚未读到，{seconds} s 后再次读取；正在等待",
        "unsigned": "未签名：未发送任何内容",
        "who": "记录人", "confirm": "是否签名并记录？", "wrote": "已写入 {file}",
        "done": "已签名，编号 {id}：{stream} 的第 {seq} 包",
    },
}  # fmt: skip


def verdict(entry: Mapping[str, object]) -> str:
    """Return the key in ``WORDS`` for the result of a device's comparison."""
    if "reading" in entry and entry.get("state") not in ("alive", "asleep"):
        return "silent"  # an old reading proves nothing about the present state of the device
    if "agrees" in entry:
        return "agrees" if entry["agrees"] else "differs"
    return "not compared" if "reading" in entry else "no reading"


def display_text(entry: Mapping[str, Any]) -> str:
    """Return the displayed value, then "±RESOLUTION" if the display has fewer digits; "" if there is no value."""
    step = entry.get("resolution", "")
    return f"{entry.get('display', '')} ±{step}" if step else str(entry.get("display", ""))


def why_different(entry: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Return a text if a transformer ratio or power of ten explains why reading and display differ; "" if none does."""
    from agent.service.control.attest import compare

    if entry.get("agrees", True) or not Decimal(entry["display"]):
        return ""
    ratio, read, step = Decimal(1), Decimal(entry["reading"]["v"]), entry.get("resolution", "")
    for factor in entry.get("ratio", {}).values():
        ratio *= Decimal(factor)
    if ratio != 1 and compare(format(read / ratio, ".6f"), entry["display"], step)[1]:
        return words["secondary"].format(device=entry["device"], ratio=format(ratio.normalize(), "f"))
    # with so few digits, the match could be a coincidence
    if len(Decimal(entry["display"]).normalize().as_tuple().digits) < 3:
        return ""
    for power in POWERS:
        if compare(format(read.scaleb(power), "f"), entry["display"], step)[1]:
            factor = format(Decimal(1).scaleb(power), "f")
            return words["scaled"].format(device=entry["device"], factor=factor, unit=show_unit(entry["reading"]["u"]))
    return ""
