"""The texts of `doctor`, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.cli.common import singular

# The key NAME has the text of a result, and the key NAME! has the advice for it.
TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "clock": ("clock", "时钟"),
    "disk": ("disk", "磁盘"),
    "adapter": ("adapter", "串口"),
    "permissions": ("permissions", "权限"),
    "configuration": ("configuration", "配置"),
    "destination": ("destination", "上行目标"),
    "agent": ("agent", "采集程序"),
    "good": ("good", "正常"),
    "note": ("note", "注意"),
    "fault": ("FAULT", "故障"),
    "versions": ("versions", "版本"),
    "system": ("system", "系统"),
    "kernel": ("kernel", "内核"),
    "log": ("last warnings and errors of the service", "服务最近的警告和错误"),
    "no log": ("none found in the journal", "日志中没有"),
    "all good": ("No fault found.", "未发现故障。"),
    "bundled": (
        "wrote {file} ({size}); it contains no passwords and no keys",
        "已写入 {file}（{size}），其中不含密码和密钥",
    ),
    # texts about the clock
    "clock old": ("shows {at}, which is before this software was built", "显示 {at}，早于本软件的制作时间"),
    "clock old!": (
        "Set it: `date -u -s '2026-01-31 12:00'`, then `hwclock -w`. Is the clock's battery empty?",
        "请校时：`date -u -s '2026-01-31 12:00'`，再执行 `hwclock -w`；时钟电池是否耗尽？",
    ),
    "clock unknown": ("the kernel does not report whether it is synchronised", "内核不报告时钟是否同步"),
    "clock good": (
        "synchronised, error at most {error_ms:.1f} ms{service}",
        "已同步，误差不超过 {error_ms:.1f} ms{service}",
    ),
    "clock bad": (
        "not synchronised; {service} runs, but has not reached a server",
        "未同步；{service} 正在运行，但未连上时间服务器",
    ),
    "clock alone": ("not synchronised; no time service runs", "未同步；没有运行校时服务"),
    "clock!": (
        "Every pack is marked with this. Set a time server that this box can reach, such as the park's router "
        "(NTP= in /etc/systemd/timesyncd.conf, or chrony)",
        "每个数据包都会注明。请配置本机可达的时间服务器，例如园区路由器"
        "（/etc/systemd/timesyncd.conf 的 NTP=，或 chrony）",
    ),
    # texts about the disks
    "read-only": ("{folder} is mounted read-only ({kind})", "{folder} 以只读方式挂载（{kind}）"),
    "read-only!": (
        "The kernel does that after disk errors. See `dmesg`; the disk or card may be worn out",
        "磁盘出错后内核会这样做。请查看 `dmesg`；磁盘或存储卡可能已损坏",
    ),
    "space": ("{folder} ({kind}): {free} of {size} free", "{folder}（{kind}）：共 {size}，可用 {free}"),
    "inodes": ("{folder} ({kind}): less than 5 % of the inodes left", "{folder}（{kind}）：inode 剩余不足 5%"),
    "inodes!": ("Remove folders with many small files", "请清理含大量小文件的目录"),
    "unreadable": ("{folder}: {why}", "{folder}：{why}"),
    "unreadable!": ("Is the disk mounted?", "磁盘是否已挂载？"),
    "ring on disk": ("the ring is on a disk: {folder} ({kind})", "环形缓冲区位于磁盘：{folder}（{kind}）"),
    "ring on disk!": (
        "Put it in a memory file system such as /run: the ring would wear out the disk",
        "放在内存目录（如 /run）可避免磨损磁盘",
    ),
    # texts about lines and serial adapters
    "port": ("line {line}: {port}", "线路 {line}：{port}"),
    "port missing": ("line {line}: {port} does not exist", "线路 {line}：{port} 不存在"),
    "port missing!": ("Is the adapter connected? Found: {here}", "适配器是否插好？现有：{here}"),
    "port forbidden": ("line {line}: user {user} may not open {port}", "线路 {line}：用户 {user} 无权打开 {port}"),
    "port forbidden!": (
        "`usermod -aG {group} {user}`, then restart the service",
        "执行 `usermod -aG {group} {user}`，再重启服务",
    ),
    "port held": ("line {line}: {port} is open in {holders}", "线路 {line}：{port} 被 {holders} 占用"),
    "port held!": (
        "End that program: two programs on one bus disturb each other",
        "请结束该程序：两个程序共用总线会互相干扰",
    ),
    "port tried": (
        "line {line}: {port}; {program} runs here and probes new ports",
        "线路 {line}：{port}；{program} 会试探新串口",
    ),
    "port tried!": (
        "`systemctl disable --now {program}` if nothing needs it",
        "若不需要，执行 `systemctl disable --now {program}`",
    ),
    "none": ("none", "无"),
    # texts about permissions
    "never ran": (
        "{folder} does not exist yet: the agent has not run here",
        "{folder} 尚不存在：本机还没有运行过采集程序",
    ),
    "denied": (
        "user {user}, who runs this command, may not read the configuration, so most checks were left out",
        "执行本命令的用户 {user} 无权读取配置：大部分内容无法检查",
    ),
    "denied!": ("Run it with sudo, or as the user of the agent", "请用 sudo 或以运行采集程序的用户执行"),
    "may not read": ("user {user} may not read {file}", "用户 {user} 无权读取 {file}"),
    "may not read!": (
        "`chgrp {user} {file} && chmod g+r {file}`; {user} needs x permission on every folder above",
        "执行 `chgrp {user} {file} && chmod g+r {file}`，上级目录也需要 x 权限",
    ),
    "open secret": ("everybody may read the secret {file}", "任何人都可读取机密文件 {file}"),
    "open secret!": ("`chmod o= {file}`", "执行 `chmod o= {file}`"),
    "key lost": (
        "the signing key {file} is missing, but this gateway has signed with it",
        "签名密钥 {file} 已不存在，而本网关曾用它签名",
    ),
    "key lost!": (
        "Restore the file, mode 0600, owned by the agent's user: the agent does not start without it. If it is"
        " lost: `meterhouse keys create --lost OLD_THUMBPRINT`; the new key has a new thumbprint, which every"
        " verifier must trust, too",
        "请恢复该文件，权限 0600，属主为运行程序的用户：缺少它程序无法启动。若已丢失，执行"
        " `meterhouse keys create --lost 原指纹`；新密钥即新指纹，所有验签端还须信任它",
    ),
    "permitted": (
        "user {user} can read its files; nobody else can read its secrets",
        "用户 {user} 可读取所需文件，机密文件不对他人开放",
    ),
    # texts about the agent, its configuration and its destinations
    "runs": ("runs, process {pid}", "正在运行，进程 {pid}"),
    "not running": ("no agent runs here", "本机没有运行采集程序"),
    "not found": (
        "cannot tell whether an agent runs: its folder is set in the configuration",
        "无法得知是否有采集程序在运行：其目录由配置指定",
    ),
    "not found!": ("`meterhouse doctor --runtime-dir DIR`", "`meterhouse doctor --runtime-dir 目录`"),
    "not running!": (
        "`systemctl status meterhouse`, `journalctl -u meterhouse` where systemd runs it",
        "由 systemd 运行时：`systemctl status meterhouse`、`journalctl -u meterhouse`",
    ),
    "valid": ("{file}: valid, {lines} lines, {devices} devices", "{file}：有效，{lines} 条线路，{devices} 台设备"),
}


def text(lang: str, name: str, **facts: object) -> str:
    """Return the text ``name`` in one language, with its values inserted."""
    found = TEXTS[name][lang == "zh"].format(**facts)
    return found if lang == "zh" else singular(found)
