"""Words for the results of readings and requests, in English and Chinese. Terminal and page use the same tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agent.cli.common import singular
from agent.cli.finding_words import LANGUAGES, Texts

LINE_TROUBLE: Final[Mapping[str, Texts]] = {  # words for the error counters of a line in the snapshot
    "timeouts": ("timeouts", "超时"), "broken": ("broken", "坏帧"), "mismatches": ("mismatches", "不匹配"),
    "exceptions": ("exceptions", "拒绝"), "stale": ("late", "迟到"), "foreign": ("foreign", "外来帧"),
    "open_failures": ("not opened", "打不开"), "lost": ("lost", "断开"),
}  # fmt: skip
QUALITIES: Final[Mapping[str, Texts]] = {  # words for qualities of readings that have a value
    "": ("", ""), "suspect": ("suspect", "可疑"), "range": ("out of range", "超量程"),
    "frozen": ("frozen", "数值不变"), "clock": ("device's clock is wrong", "时标不准"),
    "estimated": ("estimated", "估算"), "substituted": ("substituted", "替代"),
}  # fmt: skip
KIND_WORDS: Final[Mapping[str, Texts]] = {  # words for the kinds of points
    "gauge": ("gauge", "瞬时量"), "counter": ("counter", "累计量"),
    "state": ("state", "状态"), "text": ("text", "文本"),
}  # fmt: skip
STEP_WORDS: Final[Mapping[str, Texts]] = {  # words for the steps of a counter, as `decode counter` names them
    "normal": ("normal", "增长"), "rollover": ("rollover", "翻转"), "reset": ("reset", "清零"),
    "back_step": ("back_step", "回退"), "glitch": ("glitch", "毛刺"), "swap": ("swap", "换表"),
}  # fmt: skip
CONFIRM_WORDS: Final[Mapping[str, Texts]] = {  # words that tell who confirms packs at a destination
    "platform": ("platform", "平台"), "subscriber": ("subscriber", "接收方"), "broker": ("broker", "消息服务器"),
}  # fmt: skip


def line_trouble(line: Mapping[str, Any], language: str) -> str:
    """Return the number of failed requests of a line by kind, such as "1 exception, 2 timeouts"."""
    at = LANGUAGES.index(language)
    text = ", ".join(f"{line[kind]} {words[at]}" for kind, words in LINE_TROUBLE.items() if line.get(kind))
    return text if at else singular(text)


def borrower(lent: str, language: str) -> str:
    """Return the tool that has borrowed a line, and its user. The snapshot states them as "scan by li (uid 1000)"."""
    purpose, by, user = lent.partition(" by ")
    return f"{user} 的 {purpose}" if by and language == "zh" else lent


def word_in(words: Mapping[str, Texts], key: str, language: str) -> str:
    """Return the word for ``key`` in a table. If the table lacks it, return ``key`` itself."""
    return words.get(key, (key, key))[LANGUAGES.index(language)]
