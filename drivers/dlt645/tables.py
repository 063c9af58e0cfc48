"""The data identifiers of DL/T 645-2007 (annex A) that have their own formats. Regular families are in ``values``."""

from __future__ import annotations

from drivers.dlt645.fields import Field

# energy and demand: DI2 -> (name below ``ac.energy.``, label, unit of energy, whether the value may be negative)
ENERGY_KINDS: dict[int, tuple[str, str, str, bool]] = {
    0x00: ("total", "组合有功", "kWh", True),
    0x01: ("import", "正向有功", "kWh", False),
    0x02: ("export", "反向有功", "kWh", False),
    0x03: ("reactive.import", "组合无功1", "kvarh", True),
    0x04: ("reactive.export", "组合无功2", "kvarh", True),
    0x05: ("reactive.quadrant.1", "第一象限无功", "kvarh", False),
    0x06: ("reactive.quadrant.2", "第二象限无功", "kvarh", False),
    0x07: ("reactive.quadrant.3", "第三象限无功", "kvarh", False),
    0x08: ("reactive.quadrant.4", "第四象限无功", "kvarh", False),
    0x09: ("apparent", "正向视在", "kVAh", False),
    0x0A: ("apparent.export", "反向视在", "kVAh", False),
    0x80: ("associated", "关联", "kWh", True),
    0x81: ("fundamental.import", "正向有功基波", "kWh", False),
    0x82: ("fundamental.export", "反向有功基波", "kWh", False),
    0x83: ("harmonic.import", "正向有功谐波", "kWh", False),
    0x84: ("harmonic.export", "反向有功谐波", "kWh", False),
    0x85: ("loss.copper", "铜损有功补偿", "kWh", False),
    0x86: ("loss.iron", "铁损有功补偿", "kWh", False),
}
for _phase, _first in ((1, 0x15), (2, 0x29), (3, 0x3D)):
    for _kind in range(0x01, 0x0B):
        _name, _label, _unit, _signed = ENERGY_KINDS[_kind]
        ENERGY_KINDS[_first + _kind - 1] = (f"{_name}.l{_phase}", f"{'ABC'[_phase - 1]}相{_label}", _unit, _signed)

DEMAND_UNITS = {"kWh": "kW", "kvarh": "kvar", "kVAh": "kVA"}

# instantaneous values: DI2 -> (name, label, size, decimals, unit, kind, whether DI1 = 00 is a total)
MOMENTARY: dict[int, tuple[str, str, int, int, str, str, bool]] = {
    0x01: ("ac.voltage", "电压", 2, 1, "V", "bcd", False),
    0x02: ("ac.current", "电流", 3, 3, "A", "signed", False),
    0x03: ("ac.power.active", "有功功率", 3, 4, "kW", "signed", True),
    0x04: ("ac.power.reactive", "无功功率", 3, 4, "kvar", "signed", True),
    0x05: ("ac.power.apparent", "视在功率", 3, 4, "kVA", "bcd", True),
    0x06: ("ac.power.factor", "功率因数", 2, 3, "", "signed", True),
    0x07: ("ac.angle", "相角", 2, 1, "deg", "bcd", False),
    0x08: ("ac.thd.voltage", "电压波形失真度", 2, 2, "%", "bcd", False),
    0x09: ("ac.thd.current", "电流波形失真度", 2, 2, "%", "bcd", False),
    0x0C: ("ac.voltage", "线电压", 2, 1, "V", "bcd", False),
}

_ASCII, _BITS = "ascii", "bits"

FIXED: dict[int, Field] = {
    di: Field(name, label, size, decimals, unit, kind)
    for di, name, label, size, decimals, unit, kind in (
        (0x00900100, "x.energy.remaining", "(当前)剩余电量", 4, 2, "kWh", "bcd"),
        (0x00900101, "x.energy.overdraft", "(当前)透支电量", 4, 2, "kWh", "bcd"),
        (0x00900200, "x.money.remaining", "(当前)剩余金额", 4, 2, "CNY", "bcd"),
        (0x00900201, "x.money.overdraft", "(当前)透支金额", 4, 2, "CNY", "bcd"),
        (0x02800001, "ac.current.n", "零线电流", 3, 3, "A", "signed"),
        (0x02800002, "ac.frequency", "电网频率", 2, 2, "Hz", "bcd"),
        (0x02800003, "x.ac.power.active.mean", "一分钟有功总平均功率", 3, 4, "kW", "signed"),
        (0x02800004, "ac.demand.active", "当前有功需量", 3, 4, "kW", "signed"),
        (0x02800005, "ac.demand.reactive", "当前无功需量", 3, 4, "kvar", "signed"),
        (0x02800006, "ac.demand.apparent", "当前视在需量", 3, 4, "kVA", "bcd"),
        (0x02800007, "device.temperature", "表内温度", 2, 1, "Cel", "signed"),
        (0x02800008, "device.voltage.battery", "时钟电池电压(内部)", 2, 2, "V", "bcd"),
        (0x02800009, "x.device.voltage.backup", "停电抄表电池电压(外部)", 2, 2, "V", "bcd"),
        (0x0280000A, "x.device.runtime.battery", "内部电池工作时间", 4, 0, "min", "bcd"),
        (0x0280000B, "x.price.step", "当前阶梯电价", 4, 4, "CNY/kWh", "bcd"),
        (0x02800020, "x.price", "当前电价", 4, 4, "CNY/kWh", "bcd"),
        (0x02800021, "x.price.tariff", "当前费率电价", 4, 4, "CNY/kWh", "bcd"),
        (0x02800022, "x.authentication.left", "身份认证时效剩余时间", 2, 0, "min", "bcd"),
        (0x03110000, "x.count.power_off", "掉电总次数", 3, 0, "", "bcd"),
        (0x03300000, "x.count.programming", "编程总次数", 3, 0, "", "bcd"),
        (0x03300100, "x.count.meter_clear", "电表清零总次数", 3, 0, "", "bcd"),
        (0x03300200, "x.count.demand_clear", "需量清零总次数", 3, 0, "", "bcd"),
        (0x03300300, "x.count.event_clear", "事件清零总次数", 3, 0, "", "bcd"),
        (0x03300400, "x.count.clock_set", "校时总次数", 3, 0, "", "bcd"),
        (0x03300500, "x.count.day_table", "时段表编程总次数", 3, 0, "", "bcd"),
        (0x03300600, "x.count.season_table", "时区表编程总次数", 3, 0, "", "bcd"),
        (0x03300700, "x.count.rest_day", "周休日编程总次数", 3, 0, "", "bcd"),
        (0x03300800, "x.count.holiday", "节假日编程总次数", 3, 0, "", "bcd"),
        (0x03300D00, "x.count.cover", "开表盖总次数", 3, 0, "", "bcd"),
        (0x03300E00, "x.count.terminal_cover", "开端钮盒总次数", 3, 0, "", "bcd"),
        (0x04000101, "x.device.date", "日期及星期", 4, 0, "", "date"),
        (0x04000102, "device.time", "时间", 3, 0, "", "time"),
        (0x04000103, "x.demand.period", "最大需量周期", 1, 0, "min", "bcd"),
        (0x04000104, "x.demand.slip", "滑差时间", 1, 0, "min", "bcd"),
        (0x04000105, "x.pulse.width", "校表脉冲宽度", 2, 0, "ms", "bcd"),
        (0x04000106, "x.switch.season", "两套时区表切换时间", 5, 0, "", "stamp"),
        (0x04000107, "x.switch.day", "两套日时段表切换时间", 5, 0, "", "stamp"),
        (0x0400010C, "device.time", "日期时间", 7, 0, "", "datetime"),
        (0x04000201, "x.tariff.seasons", "年时区数", 1, 0, "", "bcd"),
        (0x04000202, "x.tariff.day_tables", "日时段表数", 1, 0, "", "bcd"),
        (0x04000203, "x.tariff.day_slots", "日时段数", 1, 0, "", "bcd"),
        (0x04000204, "x.tariffs", "费率数", 1, 0, "", "bcd"),
        (0x04000205, "x.tariff.holidays", "公共假日数", 2, 0, "", "bcd"),
        (0x04000206, "x.harmonics", "谐波分析次数", 1, 0, "", "bcd"),
        (0x04000301, "x.display.screens", "自动循环显示屏数", 1, 0, "", "bcd"),
        (0x04000302, "x.display.time", "每屏显示时间", 1, 0, "s", "bcd"),
        (0x04000303, "x.display.decimals.energy", "显示电能小数位数", 1, 0, "", "bcd"),
        (0x04000304, "x.display.decimals.power", "显示功率(最大需量)小数位数", 1, 0, "", "bcd"),
        (0x04000305, "x.display.keys", "按键循环显示屏数", 1, 0, "", "bcd"),
        (0x04000306, "device.ratio.ct", "电流互感器变比", 3, 0, "", "bcd"),
        (0x04000307, "device.ratio.pt", "电压互感器变比", 3, 0, "", "bcd"),
        (0x04000401, "device.address.text", "通信地址", 6, 0, "", "digits"),
        (0x04000402, "device.serial", "表号", 6, 0, "", "digits"),
        (0x04000403, "x.device.asset", "资产管理编码", 32, 0, "", _ASCII),
        (0x04000404, "x.rated.voltage", "额定电压", 6, 0, "", _ASCII),
        (0x04000405, "x.rated.current", "额定电流/基本电流", 6, 0, "", _ASCII),
        (0x04000406, "x.rated.current.max", "最大电流", 6, 0, "", _ASCII),
        (0x04000407, "x.class.active", "有功准确度等级", 4, 0, "", _ASCII),
        (0x04000408, "x.class.reactive", "无功准确度等级", 4, 0, "", _ASCII),
        (0x04000409, "x.constant.active", "电表有功常数", 3, 0, "1/kWh", "bcd"),
        (0x0400040A, "x.constant.reactive", "电表无功常数", 3, 0, "1/kvarh", "bcd"),
        (0x0400040B, "device.model", "电表型号", 10, 0, "", _ASCII),
        (0x0400040C, "x.device.made", "生产日期", 10, 0, "", _ASCII),
        (0x0400040D, "device.protocol", "协议版本号", 16, 0, "", _ASCII),
        (0x0400040E, "x.device.customer", "客户编号", 6, 0, "", "digits"),
        *((0x04000500 + n, f"device.status.{n}", f"电表运行状态字{n}", 2, 0, "", _BITS) for n in range(1, 8)),
        (0x04000601, "x.combination.active", "有功组合方式特征字", 1, 0, "", _BITS),
        (0x04000602, "x.combination.reactive.1", "无功组合方式1特征字", 1, 0, "", _BITS),
        (0x04000603, "x.combination.reactive.2", "无功组合方式2特征字", 1, 0, "", _BITS),
        (0x04000701, "x.speed.infrared", "调制型红外光口通信速率特征字", 1, 0, "", _BITS),
        (0x04000702, "x.speed.optical", "接触型红外光口通信速率特征字", 1, 0, "", _BITS),
        *((0x04000702 + n, f"x.speed.{n}", f"通信口{n}通信速率特征字", 1, 0, "", _BITS) for n in range(1, 4)),
        (0x04000801, "x.rest.days", "周休日特征字", 1, 0, "", _BITS),
        (0x04000802, "x.rest.table", "周休日采用的日时段表号", 1, 0, "", "bcd"),
        (0x04000901, "x.record.mode", "负荷记录模式字", 1, 0, "", _BITS),
        (0x04000902, "x.freeze.mode", "冻结数据模式字", 1, 0, "", _BITS),
        (0x04000A01, "x.record.start", "负荷记录起始时间", 4, 0, "", "monthstamp"),
        *((0x04000A01 + n, f"x.record.every.{n}", f"第{n}类负荷记录时间间隔", 2, 0, "min", "bcd") for n in range(1, 7)),
        *((0x04000B00 + n, f"x.settlement.{n}", f"每月第{n}结算日", 2, 0, "", "digits") for n in range(1, 4)),
        (0x04800001, "device.firmware", "厂家软件版本号", 32, 0, "", _ASCII),
        (0x04800002, "device.hardware", "厂家硬件版本号", 32, 0, "", _ASCII),
        (0x04800003, "x.device.maker", "厂家编号", 32, 0, "", _ASCII),
    )
}

# DL/T 645-1997: identifier -> field
FIXED_97: dict[int, Field] = {
    di: Field(name, label, size, decimals, unit, kind)
    for di, name, label, size, decimals, unit, kind in (
        (0xB210, "x.programmed", "最近一次编程时间", 4, 0, "", "monthstamp"),
        (0xB211, "x.demand.cleared", "最近一次最大需量清零时间", 4, 0, "", "monthstamp"),
        (0xB212, "x.count.programming", "编程次数", 2, 0, "", "bcd"),
        (0xB213, "x.count.demand_clear", "最大需量清零次数", 2, 0, "", "bcd"),
        (0xB214, "x.device.runtime.battery", "电池工作时间", 3, 0, "min", "bcd"),
        (0xC010, "x.device.date", "日期及周次", 4, 0, "", "date"),
        (0xC011, "device.time", "时间", 3, 0, "", "time"),
        (0xC020, "device.status.1", "电表运行状态字", 1, 0, "", _BITS),
        (0xC021, "device.status.2", "电网状态字", 1, 0, "", _BITS),
        (0xC022, "x.rest.days", "周休日状态字", 1, 0, "", _BITS),
        (0xC030, "x.constant.active", "电表常数(有功)", 3, 0, "1/kWh", "bcd"),
        (0xC031, "x.constant.reactive", "电表常数(无功)", 3, 0, "1/kvarh", "bcd"),
        (0xC032, "device.serial", "表号", 6, 0, "", "digits"),
        (0xC033, "x.device.customer", "用户号", 6, 0, "", "digits"),
        (0xC034, "x.device.asset", "设备码", 6, 0, "", "digits"),
        (0xC111, "x.demand.period", "最大需量周期", 1, 0, "min", "bcd"),
        (0xC112, "x.demand.slip", "滑差时间", 1, 0, "min", "bcd"),
        (0xC113, "x.display.time", "循显时间", 1, 0, "s", "bcd"),
        (0xC114, "x.display.screens", "停显时间", 1, 0, "s", "bcd"),
        (0xC115, "x.display.decimals.energy", "显示电能小数位数", 1, 0, "", "bcd"),
        (0xC116, "x.display.decimals.power", "显示功率小数位数", 1, 0, "", "bcd"),
        (0xC117, "x.settlement.1", "自动抄表日期", 2, 0, "", "digits"),
        (0xC118, "x.record.representative", "负荷代表日", 1, 0, "", "bcd"),
        (0xC119, "x.energy.start", "有功电能起始读数", 4, 1, "kWh", "bcd"),
        (0xC11A, "x.energy.reactive.start", "无功电能起始读数", 4, 1, "kvarh", "bcd"),
    )
}

# 1997, identifiers B6xy: x -> (name, label, {size: decimals}, unit, whether y = 0 is a total, whether it is signed)
MOMENTARY_97: dict[int, tuple[str, str, dict[int, int], str, bool]] = {
    0x1: ("ac.voltage", "电压", {2: 0}, "V", False),
    0x2: ("ac.current", "电流", {2: 2}, "A", False),
    0x3: ("ac.power.active", "瞬时有功功率", {3: 4}, "kW", True),
    0x4: ("ac.power.reactive", "瞬时无功功率", {2: 2, 3: 4}, "kvar", True),
    0x5: ("ac.power.factor", "功率因数", {2: 3}, "", True),
}

# 1997, energy and demand: (whether it is reactive, high nibble of DI0) -> (name below ac.energy., label)
ENERGY_KINDS_97: dict[tuple[bool, int], tuple[str, str]] = {
    (False, 0x1): ("import", "正向有功"),
    (False, 0x2): ("export", "反向有功"),
    (True, 0x1): ("reactive.import", "正向无功"),
    (True, 0x2): ("reactive.export", "反向无功"),
    (True, 0x3): ("reactive.quadrant.1", "一象限无功"),
    (True, 0x4): ("reactive.quadrant.4", "四象限无功"),
    (True, 0x5): ("reactive.quadrant.2", "二象限无功"),
    (True, 0x6): ("reactive.quadrant.3", "三象限无功"),
}
