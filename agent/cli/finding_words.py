"""The texts of findings, in English and Chinese. They tell what was found and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

LANGUAGES: Final = ("en", "zh")
Texts = tuple[str, str]  # (English text, Chinese text)


class FindingWords(NamedTuple):
    """A kind of finding. With ``exit_code`` 0 it is a note, not a fault.

    ``warns``: the note may become a fault later.
    """

    exit_code: int
    found: Texts
    advice: Texts = ("", "")
    warns: bool = False


REASONS: Final[Mapping[str, Texts]] = {  # gap reason -> text that tells why the reading does not exist
    "timeout": ("no answer in time", "应答超时"),
    "exception": ("the device refuses", "设备拒绝"),
    "crc": ("broken answers", "应答校验错误"),
    "mismatch": ("answers that do not match the request", "应答不匹配"),
    "absent": ("no such value, or not asked", "无数据或未询问"),
    "sentinel": ("the device has no value", "设备无有效值"),
    "asleep": ("asleep in the dark", "夜间休眠"),
    "overload": ("not asked in time: line busy, or the agent was paused", "未及时询问：线路忙或程序停顿"),
    "lent": ("the line was lent to a tool", "线路已借给工具"),
    "stale_source": ("the source behind the device is stale", "上游数据未更新"),
    "ring": ("overwritten before it was stored", "存盘前被覆盖"),
    "disk": ("the store could not write", "存储无法写入"),
    "stopped": ("the agent did not run", "采集程序未运行"),
    "clock": ("the clock was set", "时钟被调整"),
}

_AGENT_LOG = (
    "The agent's log says why (`journalctl -u meterhouse -n 50` where systemd runs it)",
    "原因见采集程序的日志（由 systemd 运行时：`journalctl -u meterhouse -n 50`）",
)
_CORRECT = (
    "Correct it, then `meterhouse check` and `meterhouse reload`",
    "请改正后执行 `meterhouse check` 和 `meterhouse reload`",
)
_CABLE = (
    "Check its power, cable, address and serial setting. `meterhouse watch --frames {line}` shows the frames",
    "请检查设备供电、接线、地址和串口参数；`meterhouse watch --frames {line}` 显示收发的报文",
)
_GARBLED = (
    "Check baud rate, parity and stop bits, on the serial server too. Do two devices share an address? Is there"
    " another master, or a long wire without termination? `meterhouse watch --frames {line}` shows the bytes",
    "请核对设备和串口服务器的波特率、校验位和停止位；是否有设备地址相同、有其他主站，或长线未接终端电阻？"
    "`meterhouse watch --frames {line}` 显示收到的字节",
)
_CERTIFICATE = (
    "Get a new one from the broker's operator and replace the file; no restart is needed",
    "请向消息代理的运维方索取新证书并替换该文件，无需重启",
)
_BROKER_CERTIFICATE = ("Ask the broker's operator to renew it", "请让消息代理的运维方更换证书")
_CLOCK_SET = (
    "Find out who sets the clock: `timedatectl` shows whether a time server does. The page Days shows the time that it"
    " jumped over with its reason",
    "请查明是谁调整了时钟：`timedatectl` 可显示是否由时间服务器校时。“日曲线”页将跳过的时间连同原因标出",
)
_CLOCK = (
    "Readings go on and are marked. Can this gateway reach a time server? See `timedatectl`. Without internet access,"
    " set one in this network: NTP= in /etc/systemd/timesyncd.conf, then `systemctl restart systemd-timesyncd`",
    "读数照常采集并带标记。能否连到时间服务器？请看 `timedatectl`；无外网时在 /etc/systemd/timesyncd.conf 的 NTP= 中"
    "填写内网时间服务器，再执行 `systemctl restart systemd-timesyncd`",
)

SILENT: Final[Texts] = ("not asked while it is silent", "无应答期间未询问")
WAS_SILENT: Final[Texts] = ("not asked while it was silent", SILENT[1])  # it answers again
LINE_DOWN: Final[Texts] = ("its line is not open", "线路未打开")
STALLED: Final[Texts] = (
    "not asked in time: the line was not busy, so the agent or this machine was paused",
    "未及时询问：线路并不繁忙，是采集程序或本机曾停顿",
)
STALLED_ADVICE: Final[Texts] = (
    "Was the machine suspended, out of memory or busy with something else? The agent's log says when"
    " (`journalctl -u meterhouse` where systemd runs it)",
    "本机是否曾被挂起、内存不足或被其他任务占满？时间见程序日志（由 systemd 运行时用 `journalctl -u meterhouse`）",
)
BECAUSE: Final[Mapping[str, Texts]] = {  # gap reason -> text that tells what to do
    "timeout": (
        "Is the cable too long, the termination missing, the device slow (limits.timeout), or is there another master?"
        " `meterhouse watch --frames {line}` shows the frames",
        "线路是否过长、缺终端电阻，设备应答是否较慢（limits.timeout），是否有其他主站？"
        "`meterhouse watch --frames {line}` 显示收发的报文",
    ),
    "exception": (
        "`meterhouse read {name}` lists the refused points: leave them out with `points`, or choose another profile",
        "`meterhouse read {name}` 列出被拒绝的测点：请在 points 中去掉，或换用其他设备模板",
    ),
    "crc": (
        "Check wiring, shield, termination and baud rate: `meterhouse watch --frames {line}`",
        "请检查接线、屏蔽、终端电阻和波特率：`meterhouse watch --frames {line}`",
    ),
    "mismatch": (
        "Do two devices share its address, or is there another master? `meterhouse watch --frames {line}`",
        "是否有两台设备地址相同，或有其他主站？`meterhouse watch --frames {line}`",
    ),
    "absent": (
        "The device did not answer for part of this time. The agent's log says when (`journalctl -u meterhouse` where"
        " systemd runs it)",
        "该时段内设备曾无应答，时间见采集程序的日志（由 systemd 运行时：`journalctl -u meterhouse`）",
    ),
    "sentinel": (
        "`meterhouse read {name}` shows which points have no value",
        "`meterhouse read {name}` 显示哪些测点没有值",
    ),
    "overload": (
        "Read it less often (a longer `every`); `meterhouse check --plan` shows what uses the time of line {line}",
        "请加大采集周期（every）：`meterhouse check --plan` 显示线路 {line} 的时间花在哪里",
    ),
    "stale_source": (
        "The logger answers for a device that it does not read: check the device behind it",
        "采集器在代替一台它读不到的设备应答：请检查其后面的设备",
    ),
    "ring": _AGENT_LOG,
    "disk": _AGENT_LOG,
}

FINDINGS: Final[Mapping[str, FindingWords]] = {
    # --- the gateway itself
    "agent-gone": FindingWords(
        1,
        (
            "the agent is not running any more (process {pid}); the status shown is {age} old",
            "采集程序已退出（进程 {pid}）；所示数据为 {age}前",
        ),
        (
            "Start it: `systemctl start meterhouse`. " + _AGENT_LOG[0],
            "请启动：`systemctl start meterhouse`；" + _AGENT_LOG[1],
        ),
    ),
    "agent-hangs": FindingWords(
        1,
        (
            "the agent has written no snapshot for {age}: it hangs, or the clock was set",
            "采集程序已有 {age}未更新状态：程序卡住，或时钟被调整",
        ),
        (
            "`systemctl restart meterhouse`; the readings so far are kept",
            "请执行 `systemctl restart meterhouse`，已采集的数据会保留",
        ),
    ),
    "runtime-directory-full": FindingWords(
        1,
        (
            "the runtime directory is full: the agent cannot write its status; the status shown is {age} old",
            "运行目录已满：采集程序无法更新状态，所示数据为 {age}前",
        ),
        (
            "Free space there ([paths] runtime_dir). Readings go on; if the store is on the same disk, they stay in the"
            " ring meanwhile",
            "请清理该目录（[paths] runtime_dir）。采集仍在继续；若存储在同一磁盘上，数据暂存于环形缓冲区",
        ),
    ),
    "store-trouble": FindingWords(
        1,
        ("store: {what}", "存储：{what}"),
        (
            "Readings stay in memory meanwhile. Free some space on the disk, or see the log",
            "读数暂存在内存中。请清理磁盘空间，或查看日志",
        ),
    ),
    "disk-nearly-full": FindingWords(
        1,
        ("the disk with {path} is nearly full: {free} left", "{path} 所在磁盘将满：剩余 {free}"),
        (
            "Delete other files on it (`du -xh / | sort -h | tail` shows the largest), or use a larger disk",
            "请删除该磁盘上的其他文件（`du -xh / | sort -h | tail` 可查找占用者），或换用更大的磁盘",
        ),
    ),
    "store-nearly-full": FindingWords(
        1,
        (
            "the store is {share} full: {name} has not confirmed {count} packs",
            "存储已用 {share}：{name} 尚有 {count} 个数据包未确认",
        ),
        (
            "At the limit the oldest packs are lost. Restore the connection, or raise [store] max_size",
            "达到上限后最早的数据包会丢失。请恢复连接，或调大 [store] max_size",
        ),
    ),
    "store-full-of-undelivered": FindingWords(
        1,
        (
            "the store is {share} full: {count} packs wait for a destination, and none is configured",
            "存储已用 {share}：{count} 个数据包等待上行目标，但未配置任何上行目标",
        ),
        (
            "At the limit the oldest packs are lost. Add an [[uplink]], or raise [store] max_size",
            "达到上限后最早的数据包会丢失。请添加 [[uplink]]，或调大 [store] max_size",
        ),
    ),
    "no-destination": FindingWords(
        0,
        (
            "no [[uplink]] is configured: {count} packs are kept, and none counts as confirmed",
            "未配置 [[uplink]]：已保留 {count} 个数据包，均不视为已确认",
        ),
        ("The first [[uplink]] that you add gets them", "添加第一个 [[uplink]] 后，它们会发送给它"),
    ),
    "packs-lost": FindingWords(
        1,
        (
            "{count} packs were lost before they were delivered, the last {age} ago",
            "有 {count} 个数据包未送达即丢失，最近一次在 {age}前",
        ),
        (
            "The loss is recorded in the streams with its reason. `size_cap`: restore the connection, or raise [store]"
            " max_size. `damaged`: replace the disk or memory card",
            "数据流中已注明该丢失及原因。size_cap：请恢复连接，或调大 [store] max_size；damaged：请更换磁盘或存储卡",
        ),
    ),
    "database-set-aside": FindingWords(
        0,
        (
            "the database was damaged and set aside as {file}. Only that file has its declarations ({declarations}) and"
            " its facts about devices ({devices})",
            "数据库已损坏，已移为 {file}；其中 {declarations} 个录入项和 {devices} 台设备的信息未转入新数据库",
        ),
        (
            "Enter the declarations again (`meterhouse declare`); until then, figures lack them. The agent asks devices"
            " for their facts again. Keep the file",
            "请用 `meterhouse declare` 重新提交录入项，此前指标不含这些录入项。设备信息会重新读取。请保留该文件",
        ),
        warns=True,
    ),
    "store-warning": FindingWords(
        1,
        ("{what}", "{what}"),
        (
            "Put [paths] state_dir on a local disk with enough space and a journaling file system such as ext4",
            "请把 [paths] state_dir 放到空间足够的本地磁盘，使用 ext4 等带日志的文件系统",
        ),
    ),
    "clock-not-synchronised": FindingWords(
        1, ("the clock of this gateway is not synchronised", "本网关的时钟未同步"), _CLOCK
    ),
    "clock-set-forward": FindingWords(
        0,
        (
            "the clock was set forward by {span}, {age} ago: there are no readings of the time that it jumped over",
            "{age}前时钟被拨快 {span}：跳过的时间没有读数",
        ),
        _CLOCK_SET,
        warns=True,
    ),
    "clock-set-back": FindingWords(
        0,
        (
            "the clock was set back by {span}, {age} ago: the readings of this time occur twice",
            "{age}前时钟被拨慢 {span}：这段时间的读数出现两次",
        ),
        _CLOCK_SET,
        warns=True,
    ),
    "clock-behind": FindingWords(
        1,
        (
            "the clock is {age} behind the newest packs in the store: one of the two is wrong",
            "时钟比存储中最新的数据包晚 {age}：两者必有一个不对",
        ),
        (
            "Compare `date -u` with your watch. If the clock is right, those packs were sealed with a wrong one, and"
            " this message disappears once the clock is synchronised",
            "请核对 `date -u`。若时间正确，说明那些数据包是在时钟错误时封存的，时钟同步后此提示消失",
        ),
    ),
    "key-trouble": FindingWords(
        1,
        ("signing key: {what}", "签名密钥：{what}"),
        (
            "The agent still signs with the key in memory, but its next start will fail. Restore the file, mode 0600,"
            " owned by the agent's user",
            "程序仍用内存中的密钥签名，但下次启动会失败。请恢复该文件，权限 0600，属主为运行程序的用户",
        ),
    ),
    "key-cannot-sign": FindingWords(
        1,
        ("the signing key cannot sign: {what}", "签名密钥无法签名：{what}"),
        (
            "Readings stay in memory meanwhile. Check that the token with the key is connected and unlocked",
            "读数暂存在内存中。请检查存放密钥的令牌是否已连接并解锁",
        ),
    ),
    "key-open": FindingWords(
        1,
        (
            "signing key {file}: others may read or change it (mode {mode})",
            "签名密钥 {file}：他人可以读取或修改（权限 {mode}）",
        ),
        (
            "`chmod 600 {file}`: with the present mode the next start fails. If a stranger may have read the key,"
            " replace it: `meterhouse keys revoke`",
            "执行 `chmod 600 {file}`；权限不改则下次启动会失败。若可能已被他人读取，请更换：`meterhouse keys revoke`",
        ),
    ),
    "intervals-delayed": FindingWords(
        1,
        ("intervals are delayed: {what}", "时段电量延迟：{what}"),
        ("They are completed later without action", "稍后会自动补上"),
    ),
    "intervals-stopped": FindingWords(
        1,
        ("intervals of {names} stopped by an error in the agent", "{names} 的时段电量因程序内部错误停止"),
        (
            "A restart rebuilds them from the packs: `systemctl restart meterhouse`",
            "重启后由数据包重建：`systemctl restart meterhouse`",
        ),
    ),
    "readings-lost": FindingWords(
        1,
        (
            "readings of {names} were lost because the store could not take them",
            "因存储无法写入，{names} 的读数有丢失",
        ),
        ("See the store and the disk. " + _AGENT_LOG[0], "请检查存储和磁盘；" + _AGENT_LOG[1]),
    ),
    "config-invalid": FindingWords(
        3,
        (
            "the configuration on disk is invalid, so a start or reload would fail: {what}",
            "磁盘上的配置有误，启动或重新加载会失败：{what}",
        ),
        _CORRECT,
    ),
    "config-rejected": FindingWords(
        3,
        (
            "the configuration was rejected, so the previous one stays in effect: {what}",
            "配置被拒绝，仍使用之前的配置：{what}",
        ),
        _CORRECT,
    ),
    "config-edited": FindingWords(
        0,
        (
            "the files of {file} differ from the configuration in effect",
            "{file} 及 conf.d 中的文件与当前生效的配置不同",
        ),
        ("`meterhouse reload` brings them into effect", "执行 `meterhouse reload` 使其生效"),
    ),
    "devices-without-role": FindingWords(
        0,
        (
            "devices without a role are not included in any figure: {names}",
            "{names} 没有角色，其计量不计入任何指标",
        ),
        (
            'Write roles.ac = "grid" (or load, generation.pv, storage, ...) into each [[device]]. If they are not to'
            ' count, give them a role "x.NAME" of your own. Then `meterhouse reload`',
            '请在 [[device]] 中写 roles.ac = "grid"（load、generation.pv、storage等）；若确不计入，可写自定义角色'
            ' "x.NAME"；然后执行 `meterhouse reload`',
        ),
    ),
    # --- lines and devices
    "device-dead": FindingWords(
        4, ("device {name} has not answered for {age}{why}", "设备 {name} 已 {age}无应答{why}"), _CABLE
    ),
    "device-dead-behind-gateway": FindingWords(
        4,
        ("device {name} has not answered for {age}{why}", "设备 {name} 已 {age}无应答{why}"),
        (
            "The errors come from its serial server or gateway, or from a fault of the device itself. Check its power,"
            " its address, the cable to the serial server, and the serial setting there."
            " `meterhouse watch --frames {line}`",
            "应答来自串口服务器或网关，或设备自身故障。请检查设备供电、地址、串口服务器与设备之间的接线，"
            "以及串口服务器上的串口参数；`meterhouse watch --frames {line}`",
        ),
    ),
    "device-dead-or-asleep": FindingWords(
        4,
        ("device {name} has not answered for {age}{why}", "设备 {name} 已 {age}无应答{why}"),
        (
            "At night it may be asleep: set latitude and longitude in [site], then that is not a fault."
            " By day, check its power, cable and address",
            "若是夜间，设备可能休眠：在 [site] 中填写 latitude 和 longitude 后不再算故障；"
            "若是白天，请检查供电、接线和地址",
        ),
    ),
    "device-never-answered": FindingWords(
        4,
        ("device {name} has not answered since the start, {age} ago{why}", "设备 {name} 启动 {age}以来从未应答{why}"),
        _CABLE,
    ),
    "device-garbled": FindingWords(
        4,
        (
            "device {name} answers, but no frame has been valid for {age}; in ten minutes {words}{why}",
            "设备 {name} 有应答，但没有一帧正确，已 {age}；十分钟内 {words}{why}",
        ),
        _GARBLED,
    ),
    "device-unreachable": FindingWords(
        4,
        ("device {name} cannot be reached{why}", "无法连接设备 {name}{why}"),
        (
            "Its line {line} cannot be opened: check the adapter or the network",
            "线路 {line} 打不开：请检查适配器或网络",
        ),
    ),
    "device-not-asked": FindingWords(
        0,
        (
            "line {line} of device {name} is open again; the device is read when it is next due",
            "设备 {name} 的线路 {line} 已恢复；将在下一采集时刻再次读取",
        ),
    ),
    "device-read-twice": FindingWords(
        4,
        (
            "{names} report the same serial number {serial}: one device that is read as several",
            "{names} 报告相同的序列号 {serial}：同一台设备被当作多台读取",
        ),
        (
            "Its energy counts several times. Compare the nameplates, and remove the extra ones from the configuration",
            "其计量被重复计算。请核对铭牌，并从配置中去掉多余的设备",
        ),
    ),
    "devices-same-serial": FindingWords(
        0,
        (
            "{names} report the same serial number {serial}, with different profiles",
            "{names} 报告相同的序列号 {serial}，但设备模板不同",
        ),
        (
            "If they are one device, only one of them may have a role for the same energy",
            "若为同一台设备，同一份电量只能有一个带角色",
        ),
    ),
    "device-swapped": FindingWords(
        4,
        ("another device has answered as {name} for {age}: {change}", "{age}前起，{name} 的地址上换了设备：{change}"),
        (
            "Its counters start over. If the swap was intended, check ratio and role, then `meterhouse reload`",
            "其计数重新开始。若确为更换，请核对变比和用途，再执行 `meterhouse reload` 确认",
        ),
    ),
    "device-incomplete": FindingWords(
        4,
        (
            "device {name} delivered {share} of its readings in {span}; {count} of {due} are missing ({why}){again}",
            "设备 {name} 在 {span}内数据完整率 {share}；应有 {due} 个，其中 {count} 个缺失（{why}）{again}",
        ),
        ("{advice}", "{advice}"),
    ),
    "device-without-values": FindingWords(
        4,
        (
            "device {name} answers, but gave no value for any point in {span}",
            "设备 {name} 有应答，但 {span}内没有任何有效值",
        ),
        (
            "Is the measured circuit switched on? See `meterhouse read {name}`",
            "被测对象是否已投运？请看 `meterhouse read {name}`",
        ),
    ),
    "device-doubtful": FindingWords(
        4,
        (
            "device {name}: {count} of {due} values in {span} cannot be right ({words})",
            "设备 {name}：{span}内 {due} 个值中有 {count} 个不可信（{words}）",
        ),
        (
            "`meterhouse read {name}` shows which. Is it the right profile, and the right word order?",
            "`meterhouse read {name}` 显示是哪些。设备模板和字节序是否正确？",
        ),
    ),
    "device-suspect": FindingWords(
        4,
        (
            "device {name}: {count} of {due} values in {span} are suspect: a counter fell or leapt,"
            " or answers came late",
            "设备 {name}：{span}内 {due} 个值中有 {count} 个可疑：电能等累计值倒退或突增，或应答迟到",
        ),
        (
            "Was the meter reset or exchanged? Its values are kept and marked for about a minute, until the counter"
            " has counted on from its new value. If this lasts, compare `meterhouse read {name}` with the display"
            " twice: two devices may answer at this address, or the word order may be wrong",
            "电表是否被清零或更换？其读数会保留，并标记约一分钟，直到累计值从新值继续累加。若持续出现，请将"
            " `meterhouse read {name}` 与显示屏核对两次：可能有两台设备使用同一地址，或字节序有误",
        ),
    ),
    "line-down": FindingWords(
        4,
        (
            "line {line} cannot be opened: {count} devices are not read ({names}){why}",
            "线路 {line} 打不开：{count} 台设备未采集（{names}）{why}",
        ),
        (
            "Is the adapter plugged in, the serial server or gateway switched on, its network cable connected? The"
            " agent reopens the line by itself",
            "适配器是否插好，串口服务器或网关是否通电，网线是否接好？采集程序会自动重新打开线路",
        ),
    ),
    "line-silent": FindingWords(
        4,
        ("no device on line {line} answers: {names}{why}", "线路 {line} 上没有设备应答：{names}{why}"),
        (
            "Is the cable cut or loose near the adapter, are A and B swapped, are all the devices without power?"
            " `meterhouse watch --frames {line}` shows the frames",
            "适配器附近的线是否断开或松动，A、B 是否接反，设备是否全部断电？"
            "`meterhouse watch --frames {line}` 显示收发的报文",
        ),
    ),
    "line-garbled": FindingWords(
        4,
        (
            "devices on line {line} answer, but no frame is valid: {names}{why}",
            "线路 {line} 上的设备有应答，但没有一帧正确：{names}{why}",
        ),
        _GARBLED,
    ),
    "line-overloaded": FindingWords(
        4,
        (
            "line {name} is {busy} busy: readings of {names} are late or missing",
            "线路 {name} 占用 {busy}：{names} 的读数延迟或缺失",
        ),
        (
            "Read less often (a longer `every`), use a higher baud rate, or move devices to another line."
            " `meterhouse check --plan` shows what uses the time",
            "请加大采集周期（every）、提高波特率，或把部分设备移到其他线路；`meterhouse check --plan` 显示时间花在哪里",
        ),
    ),
    "device-broken-answers": FindingWords(
        0,
        (
            "device {name}: {count} of its last {due} answers were unusable and requested again ({share}: {words})",
            "设备 {name}：最近 {due} 个应答中有 {count} 个损坏（{share}：{words}），已重新询问",
        ),
        (
            "If this gets worse, readings are lost. Check termination, shield, polarity, cable length and baud rate."
            " Do two devices share its address, or is there another master? `meterhouse watch --frames {line}` marks"
            " such answers with !!",
            "若继续增多，读数会缺失。请检查终端电阻、屏蔽、极性、线路长度和波特率；是否有设备地址相同，或有其他主站？"
            "`meterhouse watch --frames {line}` 用 !! 标出这些应答",
        ),
        warns=True,
    ),
    "device-refuses": FindingWords(
        0,
        (
            "device {name} refuses {count} of {due} readings in {span}{points}",
            "设备 {name} 在 {span}内 {due} 个读数中拒绝了 {count} 个{points}",
        ),
        (
            "`meterhouse read {name}` lists the refused points and why. Leave them out with `points`, or choose another"
            " profile",
            "`meterhouse read {name}` 列出被拒绝的测点及原因：请在 points 中去掉，或换用其他设备模板",
        ),
        warns=True,
    ),
    "device-still": FindingWords(
        0,
        (
            "device {name}: the values do not change: {count} have been the same to the last digit for {age}",
            "设备 {name}：数值没有变化，{count} 个值在 {age}内完全相同",
        ),
        (
            "Compare with its display. A gateway, logger or converter may repeat old answers: check the device behind"
            " it and restart the box in between. `fresh` in the profile or device detects this within seconds",
            "请与设备显示屏核对。网关、采集器或转换器可能在重复旧应答：请检查其后面的设备，并重启中间的装置；"
            "在设备模板中设置 fresh 可在数秒内发现",
        ),
        warns=True,
    ),
    "device-counter-jumped": FindingWords(
        0,
        (
            "device {name}: {age} ago {counter} went from {from} to {to} {u} at once, and has counted on from there",
            "设备 {name}：{age} 前 {counter} 由 {from} 突变为 {to} {u}，此后由该值继续计数",
        ),
        (
            "Was the meter exchanged or reset? Its serial number has not changed. Check its ratio and role; then"
            " `meterhouse reload` confirms it",
            "是否更换了表计或清零？其序列号没有变化。请核对变比和用途，再执行 `meterhouse reload` 确认",
        ),
        warns=True,
    ),
    "device-counter-still": FindingWords(
        0,
        (
            "device {name}: {counter} has not moved for {age}, while {power} was {least} or more",
            "设备 {name}：{counter} 在 {age}内没有变化，而 {power} 一直不低于 {least}",
        ),
        (
            "Compare the counter with its display. If it moves there, the profile reads another register: try another"
            " profile or address. If it does not, the meter does not count: check the current transformers, test mode,"
            " and whether a gateway in between repeats old values. `meterhouse read {name} --repeat 5` shows both",
            "请与设备显示屏上的电能核对。若屏上在走字，则模板读的是别的寄存器：请换用其他模板或地址。若屏上也不走字，"
            "则电能表没有计量：请检查电流互感器、是否处于测试模式，或中间的网关是否在重复旧值。"
            "`meterhouse read {name} --repeat 5` 可同时查看两者",
        ),
        warns=True,
    ),
    "device-all-zero": FindingWords(
        0,
        (
            "device {name}: all {count} values have been 0 for {age}, voltages included",
            "设备 {name}：全部 {count} 个值在 {age}内均为 0，包括电压",
        ),
        (
            "Is its measuring voltage connected (fuses, terminals)? Does a gateway answer for a device that it cannot"
            " read? Is it the right profile? Compare `meterhouse read {name}` with its display",
            "测量电压是否接入（熔断器、端子）？网关是否在代替读不到的设备应答？设备模板是否正确？"
            "请将 `meterhouse read {name}` 与设备显示屏核对",
        ),
        warns=True,
    ),
    "device-not-heard": FindingWords(
        0,
        ("device {name} has not answered yet, {age} after its start{why}", "设备 {name} 启动 {age}后尚未应答{why}"),
    ),
    "device-early": FindingWords(
        0,
        (
            "device {name}: {share} good readings so far; the first minute and the first ten polls do not count yet",
            "设备 {name}：目前有效读数 {share}；启动后第一分钟和前十次采集暂不计入",
        ),
    ),
    "device-some-doubtful": FindingWords(
        0,
        (
            "device {name}: {count} of {due} values in {span} are marked ({words})",
            "设备 {name}：{span}内 {due} 个值中有 {count} 个带标记（{words}）",
        ),
    ),
    "readings-excused": FindingWords(
        0,
        (
            "not counted as missing: {count} readings of {names} ({why})",
            "不计为缺失：{names} 的 {count} 个读数（{why}）",
        ),
    ),
    "device-lacks-values": FindingWords(
        0,
        (
            "device {name} has no value for {count} of {due} readings in {span} (sentinel, absent)",
            "设备 {name} 在 {span}内 {due} 个读数中有 {count} 个没有值（设备无有效值或未询问）",
        ),
        (
            "Use `points` in its [[device]] to leave out the points that the device does not have",
            "设备没有的测点，可在 [[device]] 的 points 中去掉",
        ),
    ),
    # --- destinations
    "uplink-down": FindingWords(
        5, ("destination {name} cannot be reached{why}", "无法连接上行目标 {name}{why}"), ("{hint}", "{hint}")
    ),
    "uplink-no-subscriber": FindingWords(
        5,
        (
            "no subscriber for packs at destination {name}: {waiting} packs are waiting",
            "上行目标 {name} 没有接收方订阅，{waiting} 个数据包在等待",
        ),
        (
            "Packs are kept. Is the platform running, and subscribed to {topic}?",
            "数据包已保留。平台是否在运行，并订阅了 {topic}？",
        ),
    ),
    "uplink-refusing": FindingWords(
        5,
        (
            "destination {name} refuses packs{why}; {waiting} are waiting, {count} are set aside",
            "上行目标 {name} 拒收数据包{why}；等待 {waiting} 个，搁置 {count} 个",
        ),
        ("{hint}", "{hint}"),
    ),
    "certificate-unreadable": FindingWords(
        1,
        (
            "destination {name}: {what} {file} cannot be read: {why}",
            "上行目标 {name}：证书 {file} 无法读取：{why}",
        ),
        ("The user that runs the agent must be able to read it", "运行程序的用户必须能读取它"),
    ),
    "certificate-expired": FindingWords(
        1,
        (
            "destination {name}: {what} {file} expired {days} days ago",
            "上行目标 {name}：证书 {file} 已过期 {days} 天",
        ),
        _CERTIFICATE,
    ),
    "certificate-expires": FindingWords(
        1,
        (
            "destination {name}: {what} {file} expires in {days} days",
            "上行目标 {name}：证书 {file} 将在 {days} 天后过期",
        ),
        _CERTIFICATE,
    ),
    "broker-certificate-expires": FindingWords(
        1,
        (
            "destination {name}: the certificate of the broker expires in {days} days",
            "上行目标 {name}：消息代理的证书将在 {days} 天后过期",
        ),
        _BROKER_CERTIFICATE,
    ),
    "broker-certificate-expired": FindingWords(
        1,
        (
            "destination {name}: the certificate of the broker expired {days} days ago",
            "上行目标 {name}：消息代理的证书已过期 {days} 天",
        ),
        _BROKER_CERTIFICATE,
    ),
}


def device_reason(reason: str, device: Mapping[str, object]) -> Texts:
    """Return more exact words than ``reason_words``: the device's snapshot tells why a silent device was not asked."""
    if reason == "absent" and device.get("line_down"):
        return LINE_DOWN
    return SILENT if reason == "absent" and device.get("life") == "dead" else reason_words(reason)


def reason_words(reason: str) -> Texts:
    """Return texts in both languages that tell why a reading is missing."""
    return REASONS.get(reason, (reason, reason))
