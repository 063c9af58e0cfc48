"""Texts for findings of the platform, in English and Chinese, by the codes of `meterhouse verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from agent.cli.finding_words import LANGUAGES, Texts


class FindingText(NamedTuple):
    """A word for tables, and a sentence that explains the finding."""

    word: Texts
    meaning: Texts


FINDINGS: Final[Mapping[str, FindingText]] = {
    "due": FindingText(
        ("unaccounted", "未说明"),
        ("A reading was due, but is neither present nor in a stated gap", "应有的读数既不存在，也不在已说明的缺口中"),
    ),
    "fork": FindingText(
        ("fork", "分叉"),
        ("Two packs with one identity and different content", "同一标识有两个内容不同的数据包"),
    ),
    "conflict": FindingText(
        ("conflict", "冲突"),
        (
            "The history was rolled back, or two copies of it continue: a restored backup or a copied disk",
            "历史被回退或并行：磁盘被复制或恢复了旧备份",
        ),
    ),
    "chain": FindingText(
        ("broken chain", "链断开"),
        ("A pack does not follow the one before it", "数据包与前一个数据包不衔接"),
    ),
    "rule": FindingText(
        ("rule broken", "违反规则"),
        ("A signed pack breaks a rule of the format", "已签名的数据包违反格式规则"),
    ),
    "revoked": FindingText(
        ("revoked key", "密钥已吊销"),
        ("Signed by a key that was revoked before", "由先前已吊销的密钥签名"),
    ),
    "checkpoint": FindingText(
        ("checkpoint", "检查点矛盾"),
        (
            "Two signed checkpoints contradict each other: both have the same number, or the later one does not "
            "continue the earlier one",
            "两个已签名的检查点相互矛盾：编号相同，或后者未接续前者",
        ),
    ),
    "implausible": FindingText(
        ("implausible", "数值不可信"),
        (
            "A signed sequence implies millions of missing packs, or a pack claims a hundred billion readings; "
            "neither counts in any total",
            "按已签名的序号推算将缺少上千万个数据包，或一个数据包声称含上千亿个读数；不计入任何合计",
        ),
    ),
    "refused": FindingText(
        ("refused", "被拒"),
        (
            "Messages on this gateway's topics that cannot be trusted; they prove nothing against the gateway",
            "该网关主题上的消息完全不可信；这并不能说明网关有问题",
        ),
    ),
    "withheld": FindingText(
        ("withheld", "未送达"),
        ("A checkpoint names packs that were never received", "检查点列出了从未到达的数据包"),
    ),
    "missing": FindingText(
        ("missing", "缺少"),
        ("Packs between received ones were never received", "已到达的数据包之间缺少数据包"),
    ),
    "signature": FindingText(
        ("signature", "签名错误"),
        (
            "The signature does not match: altered in transit, or made with another key",
            "签名不符：传输中被改动，或为其他密钥",
        ),
    ),
    "topic": FindingText(
        ("topic", "主题不符"), ("Published on the topic of another stream", "发布在其他数据流的主题上")
    ),
    "internal": FindingText(
        ("internal", "内部错误"),
        ("A worker failed to process it; its log has the reason", "工作进程无法处理；原因见其日志"),
    ),
}


def finding_word(code: str, language: str) -> str:
    """The word for a table; an unknown code is returned as it is."""
    found = FINDINGS.get(code)
    return found.word[LANGUAGES.index(language)] if found else code


def finding_meaning(code: str, language: str) -> str:
    """The sentence that explains a finding; "" for an unknown code."""
    found = FINDINGS.get(code)
    return found.meaning[LANGUAGES.index(language)] if found else ""
