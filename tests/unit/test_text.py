"""What is spoken for what is written."""

import pytest

from tts.text import SpokenStream, spoken
from tts.text.lexer import Lexer

SPOKEN = {
    # numbers
    "I have 25 apples.": "I have twenty five apples.",
    "25 people, 1,234 dogs": "Twenty five people, one thousand two hundred thirty four dogs",
    "the 3rd, 21st and 100th": "the third, twenty first and one hundredth",
    "It is 3.14 or .5 or -7.": "It is three point one four or point five or minus seven.",
    "wait 3-5 days": "wait three to five days",
    "1/2 cup, 2/3 cup, 3/4 cup, 1 1/2 cups": "One half cup, two thirds cup, three quarters cup, one and a half cups",
    "about 50% or 5 %": "about fifty percent or five percent",
    "In 1999 and 2024, in 1905, in 2005.": "In nineteen ninety nine and twenty twenty four, "
    "in nineteen oh five, in two thousand five.",
    "the 1990s and the 80s": "the nineteen nineties and the eighties",
    "At 3:30 pm, 3:05 and 10am. At 3:00.": "At three thirty P M, three oh five and ten A M. At three o'clock.",
    "It is 5 p.m. Go home.": "It is five P M. Go home.",
    "on 12/25/2024": "on December twenty fifth, twenty twenty four",
    "on 2024-12-25": "on December twenty fifth, twenty twenty four",
    "on Dec 25, 2024 and Jan. 3": "on December twenty fifth, twenty twenty four and January third",
    "call 555-123-4567": "call five five five, one two three, four five six seven",
    "call (555) 123-4567": "call five five five, one two three, four five six seven",
    "id 5551234567, agent 007": "id five five five one two three four five six seven, agent zero zero seven",
    "5 million people": "Five million people",
    # currency, units
    "It costs $5, $1, $3.50 or $0.99.": "It costs five dollars, one dollar, three dollars and fifty cents or ninety nine cents.",
    "€20, £1, 5€, $1.5 million, $5-10, $5-$10": "Twenty euros, one pound, five euros, "
    "one point five million dollars, five to ten dollars, five dollars to ten dollars",
    "5 km, 10kg, 20°C, 5 GB, 1 m": "Five kilometers, ten kilograms, twenty degrees Celsius, five gigabytes, one meter",
    "He is 6 ft. tall.": "He is six feet tall.",
    # abbreviations, acronyms
    "Dr. Smith paid $25.": "Doctor Smith paid twenty five dollars.",
    "Mr. and Mrs. Jones vs. Prof. Lee": "Mister and Missus Jones versus Professor Lee",
    "St. John lives on Main St. near us.": "Saint John lives on Main Street near us.",
    "fruit, e.g. apples, i.e. food, etc. Then more.": "fruit, for example apples, that is food, et cetera. Then more.",
    "No. 5 is fine. No. Stop.": "Number five is fine. No. Stop.",
    "The USA, GPUs, AI and TTS.": "The U S A, G P U's, A I and T T S.",
    "the U.S. Army of the U.S.": "the U S Army of the U S.",
    "NASA is OK. STOP now! IMPORTANT": "NASA is okay. Stop now! Important",
    "World War II by J. F. Kennedy": "World War two by J F Kennedy",
    "Take vitamin C. It helps.": "Take vitamin C. It helps.",
    "GPT-4, H200, C++, C#, Node.js": "G P T four, H two hundred, C plus plus, C sharp, Node dot js",
    # addresses
    "See https://www.example.com/a/b?x=1. Bye": "See example dot com. Bye",
    "mail john.smith@example.com now": "mail john dot smith at example dot com now",
    # markdown
    "**Bold**, *it* and `code`.": "Bold, it and code.",
    "# Title\n\nText": "Title. Text",
    "Buy:\n- milk\n- eggs": "Buy. milk. eggs",
    "1. Mix\n2. Bake": "One, Mix. Two, Bake",
    "a [link](http://x.y/z?a=(b) here": "a link here",
    "Look:\n```python\nx = 1\n```\nDone.": "Look. Code block omitted. Done.",
    "|a|b|\n|---|---|\n|1|2|": "a, b. One, two",
    "> quoted\n\n---\n\n- [ ] task": "quoted. task",
    "snake_case and ~~gone~~": "snake case and gone",
    # signs
    "2 + 2 = 4, 3 * 4, 5 - 3, 2^3, 1 < 2": "Two plus two equals four, three times four, five minus three, "
    "two to the power of three, one less than two",
    "R&D, #1, ~5, and/or": "R and D, number one, about five, and slash or",
    "it's a -> b": "it's a to b",
    # punctuation
    'He said: "Go!" (now); fine...': "He said, Go! now, fine.",
    "Well... ok — yes, really?!": "Well, ok, yes, really?",
    "One\n\nTwo\nwrapped line": "One. Two wrapped line",
    "Wait!!! What??": "Wait! What?",
    "a well-known e-mail": "a well known e mail",
    "don’t ‘quote’ dogs'": "don't quote dogs",
    # emoji, other scripts
    "Hi 😀👍🏽 there :) <3": "Hi there",
    "café naïve Straße": "cafe naive Strasse",
    "ｆｕｌｌ ２": "full two",
    "北京 ok Привет": "ok",
    "π and α": "Pi and alpha",
    "": "",
    " \n ": "",
    "😀🎉": "",
    "...": "",
}  # fmt: skip


@pytest.mark.parametrize(("written", "words"), SPOKEN.items())
def test_spoken(written: str, words: str) -> None:
    assert spoken(written) == words


def test_everything_dropped_is_reported_with_its_rule() -> None:
    lexer = Lexer()
    lexer.feed("**Hi** 北京 😀 [x](http://y.z)")
    lexer.close()
    assert lexer.dropped == [("markdown", "**"), ("markdown", "**"), ("script cjk", "北京"), ("emoji", "😀"), ("bracket", "["),
                             ("link", "](http://y.z)")]  # fmt: skip


def test_language_none_passes_all_but_markdown_and_emoji() -> None:
    assert spoken("**我有** 25 个。😀\n\nDr. X costs $5", "none") == "我有 25 个。 Dr. X costs $5"
    assert spoken("- 一\n- 二", "none") == "一。 二"


def encode(word: str) -> list[tuple[int, str]]:
    return [(-1, word)]


def test_plain_text_keeps_its_ids_and_flows_at_once() -> None:
    stream = SpokenStream(encode)
    tokens = ["Yes", ",", " we", " walk", " down", " there", ".", " Don", "'t", " stop", "!"]
    returned = [[token.id for token in stream.push(100 + i, text)] for i, text in enumerate(tokens)]
    assert returned == [[100], [101], [102], [103], [104], [105], [], [106, 107], [108], [109], [110]]
    assert stream.finish() == []


def test_a_rewritten_span_is_owned_by_its_last_token_at_its_end() -> None:
    stream = SpokenStream(encode)
    tokens = [
        token for i, text in enumerate(["It", " is", " $", "2", "5", " now", "."]) for token in stream.push(i, text)
    ]
    tokens += stream.finish()
    assert [(token.text, token.owner) for token in tokens] == [
        ("It", 0), (" is", 1), (" twenty", 1), (" five", 1), (" dollars", 4), (" now", 5), (".", 6)]  # fmt: skip


def test_an_ambiguous_word_is_held_only_until_it_is_clear() -> None:
    stream = SpokenStream(encode)
    assert stream.push(0, "Dr") == []
    assert stream.held == "Dr"
    assert [token.id for token in stream.push(1, "ums")] == [0, 1]


def test_ids_without_text_pass_with_the_token_that_completes_their_character() -> None:
    stream = SpokenStream(encode, language="none")
    tokens = stream.push(7, "") + stream.push(8, "") + stream.push(9, "龘") + stream.push(10, "好")
    assert [(token.id, token.text, token.owner) for token in tokens] == [
        (7, "", -1),
        (8, "", -1),
        (9, "龘", 2),
        (10, "好", 3),
    ]


def test_another_vocabulary_gets_whole_words() -> None:
    stream = SpokenStream(encode, share_ids=False)
    tokens = [
        token for i, text in enumerate(["Hel", "lo", " wor", "ld", ",", " $", "5"]) for token in stream.push(i, text)
    ]
    tokens += stream.finish()
    assert [(token.id, token.text, token.owner) for token in tokens] == [
        (-1, "Hello", 1), (-1, " world", 3), (-1, ",", 4), (-1, " five", 4), (-1, " dollars", 6)]  # fmt: skip
