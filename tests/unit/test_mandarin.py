"""What is spoken in Mandarin for what is written."""

import numpy as np
import pytest

import tts
from configs.schema import RuntimeConfig, TtsConfig
from tts.base import PcmChunk
from tts.text import SpokenStream, spoken
from tts.text.lexer import Lexer

SPOKEN = {
    # whole numbers, decimals, negatives
    "我有25个苹果。": "我有二十五个苹果。",
    "我有 25 个 apple，3个 pear": "我有二十五个 apple，三个 pear",
    "0、10、110、1001、２０００、22222": "零、十、一百一十、一千零一、两千、两万两千二百二十二",
    "1,234,567人，1,2,3": "一百二十三万四千五百六十七人，一,二,三",
    "圆周率是3.14，约0.50": "圆周率是三点一四，约零点五零",
    "气温-5度，是 -10 到 −3℃": "气温负五度，是负十到负三摄氏度",
    "10 20 30": "十 二十 三十",
    # 二 and 两
    "2个人，2 位，2只，12个，2.5个": "两个人，两位，两只，十二个，二点五个",
    "2千、2万、2亿、20000、102万、3万、1.5亿、1,000万": "两千、两万、两亿、两万、一百零二万、三万、一点五亿、一千万",
    "2小时，2天，2年，2月，2号，2楼": "两小时，两天，两年，二月，二号，二楼",
    "2到3个，2、3天，2至3，2019至2024年": "两到三个，两、三天，二至三，二零一九至二零二四年",
    "2年级，2次方，2分之1，2位数": "二年级，二次方，二分之一，两位数",
    "第2，第2个，第 12 届，第3章": "第二，第二个，第十二届，第三章",
    # dates, times
    "2024年12月25日，3年，618年": "二零二四年十二月二十五日，三年，六百一十八年",
    "1990年代、90年代、80后、00后": "一九九零年代、九十年代、八零后、零零后",
    "2024-01-15、2024/1/5、2024.12.31": "二零二四年一月十五日、二零二四年一月五日、二零二四年十二月三十一日",
    "2024-03，2024款，2024级，2款，2级": "二零二四年三月，二零二四款，二零二四级，两款，二级",
    "2019-2024年，2024-2025学年，2020年-2024年": "二零一九到二零二四年，二零二四到二零二五学年，二零二零年到二零二四年",
    "08月05日": "八月五日",
    "10:30，10:05，8：00，02:30，10:30:15": "十点三十分，十点零五分，八点，两点三十分，十点三十分十五秒",
    "9:00-18:00，9:00 - 18:00，10点05分": "九点到十八点，九点到十八点，十点零五分",
    # ranges, fractions, ratios
    "3-5天，3~5天，3～5，3%-5%，30-50%": "三到五天，三到五天，三到五，百分之三到百分之五，百分之三十到五十",
    "2-3个，3月-5月，10km-20km，1,000~2,000": "两到三个，三月到五月，十公里到二十公里，一千到两千",
    "1/2，2/3杯，3 1/2": "二分之一，三分之二杯，三又二分之一",
    "比分3:2，16：9": "比分三比二，十六比九",
    # money, percent, units
    "¥100，￥5.50，¥12.00，￥100元，$2，€20，£1，HK$300": "一百元，五点五元，十二元，一百元，两美元，二十欧元，一英镑，三百港元",
    "USD 20，RMB 2，USDT": "二十美元，两元，USDT",
    "$2.5亿，$5-$10，$3-5，5€，¥1234567": "二点五亿美元，五美元到十美元，三到五美元，五欧元，一百二十三万四千五百六十七元",
    "50%，2 %，３．５％，2‰": "百分之五十，百分之二，百分之三点五，千分之二",
    "25°C，2℃，77°F": "二十五摄氏度，两摄氏度，华氏七十七度",
    "5km，2kg，3 m，30cm，5mm，500ml，2L，80㎡": "五公里，两公斤，三米，三十厘米，五毫米，五百毫升，两升，八十平方米",
    "60km/h，16GB，512 MB，3万km": "六十公里每小时，十六吉字节，五百一十二兆字节，三万公里",
    "60公里/小时，5元/斤，$5/月，和/或": "六十公里每小时，五元每斤，五美元每月，和/或",
    # codes, telephones, versions, names
    "007，0123": "零零七，零一二三",
    "13812345678，010-12345678，138 1234 5678": "幺三八幺二三四五六七八，零幺零，幺二三四五六七八，幺三八，幺二三四，五六七八",
    "400-800-8888，3-2-501": "四零零，八零零，八八八八，三，二，五零一",
    "请拨打110，电话是10086，打电话10分钟": "请拨打幺幺零，电话是幺零零八六，打电话十分钟",
    "1234567，10000000，1234567人": "幺二三四五六七，一千万，一百二十三万四千五百六十七人",
    "版本3.5.1，v2.10.3，192.168.1.1": "版本三点五点一，v二点十点三，一九二点一六八点一点一",
    "302室，10路，a.com/2024": "三零二室，十路，a.com/二零二四",
    "MP3、H2O、GPT-4、5G、4K、PM2.5": "MP三、H二O、GPT-四、五G、四K、PM二点五",
    "iPhone 15，iPhone15，RTX 4090，1080p，Qwen2.5-72B": "iPhone 十五，iPhone十五，RTX 四零九零，一零八零p，Qwen二点五-七十二B",
    # arithmetic
    "3+5=8，3 + 5 = 8，2×3，6÷2，2*3，2 * 3": "三加五等于八，三加五等于八，二乘以三，六除以二，二乘以三，二乘以三",
    "5 - 3 = 2，5-3=2，3+5=？，2000-10=1990": "五减三等于二，五减三等于二，三加五等于？，两千减十等于一千九百九十",
    "≥5，> 5，±3，~5，C++，a=b，e-mail": "大于等于五，大于五，正负三，约五，C++，a=b，e-mail",
    "2^10，x²，10^-6": "二的十次方，x的平方，十的负六次方",
    # markup, and what is not of numbers
    "1. 苹果\n2. 香蕉\n3）梨": "一、苹果。二、香蕉。三、梨",
    "**3-5**天，[图]（3张），100 2000 3000": "三到五天，图（三张），一百 两千 三千",
    "**25**个😀。\n- 3月": "二十五个。 三月",
    "`x`: OK, 我们 都好！Dr. Smith": "x: OK, 我们 都好！Dr. Smith",
    "": "",
}  # fmt: skip


@pytest.mark.parametrize(("written", "words"), SPOKEN.items())
def test_spoken(written: str, words: str) -> None:
    assert spoken(written, "zh") == words


@pytest.mark.parametrize("words", SPOKEN.values())
def test_what_is_spoken_already_stays(words: str) -> None:
    assert spoken(words, "zh") == words


def encode(word: str) -> list[tuple[int, str]]:
    return [(-1, char) for char in word]


def test_a_number_is_owned_by_its_last_token_at_its_end() -> None:
    for share_ids in (True, False):
        stream = SpokenStream(encode, share_ids=share_ids, language="zh")
        tokens = [
            token for i, text in enumerate(["我有", " ", "2", "5", " 个", "。"]) for token in stream.push(i, text)
        ]
        tokens += stream.finish()
        ids, before = ([0], 1) if share_ids else ([-1, -1], 0)
        assert [token.id for token in tokens] == [*ids, -1, -1, -1, -1, 5 if share_ids else -1]
        assert [(token.text, token.owner) for token in tokens[len(ids) :]] == [
            ("二", before), ("十", before), ("五", 3), ("个", 4), ("。", 5)]  # fmt: skip


def test_a_number_is_held_until_what_it_counts_is_known() -> None:
    lexer = Lexer("zh")
    assert [piece.text for piece in lexer.feed("我有2")] == ["我", "有"]
    assert lexer.held == "2"
    assert [piece.text for piece in lexer.feed("个")] == ["两", "个"]
    assert lexer.held == ""


def test_the_bundled_synthesiser_says_a_number_as_its_characters() -> None:
    def sound(text: str, language: str) -> np.ndarray:
        config = TtsConfig(language=language, duration_top_k=1, num_flow_steps=1)
        stream = tts.build(config, RuntimeConfig(device="cpu")).stream(share_ids=False)
        for index, char in enumerate(text):
            stream.push(index, char)
        stream.finish()
        chunks = iter(stream.step, None)
        return np.concatenate([chunk.samples for chunk in chunks if isinstance(chunk, PcmChunk)])

    written, characters = "有 2个，3%。", "有两个，百分之三。"
    said = sound(written, "zh")
    assert np.array_equal(said, sound(characters, "none"))
    assert not np.array_equal(said, sound(written, "none"))
