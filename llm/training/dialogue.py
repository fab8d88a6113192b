"""Dialogues for the small model: drawn from a grammar, one to five turns, the user as a recogniser writes him."""

import random
import re

from configs.schema import LlmConfig
from llm.base import Message
from llm.training.intents import INTENTS, RECALL, Memory, repeat_reply, repeat_user
from llm.training.phrasing import Confusions, has_digits, in_digits, with_style

_NUM_TURNS = (1, 1, 1, 2, 2, 3, 3, 4, 5)


def conversations(seed: int, count: int, confusions: Confusions | None = None) -> list[list[Message]]:
    """Draw `count` conversations; the same seed gives the same ones. Most begin with the system prompt.

    `confusions`: how the recogniser mishears the user's words.
    """
    rng = random.Random(seed)
    weights = [weight for weight, _ in INTENTS]
    intents = [intent for _, intent in INTENTS]
    drawn = []
    for _ in range(count):
        memory = Memory()
        messages = [Message("system", LlmConfig.system_prompt)] if rng.random() < 0.8 else []
        for turn in range(rng.choice(_NUM_TURNS)):
            if memory.follow_up and rng.random() < 0.25:
                line, reply = memory.follow_up(rng, memory)
            elif memory.told and rng.random() < 0.4:
                line, reply = RECALL[rng.choice(tuple(memory.told))](rng, memory)
            elif turn and rng.random() < 0.04:
                line, reply = rng.choice((repeat_reply, repeat_reply, repeat_user))(rng, memory)
            else:
                memory.follow_up = None
                line, reply = rng.choices(intents, weights)[0](rng, memory)
            line = with_style(rng, line, confusions)
            if has_digits(line):
                reply = in_digits(reply)
            reply = reply[0].upper() + reply[1:]
            memory.last_reply, memory.last_user = reply, re.sub(r"\bi\b", "I", line.rstrip(".?!"))
            messages += [Message("user", line), Message("assistant", reply)]
        drawn.append(messages)
    return drawn
