"""The texts for findings of the platform, in English and Chinese. The keys are the codes of `meterhouse verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from agent.cli.finding_words import LANGUAGES, Texts


class FindingText(NamedTuple):
    """The texts for one code: a word for tables, and a sentence that explains the finding."""

    word: Texts
    meaning: Texts


FINDINGS: Final[Mapping[str, FindingText]] = {
    "due": FindingText(
        ("unaccounted", "未说明"),
        (
            "A reading was due, but the packs contain neither this reading nor a gap with a reason for it",
            "应有的读数既不存在，也不在已说明的缺口中",
        ),
    ),
    "fork": FindingText(
        ("fork", "分叉"),
        ("Two packs have the same identity but different content", "同一标识有两个内容不同的数据包"),
    ),
    "conflict": FindingText(
        ("conflict", "冲突"),
        (
            "The gateway went back to an earlier state, or two copies run. Was a backup restored or a disk copied?",
            "网关回到了先前的状态，或有两个副本在运行。是否恢复了旧备份或复制了磁盘？",
        ),
    ),
    "chain": FindingText(
        ("broken chain", "链断开"),
        (
            "A pack does not follow the pack before it in the chain",
            "数据包与链中的前一个数据包不衔接",
        ),
    ),
    "rule": FindingText(
        ("rule broken", "违反规则"),
        ("A signed pack breaks a rule of the format", "已签名的数据包违反格式规则"),
    ),
    "revoked": FindingText(
        ("revoked key", "密钥已吊销"),
        (
            "The pack was signed with a revoked key, after the last pack of this key that is still trusted",
            "数据包由已吊销的密钥签名，且晚于该密钥最后一个仍受信任的数据包",
        ),
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
            "A signed sequence number implies more than ten million missing packs, or a pack claims more than a "
            "hundred billion readings; no total counts these packs and readings",
            "按已签名的序号推算将缺少上千万个数据包，或一个数据包声称含上千亿个读数；不计入任何合计",
        ),
    ),
    "damaged": FindingText(
        ("damaged", "已损坏"),
        (
            "The pack is damaged in the platform's database, and no total counts it; this proves nothing against the "
            "gateway",
            "平台数据库中的该数据包已损坏，不计入任何合计；这并不能说明网关有问题",
        ),
    ),
    "refused": FindingText(
        ("refused", "被拒"),
        (
            "Messages on this gateway's topics cannot be trusted; they prove nothing against the gateway",
            "该网关主题上的消息完全不可信；这并不能说明网关有问题",
        ),
    ),
    "withheld": FindingText(
        ("withheld", "未送达"),
        ("A signed checkpoint lists packs that were never received", "检查点列出了从未到达的数据包"),
    ),
    "missing": FindingText(
        ("missing", "缺少"),
        ("Packs between received ones were never received", "已到达的数据包之间缺少数据包"),
    ),
    "signature": FindingText(
        ("signature", "签名错误"),
        (
            "The signature does not match: the message was altered in transit, or signed with another key",
            "签名不符：消息在传输中被改动，或由其他密钥签名",
        ),
    ),
    "topic": FindingText(
        ("topic", "主题不符"),
        ("The pack was published on the topic of another stream", "数据包发布在其他数据流的主题上"),
    ),
    "internal": FindingText(
        ("internal", "内部错误"),
        (
            "A worker could not process the message; the log of the worker has the reason",
            "工作进程无法处理该消息；原因见工作进程的日志",
        ),
    ),
}


def finding_word(code: str, language: str) -> str:
    """The word for a finding in a table. An unknown code is returned unchanged."""
    found = FINDINGS.get(code)
    return found.word[LANGUAGES.index(language)] if found else code


def finding_meaning(code: str, language: str) -> str:
    """The sentence that explains a finding. "" for an unknown code."""
    found = FINDINGS.get(code)
    return found.meaning[LANGUAGES.index(language)] if found else ""
