"""The history that the model is shown."""

from itertools import pairwise

from llm.base import Message
from llm.conversation import CUT_MARK, MESSAGE_OVERHEAD, Conversation


def words(text):
    return len(text.split())


def make(max_tokens=1000, system="be kind"):
    return Conversation(system_prompt=system, max_tokens=max_tokens, count_tokens=words)


def test_both_sides_in_order_after_the_system_prompt():
    talk = make()
    talk.add_user("hello")
    talk.add_assistant("Hi there.")
    talk.add_user("who are you")
    assert [(m.role, m.content) for m in talk.messages()] == [
        ("system", "be kind"),
        ("user", "hello"),
        ("assistant", "Hi there."),
        ("user", "who are you"),
    ]


def test_what_the_model_would_be_asked_changes_nothing():
    talk = make(max_tokens=20)
    talk.add_user("hello")
    talk.add_assistant("Hi there.")
    before = talk.messages()
    asked = talk.messages_after("who are you " * 5)
    assert talk.messages() == before
    talk.add_user("who are you " * 5)
    assert talk.messages() == asked != before


def test_a_reply_is_cut_later_to_what_was_heard_of_it():
    talk = make()
    talk.add_user("hello", key="u1")
    talk.add_assistant("Hi there, how are you?", key="a1")
    talk.add_user("fine")
    talk.cut("a1", "Hi there,")
    talk.cut("nobody", "x")
    assert [m.content for m in talk.messages()[1:]] == ["hello", "Hi there," + CUT_MARK, "fine"]
    talk.cut("a1", "")
    assert [m.content for m in talk.messages()[1:]] == ["hello", "fine"]
    talk.remove("u1")
    assert [m.content for m in talk.messages()[1:]] == ["fine"]


def test_a_cut_reply_costs_less():
    talk = make(max_tokens=2 + 4 * MESSAGE_OVERHEAD + 5)
    talk.add_user("one two three")
    talk.add_assistant("word " * 20, key="a")
    talk.add_user("four")
    assert [m.content for m in talk.messages()[1:]] == ["four"]
    talk.cut("a", "word")
    assert talk.messages()[1].content == "one two three"


def test_instructions_for_once_replace_the_system_prompt():
    talk = make()
    talk.add_user("hello")
    talk.add_note("it rains")
    assert [(m.role, m.content) for m in talk.messages("be brief")] == [
        ("system", "be brief"),
        ("user", "hello"),
        ("system", "it rains"),
    ]
    assert talk.messages()[0].content == "be kind"


def test_an_interrupted_reply_is_marked_where_it_was_cut():
    talk = make()
    talk.add_user("tell me a story")
    talk.add_assistant("Once there was a ", interrupted=True)
    assert talk.messages()[-1] == Message("assistant", "Once there was a" + CUT_MARK)


def test_a_reply_of_which_nothing_was_heard_leaves_no_trace():
    talk = make()
    talk.add_user("tell me a story")
    talk.add_assistant("", interrupted=True)
    assert talk.messages()[-1] == Message("user", "tell me a story")


def test_the_oldest_turns_go_first_and_the_system_prompt_stays():
    talk = make(max_tokens=40)
    for turn in range(6):
        talk.add_user(f"question {turn}")
        talk.add_assistant(f"Answer {turn}.")
    talk.add_user("last question")
    shown = talk.messages()
    assert shown[0].role == "system"
    assert shown[1].role == "user"  # never begins with half a turn
    assert shown[-1].content == "last question"
    assert sum(words(m.content) + MESSAGE_OVERHEAD for m in shown) <= 40
    assert [m.content for m in shown[1:]] == ["question 5", "Answer 5.", "last question"]


def test_what_is_kept_begins_alike_for_many_turns():
    """What a model has read of a prompt serves the next one, as long as that begins with it."""
    talk, prompts = make(max_tokens=207), []
    for turn in range(100):
        talk.add_user(f"question {turn}")
        prompts.append(talk.messages())
        talk.add_assistant(f"Answer {turn}.")
    costs = [sum(words(m.content) + MESSAGE_OVERHEAD for m in prompt[1:]) for prompt in prompts]
    assert max(costs) <= 200
    assert min(costs[20:]) > 200 - 100 - 2 * (2 + MESSAGE_OVERHEAD)
    anew = sum(after[: len(before)] != before for before, after in pairwise(prompts))
    assert anew <= 100 * 14 / 100  # a budget's half lasts for seven turns


def test_a_turn_beyond_the_budget_keeps_its_end():
    talk = make(max_tokens=60)
    talk.add_user(" ".join(f"word{i}" for i in range(5000)) + " what do you think")
    (system, user) = talk.messages()
    assert user.content.endswith("word4999 what do you think")
    assert words(system.content) + words(user.content) + 2 * MESSAGE_OVERHEAD == 60


def test_without_a_system_prompt_there_is_none():
    talk = make(system="")
    talk.add_user("hello")
    assert talk.messages() == [Message("user", "hello")]
