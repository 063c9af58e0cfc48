"""The texts of a scan's notes about devices and lines, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

NOTES: Final[Mapping[str, tuple[str, str]]] = {
    "slow": ("answers slowly", "应答较慢"),
    "cut short": (
        "too slow or too often silent: not all profiles were tried",
        "应答过慢或多次无应答，未能试完全部设备模板",
    ),
    "garbled": (
        "some of its answers were broken (CRC or length), so its profile may not have been recognised: check cable, "
        "termination and serial setting, and whether two devices share the address",
        "其部分应答有误（CRC或长度不对），可能因此未识别出设备模板：请检查接线、终端电阻和串口参数，以及是否有两台设备地址相同",
    ),
    "listed once": (
        "the same serial number at {others}: one device, listed once",
        "{others}的序列号与此相同：是同一台设备，只列一次",
    ),
    "one device": (
        "probably the same meter, at addresses {address} and {others}: all its values are equal there while they "
        "change; listed once",
        "地址{address}和{others}很可能是同一块表：两处数值变化时始终完全相同；只列一次",
    ),
    "twins": (
        "{protocol} {address}, {others}: the same serial number {number}",
        "{protocol} {address}、{others}：序列号相同（{number}）",
    ),
    "absent": (
        "exception {code}h is also the answer of unit numbers that do not exist: units that answer "
        "nothing else are not listed",
        "不存在的从站地址也会得到异常应答{code}h：只应答此异常的地址不列出",
    ),
    "every unit": (
        "answers on every unit number: a single device, listed under the first",
        "对任何从站地址都应答：是同一台设备，按第一个列出",
    ),
    "no data": ("acknowledges but sends no data", "有确认但不发送数据"),
    "broken": (
        "{protocol} {what}: bytes received, but no valid frame ({why}). "
        "Do two devices share an address, or is the serial setting different?",
        "{protocol} {what}：收到字节但无正确帧（{why}）。是否两台设备地址相同，或串口参数不同？",
    ),
    "crowd": (
        "{protocol} {what}: several meters answer at once, or one answers at a different serial setting",
        "{protocol} {what}：多台表同时应答，或串口参数不同",
    ),
    "no search": (
        "{protocol}: several meters answer at once, and this protocol cannot search: read the addresses from the "
        "meters",
        "{protocol}：多台表同时应答，此协议不支持搜索：请从表上抄取地址",
    ),
    "nameless": (
        "{protocol} at {serial}: a meter answers but does not report its address: read it from the nameplate and run "
        "`meterhouse identify`",
        "{protocol}（{serial}）：有表应答但未报告地址：请从铭牌抄取地址，再用`meterhouse identify`查询",
    ),
    "same secondary": (
        "{protocol} {mask}: two meters have the same secondary address; change one of them",
        "{protocol} {mask}：两台表二级地址相同，须更改其中一台",
    ),
    "not alone": (
        "{protocol} {mask}: several meters answer at once; only {found} could be selected individually",
        "{protocol} {mask}：多台表同时应答，其中可单独选中的有{found}台",
    ),
    "same address": (
        "{protocol} {who}: two meters have the same address; change one of them",
        "{protocol} {who}：两台表地址相同，须更改其中一台",
    ),
    "raw": (
        "this port passes raw bytes, as a serial server does; it does not speak {title}. Scan it as --line {url}",
        "此端口透传原始字节（串口服务器），不是 {title}。请用 --line {url} 扫描",
    ),
    "framed": (
        "this port speaks {title}; it does not pass raw bytes. Scan it as --line {url}",
        "此端口使用 {title}，不透传原始字节。请用 --line {url} 扫描",
    ),
    "other order": (
        "{profile} would fit if the words came in order {order}: `meterhouse profiles copy {profile}`, then order = "
        '"{order}" in the copy',
        "若字节序为 {order}，则 {profile} 符合：先 `meterhouse profiles copy {profile}`，"
        '再在副本中写 order = "{order}"',
    ),
}


@dataclass(frozen=True, slots=True)
class Note:
    """One note: a key of ``NOTES`` and the values for its text."""

    key: str
    names: tuple[tuple[str, str], ...] = ()

    def text(self, lang: str = "en") -> str:
        """The text of the note in a language, "en" or "zh"."""
        return NOTES[self.key][lang == "zh"].format(**dict(self.names))

    def __str__(self) -> str:
        return self.text()


def note(key: str, **names: object) -> Note:
    """Make a note. ``names`` are the values for the braces in its text."""
    return Note(key, tuple((name, str(value)) for name, value in names.items()))
