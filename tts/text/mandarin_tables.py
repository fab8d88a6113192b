"""Mandarin words for what is written in signs. Data only; `#` in a pattern is where the number is said."""

from tts.text.tables import trie

# One for one: full-width forms and typographical signs that are written in numbers; sentence punctuation stays.
FOLDED = dict(zip("０１２３４５６７８９．：％／＋＝＜＞＄￥～〜－−–", "0123456789.:%/+=<>$¥~~---", strict=True))

# What follows a number, by kind.
KINDS = {
    # counted: 2 is 两
    "M": """
        个 只 次 位 本 张 件 条 种 名 人 家 台 部 辆 间 套 双 对 块 杯 瓶 碗 座 栋 棵 匹 头 把 份 封 页 句 段 篇 章
        节 场 遍 趟 顿 口 步 片 支 枚 颗 粒 束 副 幅 架 艘 袋 包 箱 盒 桶 根 朵 股 笔 批 组 国 岁 斤 吨 米 克 升 度
        元 角 倍 成 者 天 周 分 秒 百 千 万 亿 小时 公里 公斤 厘米 毫米 毫升 美元 欧元 英镑 日元 港元 英里 英寸 平方
        立方 平米 摄氏度 星期 礼拜 刻钟 代人 层楼
        """,
    # counted, but 2024 is a year
    "Y": "年 学年 财年 款 届",
    # 2024 is a year, and 2 stays 二
    "E": "版 级 赛季",
    # of the calendar: 2 stays 二, 08 is 八
    "D": "月 日 号 时",
    # o'clock: 2 is 两, 08 is 八
    "O": "点",
    # born in these years: 80 is 八零
    "B": "后",
    # numbered: 302 is 三零二
    "N": "室 房 路 国道",
    # none of these although it begins like one
    "X": "分之 次元 次方 次函数 本院校 年级 年生 元论 元一次",
}

# Where the number comes first it is counted (2 is 两).
UNITS = {
    "km": "#公里", "m": "#米", "dm": "#分米", "cm": "#厘米", "mm": "#毫米", "µm": "#微米", "μm": "#微米", "nm": "#纳米",
    "kg": "#公斤", "Kg": "#公斤", "KG": "#公斤", "g": "#克", "mg": "#毫克", "µg": "#微克", "μg": "#微克", "t": "#吨",
    "lb": "#磅", "lbs": "#磅", "oz": "#盎司", "ft": "#英尺", "mi": "#英里",
    "L": "#升", "mL": "#毫升", "ml": "#毫升", "dL": "#分升",
    "km²": "#平方公里", "km2": "#平方公里", "m²": "#平方米", "m2": "#平方米", "㎡": "#平方米", "cm²": "#平方厘米",
    "m³": "#立方米", "m3": "#立方米", "㎥": "#立方米", "cm³": "#立方厘米", "㎏": "#公斤", "㎎": "#毫克", "㎞": "#公里",
    "㎝": "#厘米", "㎜": "#毫米", "㎖": "#毫升",
    "km/h": "#公里每小时", "kph": "#公里每小时", "mph": "#英里每小时", "m/s": "#米每秒", "m/s²": "#米每二次方秒",
    "µg/m³": "#微克每立方米", "μg/m³": "#微克每立方米", "L/100km": "#升每百公里",
    "mg/L": "#毫克每升", "mg/dL": "#毫克每分升", "mmol/L": "#毫摩尔每升", "g/cm³": "#克每立方厘米",
    "ms": "#毫秒", "min": "#分钟", "mins": "#分钟", "Hz": "#赫兹", "kHz": "#千赫兹", "MHz": "#兆赫兹", "GHz": "#吉赫兹",
    "KB": "#千字节", "kB": "#千字节", "MB": "#兆字节", "GB": "#吉字节", "TB": "#太字节", "MB/s": "#兆字节每秒",
    "GB/s": "#吉字节每秒", "Mbps": "#兆比特每秒", "Gbps": "#吉比特每秒",
    "W": "#瓦", "kW": "#千瓦", "MW": "#兆瓦", "kWh": "#千瓦时", "V": "#伏", "mA": "#毫安", "mAh": "#毫安时", "dB": "#分贝",
    "kPa": "#千帕", "MPa": "#兆帕", "kcal": "#千卡", "kJ": "#千焦", "px": "#像素", "fps": "#帧每秒",
    "°C": "#摄氏度", "°c": "#摄氏度", "℃": "#摄氏度", "° C": "#摄氏度", "°F": "华氏#度", "℉": "华氏#度", "°": "#度",
    "%": "百分之#", "‰": "千分之#",
}  # fmt: skip
# Written onto the number only: with a space before they are words of their own.
ATTACHED = {"s": "#秒", "h": "#小时", "l": "#升", "€": "#欧元", "£": "#英镑", "¥": "#元", "$": "#美元"}
CURRENCIES = {
    "¥": "#元", "$": "#美元", "€": "#欧元", "£": "#英镑", "₩": "#韩元", "₽": "#卢布", "₹": "#卢比", "US$": "#美元",
    "HK$": "#港元", "NT$": "#新台币", "C$": "#加元", "A$": "#澳元", "RMB": "#元", "CNY": "#元", "USD": "#美元",
    "EUR": "#欧元",
}  # fmt: skip
CURRENCY_SIGNS = frozenset("¥$€£₩₽₹")

OPERATORS = {"+": "加", "×": "乘以", "*": "乘以", "÷": "除以", "=": "等于"}
POWERS = {"²": "的平方", "³": "的立方"}
# Before a number, whatever precedes them
COMPARED = {
    "≈": "约等于", "≠": "不等于", "≥": "大于等于", ">=": "大于等于", "≤": "小于等于", "<=": "小于等于", ">": "大于", "<": "小于",
    "±": "正负", "~": "约", "+": "加",
}  # fmt: skip
# In phrases before a number that is dialled or typed
DIALLED = "拨打|拨|致电|电话|手机|热线|号码|尾号|邮编|密码|验证码|编号|学号|工号|账号"

NUMBER_UNITS = trie({key: f"U{pattern}" for key, pattern in (UNITS | ATTACHED).items()})
NEXT_UNITS = trie({key: f"U{pattern}" for key, pattern in UNITS.items()})
MONEY = trie({key: f"U{pattern}" for key, pattern in CURRENCIES.items()})
SIGNS = trie({key: f"S{word}" for key, word in COMPARED.items()})
FOLLOWING = trie({word: kind for kind, words in KINDS.items() for word in words.split()})
_COUNTED = "".join((*(KINDS[kind] for kind in "MYDO"), *UNITS.values(), "钟半"))
TAIL = "".join(sorted({char for char in _COUNTED if not char.isascii()}))  # that a quantity may end with
