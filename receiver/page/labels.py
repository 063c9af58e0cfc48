"""The texts that only this page uses, in English and Chinese. Texts that the gateway's page uses, too, are in
``agent.web.labels``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.cli.common import singular
from agent.cli.finding_words import LANGUAGES, Texts
from agent.web.labels import LABELS as SHARED

LABELS: Final[Mapping[str, Texts]] = {
    "fleet": ("Fleet", "全部网关"),
    "platform": ("platform", "平台"),
    "readonly": (
        "Read-only. Every number comes from packs that gateways signed; the database keeps each of them byte for byte.",
        "只读页面。所有数字均来自网关签名的数据包；数据库逐字节保存每个数据包。",
    ),
    "as_of": ("as of {time}", "截至 {time}"),
    # --- states
    "verified": ("verified", "已验证"),
    "incomplete": ("incomplete", "不完整"),
    "failed": ("failed", "有错误"),
    "silent": ("silent", "从未上报"),
    "late": ("late", "延迟"),
    "all": ("all", "全部"),
    "verified.help": (
        "all packs are present, signed and valid, and no reading is unexplained",
        "数据包齐全，均已签名且有效，读数全部有交代",
    ),
    "incomplete.help": ("packs are missing", "缺少数据包"),
    "failed.help": ("a signed object is invalid", "已签名的内容有错误"),
    "silent.help": ("enrolled, but no pack was ever received", "已登记，但从未收到数据包"),
    "late.help": ("the newest pack is more than five minutes old", "五分钟没有新数据"),
    "not_checked": ("not checked yet", "尚未检查"),
    "open": ("completeness is not known yet", "完整性待定"),
    # --- the table
    "gateways.title": ("{count} gateways", "{count} 台网关"),
    "state": ("State", "状态"),
    "gateway": ("Gateway", "网关"),
    "complete": ("Complete", "完整率"),
    "complete.help": (
        "The received share of the readings that were due in the last {days} UTC days. Readings in missing packs count "
        "as due, readings of sleeping devices do not",
        "最近 {days} 个 UTC 日内应有且未休眠的读数中已到达的比例，也计入未到达的数据包",
    ),
    "by_day": ("By day", "逐日"),
    "by_day.help": ("Completeness of each UTC day; the newest day is at the right", "各 UTC 日的完整率，最右为最新"),
    "findings": ("Findings", "发现"),
    "missing": ("Missing, and why", "缺失及原因"),
    "seen": ("Last pack", "最新数据"),
    "online": ("online", "在线"),
    "offline": ("offline", "离线"),
    "none": ("nothing", "无"),
    "packs_missing": ("packs missing: {count}", "缺少数据包 {count} 个"),
    "packs_lost": ("declared lost: {count}", "已申报丢失 {count} 个"),
    "packs_withheld": ("withheld: {count}", "未送达 {count} 个"),
    "streams_unnamed": ("agreed streams that appear in no pack or checkpoint: {names}", "已约定但未出现：{names}"),
    "streams_unasked": ("not requested, but received: {names}", "未约定却收到：{names}"),
    "readings_of": ("{why}: {count} readings", "{why}：{count} 个读数"),
    "refused_times": ("refused {count}", "被拒 {count}"),
    "totals": (
        "Last {days} days: {packs} packs, {readings} of {due} due readings; {missing} packs missing, "
        "{lost} declared lost.",
        "最近 {days} 天：{packs} 个数据包，应有 {due} 个读数，已到 {readings} 个；"
        "缺 {missing} 包，已申报丢失 {lost} 包。",
    ),
    "no_gateways": ("No gateway matches.", "没有符合条件的网关。"),
    "nobody": (
        "No gateway is enrolled. Enrol the trusted ones with `meterhouse platform enrol FILE.csv`.",
        "尚未登记网关。用 `meterhouse platform enrol FILE.csv` 登记受信任的网关。",
    ),
    # --- filter, order and pages of the table
    "filter.text": ("Site or gateway", "园区或网关"),
    "filter.state": ("State", "状态"),
    "filter.show": ("Show", "显示"),
    "filter.reset": ("Show all", "显示全部"),
    "sort.by": ("Sort by {column}", "按{column}排序"),
    "pages": ("Pages of the table", "表格分页"),
    "page.of": ("{first}–{last} of {count}", "第 {first}–{last} 项，共 {count} 项"),
    "page.earlier": ("Previous", "上一页"),
    "page.later": ("Next", "下一页"),
    # --- notes about the whole platform
    "away": (
        "Database {place} is unreachable: {why}. Its gateways are not in this table.",
        "数据库 {place} 无法访问：{why}。其网关不在此表中。",
    ),
    "lots_waiting": (
        "{count} batches have not been checked. Is `meterhouse platform keep` running?",
        "{count} 批等待检查。`meterhouse platform keep` 在运行吗？",
    ),
    "unsettled": (
        "For {count} packs the birth or another part has not arrived; until then their completeness is not known.",
        "{count} 个数据包在等待其首包（birth）或其他部分；在此之前其完整性待定。",
    ),
    "unknown.title": ("Publishing but not enrolled", "正在发布但未登记"),
    "unknown.lead": (
        "Their packs are not stored. Compare the thumbprint with the one that `meterhouse keys show` prints on the "
        "gateway, then enrol the gateway with `meterhouse platform enrol`.",
        "其内容均不保存。请与网关上 `meterhouse keys show` 显示的指纹核对，然后执行 `meterhouse platform enrol`。",
    ),
    "unknown.more": ("and {count} more", "另有 {count} 台"),
    "thumbprint": ("Claimed thumbprint", "自称的指纹"),
    # --- a gateway
    "gateway.title": ("Gateway {name}", "网关 {name}"),
    "streams": ("Streams", "数据流"),
    "stream": ("Stream", "数据流"),
    "pinned": ("Trusted thumbprints", "受信任的指纹"),
    "keys": ("Keys object", "密钥对象"),
    "keys.counter": ("number {counter}, since {time}", "第 {counter} 版，自 {time}"),
    "keys.none": ("not received yet", "尚未收到"),
    "version": ("Version", "版本"),
    "asked": ("Requested streams", "约定的数据流"),
    "packs": ("Packs", "数据包"),
    "readings": ("Readings", "读数"),
    "days.title": ("Completeness by day", "逐日完整率"),
    "sequence": ("Sequence", "序号"),
    "code": ("Finding", "发现"),
    "meaning": ("Meaning", "含义"),
    "found": ("Found", "发现时间"),
    "while_missing": ("holds while packs are missing", "缺包期间有效"),
    "holes.title": ("Missing packs", "缺少的数据包"),
    "holes.lost": ("declared lost by the gateway", "网关已申报丢失"),
    "holes.missing": ("requested again by the keeper", "由 keep 再次索取"),
    "refusals.title": ("Refused messages, last {days} days", "最近 {days} 天被拒的消息"),
    "refusals.lead": (
        "Anyone who may publish can send such messages: they prove nothing against the gateway and do not change its "
        "verdict.",
        "任何有发布权限者都能发送此类消息：它们不能证明网关有问题，也不影响结论。",
    ),
    "times": ("Times", "次数"),
    "last_reason": ("Last reason", "最近原因"),
    "last": ("Last", "最近"),
    "reason": ("Reason", "原因"),
    # --- a stream
    "stream.title": ("{point} on {day}", "{day} {point}"),
    "stream.point": ("Point", "测点"),
    "stream.none": ("No readings of this stream on this day.", "该数据流当日没有读数。"),
    "stream.none_yet": ("No readings of this stream yet.", "该数据流尚无读数。"),
    "stream.lead": (
        "This page computes the mean of each quarter of an hour from the readings of verified packs. Each row of the "
        "table links to the packs that the mean comes from.",
        "各 15 分钟平均值，由本页面根据已验证数据包中的读数计算。表中每一行均可查看其来源数据包。",
    ),
    "stream.counter": (
        "The increase of the counter in each quarter of an hour: from its last reading before to its last in it. "
        "Figures that the gateway itself signed are in its stream _indicators.",
        "计数器：每 15 分钟的增量，即该时段末次读数减去时段前末次读数。网关自行签名的指标见其数据流 _indicators。",
    ),
    "stream.too_many": (
        "This day has more than {count} packs: the page did not read all of them.",
        "该日超过 {count} 个数据包：本页未全部读取。",
    ),
    "remark.readings": ("{count} readings", "{count} 个读数"),
    "remark.doubtful": ("{count} doubtful", "{count} 个可疑"),
    "remark.faulty": ("{count} packs with a finding are left out", "{count} 个数据包因有错误未计入"),
    "remark.back": ("the counter stepped back", "计数器回退"),
    "no_pack": ("no pack", "无数据包"),
    # --- packs
    "packs.title": ("Packs of {from_time} to {to_time}", "{from_time} 至 {to_time} 的数据包"),
    "packs.lead": (
        "The figure is made from these {count} signed packs only. The hash is the SHA-256 of the signed content; "
        "the next pack names it as the hash of its predecessor.",
        "该数值仅由这 {count} 个已签名数据包得出。哈希为签名内容的 SHA-256，下一个数据包以其作为前驱。",
    ),
    "packs.figure": ("Figure", "数值"),
    "packs.more": ("Only the first {count} packs are listed.", "仅列出前 {count} 个。"),
    "packs.none": ("No pack of this stream covers this time.", "该时段没有此数据流的数据包。"),
    "boot": ("Boot", "启动标识"),
    "hash": ("Hash", "哈希"),
    "covers": ("Covers", "覆盖时段"),
    "received": ("Received", "接收时间"),
    "verdict": ("Verdict", "结论"),
    "pack.title": ("Pack {seq} of {stream}", "{stream} 的数据包 {seq}"),
    "pack.several": (
        "{count} packs have this sequence number: one from each start of the agent, or twins with the same identity.",
        "有 {count} 个数据包使用此序号：采集程序每次启动各一个，或为同一标识的重复包。",
    ),
    "pack.twin": ("twin of another pack: kept as evidence, not counted", "重复包：留作证据，不计入任何统计"),
    "pack.check": ("Check this pack without trusting this page", "不依赖本页面自行验证"),
    "pack.check.lead": (
        "The database keeps each pack byte for byte as it was published. Export the pack, then run the verifier:",
        "数据库逐字节保存已发布的内容。导出后由验证程序判断：",
    ),
    "pack.download": ("Download as published", "下载原始数据"),
    "zone": ("Times are in {zone}; completeness is by UTC day.", "时间为 {zone}；完整率按 UTC 日统计。"),
    "error.404": ("This page, gateway, stream or pack does not exist.", "没有这个页面、网关、数据流或数据包。"),
    "error.database": ("The database does not answer", "数据库无应答"),
}


def label(key: str, language: str, **values: object) -> str:
    """A text in a language. Raises KeyError for an unknown key."""
    found = LABELS.get(key) or SHARED[key]
    text = found[LANGUAGES.index(language)].format(**values)
    return singular(text) if values and language == "en" else text
