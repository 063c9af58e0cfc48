"""Errors, warnings and hints in Chinese: the catalogue fits the source, and commands speak it."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.cli.bench import _show as show_measured
from agent.cli.bench_agent import capacity_of
from agent.cli.chinese import MARKS, MOST_SENTENCES, PART, VALUE, Pair, describe, find, read_pairs, translate
from agent.cli.common import show_age
from agent.cli.declare import _show
from agent.cli.help import EXTRA
from agent.cli.keys.last_trusted import lasts_rows
from agent.cli.main import COMMANDS, outcome
from agent.cli.questions import asked
from agent.cli.replay import _outcome
from agent.cli.report.labels import duration
from agent.cli.simulate import _in_language
from agent.config.devices import role
from drivers.sim.control import HELP
from tests.kits.message_templates import Message, messages, written

ROOT = Path(__file__).resolve().parents[2]
PAIRS = list(read_pairs())
FOREIGN = {"system.txt"}  # texts of the system and of click
# rooms whose texts a technician meets; others may stay English
ROOMS = (
    "agent/cli", "agent/config", "agent/keys", "agent/service", "agent/uplink", "agent/settings.py", "agent/web",
    "drivers/base.py", "drivers/cjt188", "drivers/dlt645", "drivers/explain.py", "drivers/framing.py",
    "drivers/line", "drivers/mbus", "drivers/meter_device.py", "drivers/modbus", "drivers/plan", "drivers/profile",
    "drivers/protocol.py",
    "drivers/registry.py", "drivers/scan", "drivers/serial_setting.py", "drivers/sunspec", "drivers/toml",
)  # fmt: skip
MOST_ENGLISH = 40  # texts of these rooms without Chinese; may only fall
HAN = re.compile(r"[\u4e00-\u9fff]")


def _sentences(text: str) -> set[str]:
    parts = {part.strip() for part in PART.split(text) if part not in MARKS}
    option, extra = EXTRA.sub("", text), EXTRA.search(text)  # click's form of an option with its default
    default = extra[1].removeprefix("default: ") if extra else ""
    dots = {part.removesuffix(".") for part in parts}
    return {text, text.strip(), option, default, *parts, *dots, *(part + "." for part in dots)}


def test_every_english_text_is_in_the_source() -> None:
    """A text that was changed in the code has to be changed in its file, or removed."""
    known = {sentence for text in written() for sentence in _sentences(text)}

    def exists(pair: Pair) -> bool:
        listing = pair.english.removesuffix(": {}")  # "Known: {}" is written as did_you_mean(..., "Known")
        return bool({pair.english, pair.english.strip(), listing} & known)

    lost = [
        f"{pair.file}: {pair.english}" for pair in PAIRS if Path(pair.file).name not in FOREIGN and not exists(pair)
    ]
    assert not lost, "no longer in the source:\n" + "\n".join(lost)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (lambda: duration(500, "zh"), "500 毫秒"),
        (lambda: duration(90_000, "zh"), "1.5 分钟"),
        (lambda: show_age(3.25, "zh"), "3.2 秒"),
        (lambda: translate("100 ms"), "100 毫秒"),
        (lambda: translate("reading all points of inv1 takes 12.5 ms"), "采集 inv1 的全部测点一次需 12.5 毫秒"),
        (lambda: translate("100 ms is faster than profile a/b allows"), "100 毫秒快于设备模板 a/b 允许的周期"),
        (lambda: translate('Write at least "200 ms"'), '请至少写 "200 ms"'),  # what to write in the file
    ],
)
def test_durations_in_chinese_have_chinese_units(shown: Callable[[], str], wanted: str) -> None:
    assert shown() == wanted


def test_chinese_texts_have_chinese_units_after_a_duration() -> None:
    unit = re.compile(r"\{[^}]*\} ?(ms|s|min|d)(?![a-zA-Z])|\{[^}]*\} h(?![a-zA-Z])")
    tables = [
        (str(path), words["zh"])
        for path in (*ROOT.glob("agent/**/texts.toml"), *ROOT.glob("receiver/**/texts.toml"))
        for table in tomllib.loads(path.read_text("utf-8")).values()
        for words in table.values()
        if "zh" in words
    ]
    assert len(tables) > 500
    wrong = [
        f"{where}: {text}" for where, text in [*tables, *((p.file, p.chinese) for p in PAIRS)] if unit.search(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_both_sides_hold_the_same_values() -> None:
    wrong = []
    for pair in PAIRS:
        count, holes = pair.english.count("{}"), VALUE.findall(pair.chinese)
        if any(holes):  # by number: words that Chinese has no plural for may be left out
            good = all(hole and int(hole) < count for hole in holes) and len(set(holes)) == len(holes)
        else:
            good = len(holes) == count
        if not good:
            wrong.append(f"{pair.file}: {pair.english} / {pair.chinese}")
    assert not wrong, "\n".join(wrong)


def test_each_text_is_there_once_and_is_chinese() -> None:
    twice = [english for english, count in Counter(pair.english for pair in PAIRS).items() if count > 1]
    assert not twice
    # commands, keys and examples to type are the same in both languages
    alike = [pair.english for pair in PAIRS if not HAN.search(pair.chinese) and pair.english != pair.chinese]
    assert not [english for english in alike if re.search("[a-z]{4}", english.replace("{}", ""))]


def test_no_text_has_more_sentences_than_are_looked_up_together() -> None:
    with_values = [pair.english for pair in PAIRS if "{}" in pair.english]  # others are looked up whole
    assert max(len(PART.findall(english)) for english in with_values) < MOST_SENTENCES


def test_a_text_of_values_alone_would_match_everything() -> None:
    assert not [pair for pair in PAIRS if len(pair.english.replace("{}", "").strip(" .:,()")) < 2]


def test_every_text_finds_itself_with_its_values() -> None:
    """No template takes the texts of another away from it."""
    for pair in PAIRS:
        values = [f"v{number}" for number in range(pair.english.count("{}"))]
        found = find(_filled(pair.english))
        assert found is not None, pair.english
        if all(not hole for hole in VALUE.findall(pair.chinese)):
            assert [value for value in values if value not in found] == [], pair.english


def _filled(template: str) -> str:
    parts = template.split("{}")
    return parts[0] + "".join(f"v{number}{part}" for number, part in enumerate(parts[1:]))


def _is_english(message: Message) -> bool:
    text = _filled(message.template.strip())
    left = [part.strip() for part in PART.split(text)[::2]]
    said = translate(text)
    return any(part and part in said and find(part) is None for part in left)


def test_what_a_technician_meets_is_translated() -> None:
    texts = [m for m in messages().values() if m.file.startswith(ROOMS) and re.search("[a-z]{2,}.* .*[a-z]{2,}", m[0])]
    english = [f"{m.file}:{m.line}: {m.template}" for m in texts if _is_english(m)]
    assert len(texts) > 700
    assert len(english) <= MOST_ENGLISH, "add them to agent/cli/chinese/*.txt:\n" + "\n".join(english)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("no answer within 2 s", "2 秒内无应答"),
        ('Did you mean "serial"? Write serial:/dev/ttyUSB0', '是否想写 "serial"？请写 serial:/dev/ttyUSB0'),
        ("512 KiB is less than the 1 MiB that the devices need; the agent raises the size to 2 MiB",
         "512 KiB 小于设备所需的 1 MiB；采集程序将其增大到 2 MiB"),
        ("The connection is established. Check the unit number 2, and whether another master uses the device",
         "连接已建立。请检查从站地址 2，以及是否有另一个主站在使用该设备"),
        ("device inv1: no answer within 2 s. Nobody wrote this", "设备 inv1：2 秒内无应答。Nobody wrote this"),
        ("Nobody wrote this. Nor that", "Nobody wrote this. Nor that"),
        ("reading all points of m1 takes 7.02 s; during this time, inv3 cannot be read every 1 s, so some of its "
         "readings will be missing (overload)",
         "采集 m1 的全部测点一次需 7.02 秒；其间 inv3 无法每 1 秒采集一次，部分读数会缺失（overload）"),
        ("cannot decode: not hex: 'zz'. Character 1, 'z', is not a hex digit. Give only the bytes of the valid frame",
         "无法解析：不是十六进制：'zz'。第 1 个字符 'z' 不是十六进制数字。请只给出有效报文的字节"),
        ("mqtt://127.0.0.1:1: [Errno 111] Connection refused", "mqtt://127.0.0.1:1：[错误码 111] 连接被拒绝"),
        ("has 401 levels, including those of its terms; at most 400 are allowed",
         "有 401 层（含各项中的层），最多允许 400 层"),
        ('"a + b" is not the name of a term or quantity. Give this formula a name in [[term]]',
         '"a + b" 不是项或量的名称。请在 [[term]] 中为该公式命名'),
        ("", ""),
    ],
)  # fmt: skip
def test_sentences_are_translated_one_by_one_and_values_stay(english: str, chinese: str) -> None:
    assert translate(english) == chinese


def test_a_value_that_looks_like_a_text_stays_a_value() -> None:
    """A device may be called "device"; braces and patterns in a name are only letters."""
    assert describe("device device", "unknown key", 'Did you mean "{0}.*(x"?') == (
        '设备 device：未知的键。是否想写 "{0}.*(x"？'
    )
    assert describe("inv1 (line roof unit 1)", "closed") == "inv1（线路 roof 从站 1）：已关闭"
    assert describe("serial:/dev/ttyUSB0, address 12", "closed") == "serial:/dev/ttyUSB0 地址 12：已关闭"
    assert describe("agent.toml:12: profile", "unknown key") == "agent.toml:12：profile：未知的键"


def test_a_long_text_is_answered_at_once() -> None:
    """Whatever a device put into it: each template reads a text once. Bounded by the timeout of the test."""
    for literal in (" ", ": ", ", ", " is ", " at ", " of ", "; ", ". "):
        text = literal * 500
        assert isinstance(translate("answer has " + text + " bytes"), str)


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of a Chinese park."""
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")


@pytest.mark.usefixtures("chinese")
def test_a_wrong_configuration_is_told_in_chinese(mh, park) -> None:
    path = park(more='limits = { turnaround = "10 ms" }\nprofle = "x"\naddress2 = 3\n')
    said = mh("check", "-c", path)
    assert said.code == 3
    line = path.read_text().splitlines().index('profle = "x"') + 1
    assert f'错误：{path}:{line}：device.inv1.profle：未知的键。是否想写 "profile"？' in said.err.splitlines()
    assert said.err.splitlines()[-1] == "共 2 处错误。"
    facts = json.loads(mh("check", "-c", path, "--json").out)  # scripts read English
    assert facts["complaints"][0]["what"] == "unknown key"


@pytest.mark.usefixtures("chinese")
def test_typographic_quotes_are_told_in_chinese(mh, tmp_path) -> None:
    (tmp_path / "agent.toml").write_text("[site]\nid = “park7”\n")
    said = mh("check", "-c", tmp_path / "agent.toml")
    assert "这是中文引号或弯引号。请切换到英文输入法，使用直引号" in said.err


@pytest.mark.usefixtures("chinese")
def test_a_wrong_answer_to_a_question_is_told_in_chinese(monkeypatch, capsys) -> None:
    answers = iter(["boiler", "grid"])
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _question: next(answers))
    assert asked("角色", role) == "grid"
    assert '"boiler" 不是有效的角色。自定义角色以 "x." 开头' in capsys.readouterr().err


@pytest.mark.usefixtures("chinese")
def test_check_shows_tables_and_warnings_in_chinese(mh, park) -> None:
    path = park(more='\n[[line]]\nname = "cabinet"\nurl = "serial:/dev/serial/by-id/usb-none-port0"\n')
    said = mh("check", "--plan", "-c", path)
    assert said.code == 0
    assert "配置正确。" in said.out and f"{path.parent}/state/store.db，最多 8 GiB；先落盘再发送" in said.out
    assert "设备  节拍" in said.out and "次请求" in said.out
    assert "已送达的数据包保留 30 天" in said.out and not re.search(r"  \d+ (min|s|d)  ", said.out), said.out
    warnings = said.err.splitlines()
    assert "警告：线路 cabinet：没有设备使用该线路" in warnings
    assert any(
        line.startswith("警告：线路 cabinet：串口 /dev/serial/by-id/usb-none-port0 不存在。") for line in warnings
    )
    assert not [line for line in warnings if not HAN.search(line)]
    english = mh("check", "--plan", "--lang", "en", "-c", path)
    assert "The configuration is good." in english.out and not HAN.search(english.out + english.err)


@pytest.mark.usefixtures("chinese")
def test_a_silent_device_is_told_in_chinese(mh, park, served) -> None:
    served.fault("silence")
    said = mh("read", "inv1", "-c", park(served.url))
    assert said.code == 4
    assert re.search(r"^错误：.*：[0-9.]+ 秒内无应答。连接已建立。请检查从站地址 1，", said.err, re.MULTILINE), said.err


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("read", "inv9"), '未知的设备 "inv9"'),
        (("read", "--profile", "no/such", "--line", "modbus-tcp://127.0.0.1:1", "--address", "1"),
         '错误：profile：没有设备模板 "no/such"'),
        (("read", "inv1"), "连接被拒绝。主机在线但该端口没有服务：该服务是否已启用，端口号是否正确？"),
        (("status",), "本机没有运行采集程序。是否已启动？"),
        (("rade",), '未知的命令 "rade"。是否想写 "read"？'),
        (("read", "--foo"), "没有选项"),
    ],
)  # fmt: skip
def test_errors_of_commands_are_chinese(mh, park, monkeypatch, args: tuple[str, ...], told: str) -> None:
    monkeypatch.setenv("MH_CONFIG", str(park()))
    said = mh(*args)
    assert said.code in (1, 2, 3, 4)
    assert said.err.startswith("错误：") and told in said.err


WRONG_USAGE = """
check --plann
check --nonsense
check extra
check extra more
scan
scan --line
scan --quick=1
scan --line x --timeout 99
scan --line x --listen 1x
scan --line x --listen=
scan --line x --protocol foo
read --repeat x
read --repeat 0
read --lang de
verify --for x
verify --ca-file HERE/nope
verify --ca-file HERE
simulate --unit 999
simulate --speed abc
simulate --turnaround x
decode registers --type uint16 0001
profiles foo
profiles show
profiles check HERE
platform nonsense
keys --nope
handover --csv HERE
replay --first 0
run --config
nonsense
--nope
"""


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("command", WRONG_USAGE.strip().splitlines())
def test_wrong_usage_is_told_in_chinese_alone(mh, tmp_path, command: str) -> None:
    """What click says, too: nothing English is left but names, values and options."""
    said = mh(*command.replace("HERE", str(tmp_path)).split())
    assert said.code == 2 and said.err.startswith("错误："), said.err
    text = re.sub(r"""'[^']*'|"[^"]*"|`[^`]*`|（.*?）""", "", said.err)
    text = re.sub(r"用法：.*|--[a-z-]+", "", text)
    assert not set(re.findall("[A-Za-z]+", text)) - {"ms", "s", "min", "h", "d"}, said.err
    assert "[OPTIONS]" not in said.err and "COMMAND" not in said.err


@pytest.mark.usefixtures("chinese")
def test_the_help_lists_the_commands_in_chinese(mh) -> None:
    said = mh("--help")
    assert "退出码：0 正常" in said.out and "检查配置" in said.out
    rows = said.out.partition("命令：")[2]
    ours = [name for name in COMMANDS if find(COMMANDS[name].help)]
    assert all(re.search(rf"^  {name} +\S*[\u4e00-\u9fff]", rows, re.MULTILINE) for name in ours) and len(ours) >= 20
    assert "信任哪些网关" in mh("platform", "--help").out


def test_english_is_as_it_was(mh, park, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default; --lang and the last command's language leave no trace."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    path = park()
    assert HAN.search(mh("check", "--lang", "zh", "-c", path).out)
    said = mh("check", "-c", path)
    assert not HAN.search(said.out + said.err)
    assert said.err.startswith("warning: agent.toml: no [[uplink]]: readings stay on this gateway\n")
    assert re.match('error: [^\n]*unknown device "inv9"', mh("read", "inv9", "-c", path).err)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert outcome(["check", "-c", str(path)]) == 0 and not HAN.search(mh("status", "-c", path).err)


def test_check_and_doctor_leave_nothing_english(mh, park) -> None:
    path = park()
    (path.parent / "conf.d").mkdir()
    (path.parent / "conf.d/empty.toml").touch()
    said = mh("check", "--plan", "--lang", "zh", "-c", path).out
    assert f"{path.name}（及 conf.d 中的 1 个文件），哈希 " in said, said
    assert "文件" in said and "derived" not in said, said
    said = mh("doctor", "--offline", "--lang", "zh", "-c", path).out
    assert "系统 " in said and "内核 " in said and "服务最近的警告和错误：" in said, said


@pytest.mark.usefixtures("chinese")
def test_the_table_of_declarations_is_chinese(capsys) -> None:
    entry = {
        "id": "5f0c2a91", "n": "declared.certificates", "v": "90", "u": "MWh", "who": "Li Wei", "at": 1.5, "from": 1,
        "document": "GEC-1", "by": {"login": "li", "uid": 1002}, "in_force": False,
    }  # fmt: skip
    _show([entry], ZoneInfo("Asia/Shanghai"))
    heads, row = capsys.readouterr().out.splitlines()
    assert heads.split() == ["编号", "输入量", "数值", "起", "止", "申报人", "录入时间", "录入用户", "凭据"]
    assert row.endswith("已被取代")


@pytest.mark.usefixtures("chinese")
def test_the_result_of_a_replay_is_chinese() -> None:
    assert _outcome({"verdict": "lost", "first": 11, "last": 15}) == "丢失 11 至 15"
    refused = {"verdict": "refused", "reason": "the daily quota of 64 MiB is used up; ask again tomorrow (UTC)"}
    assert _outcome(refused) == "被拒 当日 64 MiB 配额已用完；请明天（UTC）再试"
    assert translate("30 packs; check them with `meterhouse verify`") == "30 个数据包；请用 `meterhouse verify` 验证"


@pytest.mark.usefixtures("chinese")
def test_the_result_of_a_measurement_is_chinese(capsys) -> None:
    stages = {"decode into the ring": 0.1, "of that, the hash": 0.2, "compress": 0.3}
    facts = {"us_per_reading": stages, "durable_commits_per_s": 900.0, "readings_per_s_one_core": 1e5}
    show_measured({"machine": "x86_64, 8 cores, Python 3.11.7", **facts}, Path("/data"))
    print(translate(str(capacity_of(0.0004, 8 << 30, 4 << 30))))
    for line in capsys.readouterr().out.splitlines():
        assert HAN.search(line) and not re.search(r"[a-z]{3,}", re.sub("Python|fsync|/data", "", line)), line


@pytest.mark.usefixtures("chinese")
def test_the_sequences_up_to_which_a_key_is_trusted_are_told_in_chinese() -> None:
    assert lasts_rows({"park7/gw01/inv1": 3}) == ["受信任      park7/gw01/inv1 到序号 3"]


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"points": [[1, 2], [2, 0]]}', "清零"),
        (
            '{"points": [[5, 9], [1, 2]]}',
            "points[1] 的时间 1 早于 points[0] 的时间 5，且此处的计数值也变小。"
            "说明 points[1] 到达较晚，本命令已将各点按时间排序",
        ),
        ('{"points": 3}', "无法解析：points 应为 [时间, 数值] 的列表，得到的是 3"),
        ('{"bits": 99, "points": []}', "无法解析：bits 应为 1 至 64，得到的是 99"),
        ('{"points": [[1, "12 kWh"]]}', "数值请写成 1234.5，不带单位。缺失的读数请写 null"),
        ("zz", "不是 JSON：此处应为一个值：第 1 行第 1 列（第 0 个字符）"),
    ],
)
def test_steps_and_faults_of_a_counter_are_told_in_chinese(mh, tmp_path, text: str, told: str) -> None:
    (tmp_path / "counter.json").write_text(text)
    said = mh("decode", "counter", tmp_path / "counter.json")
    assert told in said.out + said.err


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(
    ("args", "text", "told"),
    [
        (("enrol", "FILE"), "a,b,c,d\n", "该行有 4 列"),
        (("enrol", "FILE"), "", "其中没有网关。每行应形如"),
        (
            ("convert", "hj212-2017", "--map", "FILE", "--from", "2026-11-01"),
            "",
            "应为 realtime、minutes、hour、day 之一",
        ),
        (("convert", "hj212-2017"), "", "错误：--map：缺少此选项。转换需要 --map FILE"),
        (("init",), "", '数据库 x（127.0.0.1:1）：无法连接服务器 "127.0.0.1" 端口 1：连接被拒绝。'),
    ],
)
def test_errors_of_the_platform_are_told_in_chinese(mh, tmp_path, args: tuple[str, ...], text: str, told: str) -> None:
    """There is no database here; the last command tries to open it."""
    (tmp_path / "file").write_text(text)
    words = [str(tmp_path / "file") if word == "FILE" else word for word in args]
    said = mh("platform", *words, "--db", "postgresql://u@127.0.0.1:1/x")
    assert said.code in (2, 3) and told in said.err, said.err


@pytest.mark.usefixtures("chinese")
def test_commands_and_faults_of_the_simulator_are_told_in_chinese(mh) -> None:
    lines = [_in_language(line) for line in HELP.split("\n")]
    assert all(HAN.search(line) for line in lines), lines
    assert "LINE say HEX            在线路上主动发送字节" in lines and "  silence    无应答" in lines
    assert "'x' 不是有效的值：无应答" in mh("simulate", "--profile", "dlt645/2007", "--fault", "silence=x").err


def test_a_counted_word_at_the_end_of_a_sentence_is_no_count() -> None:
    assert translate("13 streams") == "13 个数据流"
    assert translate("nobody reads the streams") == "nobody reads the streams"


def test_no_chinese_text_has_a_half_width_colon_or_semicolon() -> None:
    half = re.compile(r"[\u4e00-\u9fff\uff09][:;] ")
    assert not [one.chinese for one in PAIRS if half.search(re.sub(r"\{.*?\}", "", one.chinese))]


def test_the_files_are_short_enough_to_read() -> None:
    import agent.cli.chinese

    for path in Path(agent.cli.chinese.__file__).parent.glob("*.txt"):
        assert len(path.read_text("utf-8").splitlines()) < 600, path.name


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("scan", "扫描"),
        ("listening for another master", "监听是否有其他主站"),
        ("identifying modbus 1", "正在识别 modbus 1"),
        ("3 packs, 40 readings, 0 failed packs", "数据包 3，读数 40，失败的数据包 0"),
        ("3 packs verified, 1,440 readings, 0 failed", "已验证数据包 3，读数 1,440，失败 0"),
        ("model 103 at 40069, 50 registers", "模型 103，地址 40069，50 个寄存器"),
        ("/out: 30 packs from 2 streams of 1 gateways", "/out：1 个网关、2 个数据流的 30 个数据包"),
    ],
)
def test_the_words_of_a_progress_bar_are_chinese(english: str, chinese: str) -> None:
    assert translate(english) == chinese


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        (
            "agent.toml:5: a list is not closed. Is a ] or a comma missing?",
            "agent.toml:5：列表未闭合。是否漏写了 ] 或逗号？",
        ),
        ("agent.toml:7: a quote is not closed on this line", "agent.toml:7：本行引号未闭合"),
    ],
)
def test_a_general_template_does_not_hide_one_for_the_words_behind_a_place(text: str, chinese: str) -> None:
    """`reload` prints complaints of the running agent, each one text: "a list 不是closed"."""
    assert translate(text) == chinese
