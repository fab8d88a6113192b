"""The dialogues of the small model, the rules that score it, and its text vocabulary."""

import random
import re

import pytest

from app.small.hearing import table
from llm.base import Message
from llm.folder import BUNDLED_FOLDER
from llm.training.dialogue import conversations
from llm.training.intents import UNKNOWN, draw_sum
from llm.training.phrasing import NUMBER_WORDS, in_digits, reworded, say, with_style
from llm.training.score import Question, is_acceptable
from llm.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def drawn():
    return conversations(3, 3000)


def pairs(drawn):
    for messages in drawn:
        talk = [m for m in messages if m.role != "system"]
        yield from zip(talk[::2], talk[1::2], strict=True)


def test_the_seed_decides(drawn):
    assert conversations(3, 50) == drawn[:50]
    assert conversations(4, 50) != drawn[:50]


def test_roles_take_turns(drawn):
    for messages in drawn:
        talk = messages[1:] if messages[0].role == "system" else messages
        assert [m.role for m in talk] == ["user", "assistant"] * (len(talk) // 2)
        assert 1 <= len(talk) // 2 <= 5


def test_users_talk_as_a_recogniser_writes(drawn):
    lines = [user.content for user, _ in pairs(drawn)]
    plain = [line for line in lines if re.fullmatch(r"[a-z' -]+", line)]
    assert 0.85 < len(plain) / len(lines) < 0.97  # the others are typed
    assert len(set(lines)) > 0.75 * len(lines)
    assert not any(re.search(r"[(){}|]|  ", line) for line in lines)


def test_replies_are_short_written_sentences(drawn):
    replies = [reply.content for _, reply in pairs(drawn)]
    for reply in replies:
        assert reply[-1] in ".!?", reply
        assert not re.search(r"[(){}|]|  |\ba [aeiou]\w", reply), reply
        assert len(reply.split()) <= 75
    lengths = sorted(len(reply.split()) for reply in replies)
    assert lengths[len(lengths) // 2] <= 12


def test_sums_are_right_within_twenty_and_said_twice():
    found = 0
    sums = re.compile(r"(\d+)\. (\d+) (plus|minus|times) (\d+) is (\d+)\.")
    for _, reply in pairs(conversations(8, 4000)):
        if match := sums.fullmatch(in_digits(reply.content)):
            answer, first, sign, second, result = match.groups()
            assert answer == result
            assert (
                int(result)
                == {
                    "plus": int(first) + int(second),
                    "minus": int(first) - int(second),
                    "times": int(first) * int(second),
                }[sign]
            )
            found += 1
    assert found > 500
    rng = random.Random(1)
    assert len({draw_sum(rng) for _ in range(20_000)}) > 380


def test_a_name_is_remembered(drawn):
    recalled = 0
    for messages in drawn:
        name = None
        for message in messages:
            if match := re.fullmatch(r"(?:Nice to meet you, (\w+)!|Hello (\w+)! Nice to meet you\.)", message.content):
                name = match[1] or match[2]
            if match := re.fullmatch(r"Your name is (\w+)\.", message.content):
                assert match[1] == name
                recalled += 1
            if message.content.startswith("I don't know your name"):
                assert name is None
    assert recalled > 50


def test_it_says_when_it_does_not_know(drawn):
    assert sum(reply.content == UNKNOWN for _, reply in pairs(drawn)) > 100


def test_templates_draw_alternatives_and_fill_slots():
    rng = random.Random(0)
    assert {say(rng, "a (b|c (d|e)|) {x}|f", x="g") for _ in range(200)} == {"a b g", "a c d g", "a c e g", "a g", "f"}


def test_questions_are_turned_round_without_losing_what_is_asked():
    rng = random.Random(0)
    turned = {reworded(rng, "how many wheels does a car have") for _ in range(100)}
    assert len(turned) > 5
    assert all("wheels" in line and "car" in line for line in turned)
    assert reworded(rng, "hello there") == "hello there"


def test_lines_are_heard_as_the_recogniser_hears():
    confusions = {"capital": (1.0, ("capitol",)), "the": (1.0, ("",))}
    lines = {with_style(random.Random(i), "what is the capital of france", confusions) for i in range(300)}
    assert "what is capitol of france" in lines
    spoiled = dict.fromkeys("what is the capital of france".split(), (1.0, ("x",)))
    lines = {with_style(random.Random(i), "what is the capital of france", spoiled) for i in range(300)}
    assert not any("x" in line.split() for line in lines)


def test_what_was_heard_is_counted_word_by_word():
    found = table([("a red cat", "a bed cat"), ("red cat", "cat"), ("red", "red"), ("red", "red"), ("rare", "rear")])
    assert found == {"red": (0.5, ("", "bed"))}


@pytest.mark.parametrize(
    ("answer", "acceptable"),
    [
        ("Three plus four is seven.", True),
        ("3 plus 4 is 7.", True),
        ("Three plus four is seventy.", False),
        ("Three plus four is seven", False),  # does not end
        ("I think the capital is seven.", False),  # never
        ("", False),
        ("Seven. " * 20, False),  # too long
        ("It is seven!", False),  # one group is missing
    ],
)
def test_the_rules_of_the_score(answer, acceptable):
    question = Question(
        turns=("what is three plus four",), needs=(("seven", "7"), ("four", "4")), never=("capital",), max_words=10
    )
    assert is_acceptable(question, answer) is acceptable


def test_the_vocabulary_gives_back_every_text_token_by_token():
    vocabulary = Vocabulary(BUNDLED_FOLDER)
    assert len(vocabulary) == 2048
    for text in (
        "Hello there, I'm here. 3:30, $5!",
        "na\u00efve caf\u00e9 \u4f60\u597d \U0001f600\u200d\U0001f525",
        "a\nb  c\t",
    ):
        detokenizer = vocabulary.detokenizer()
        parts = [detokenizer.push(token) for token in vocabulary.encode(text)]
        assert "".join(parts) == text
        assert not any("\ufffd" in part for part in parts)


def test_frequent_words_are_single_tokens():
    vocabulary = Vocabulary(BUNDLED_FOLDER)
    for word in ("The", " the", "What", " what", " I", " seven", *(f" {word}" for word in NUMBER_WORDS[:11])):
        assert len(vocabulary.encode(word)) == 1, word


def test_a_prompt_ends_where_the_assistant_begins():
    vocabulary = Vocabulary(BUNDLED_FOLDER)
    ids = vocabulary.prompt([Message("system", "Be kind."), Message("user", "hi<|im_end|>")])
    text = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert ids == vocabulary.encode(text)


def test_a_folder_with_a_template_of_its_own_is_prompted_by_it(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((BUNDLED_FOLDER / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text(
        "{%- for m in messages %}\n    [{{ m.role }}] {{ m.content }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}[assistant]{% if not enable_thinking %} no thoughts{% endif %}{% endif %}"
    )
    vocabulary = Vocabulary(tmp_path)
    assert vocabulary.prompt([Message("user", "hi")]) == vocabulary.encode("    [user] hi[assistant] no thoughts")
