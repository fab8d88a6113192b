"""What was said so far, within a token budget. Of a reply that was interrupted only what was heard remains."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from llm.base import Message

CUT_MARK = "..."  # ends a reply that was interrupted there
MESSAGE_OVERHEAD = 5  # tokens of the chat template around a message


@dataclass(frozen=True, slots=True)
class _Said:
    message: Message
    cost: int  # in tokens
    key: Hashable  # None: of no interest


class Conversation:
    """The history that the model is shown."""

    def __init__(self, *, system_prompt: str, max_tokens: int, count_tokens: Callable[[str], int]) -> None:
        self._count, self._max_tokens = count_tokens, max_tokens
        self.instruct(system_prompt)
        self._said: list[_Said] = []

    def instruct(self, system_prompt: str) -> None:
        """Change the system prompt; what was said stays."""
        self._system = [Message("system", system_prompt)] if system_prompt else []
        self._budget = self._max_tokens - sum(self._cost(message) for message in self._system)

    def clear(self) -> None:
        """Forget what was said."""
        self._said.clear()

    def add_user(self, text: str, *, key: Hashable = None) -> None:
        """The user's turn. One that alone is beyond the budget keeps its end, where the question usually stands.

        `key`, here and below: by what the message is found again.
        """
        message = Message("user", text)
        if self._cost(message) > self._budget:
            message = Message("user", self._end_of(text))
        self._add(message, key)

    def add_assistant(self, text: str, *, interrupted: bool = False, key: Hashable = None) -> None:
        """The reply as far as it was heard. One of which nothing was heard leaves no trace."""
        heard = text.rstrip()
        if heard:
            self._add(Message("assistant", heard + CUT_MARK if interrupted else heard), key)

    def add_note(self, text: str, *, key: Hashable = None) -> None:
        """A message to the model of which neither side hears."""
        self._add(Message("system", text), key)

    def cut(self, key: Hashable, text: str) -> None:
        """Of an earlier reply only `text` was heard, as it turns out."""
        for index, said in enumerate(self._said):
            if said.key == key:
                message = Message("assistant", text.rstrip() + CUT_MARK)
                self._said[index : index + 1] = [_Said(message, self._cost(message), key)] if text.rstrip() else []
                return

    def remove(self, key: Hashable) -> None:
        """Forget one message."""
        self._said = [said for said in self._said if said.key != key]

    def messages(self, instructions: str | None = None) -> list[Message]:
        """The system prompt and the latest messages within the budget, beginning with a user's.

        What is beyond the budget goes half a budget at a time, not turn by turn: the models keep what they have read, as long
        as each prompt begins as the one before. `instructions`: a system prompt for this once.
        """
        system, room = self._system, self._budget
        if instructions is not None:
            system = [Message("system", instructions)]
            room = self._max_tokens - self._cost(system[0])
        excess = sum(said.cost for said in self._said) - room
        half = max(1, room // 2)
        to_drop = max(0, math.ceil(excess / half) * half)
        dropped, first = 0, len(self._said)
        for index, said in enumerate(self._said):
            if said.message.role == "user":
                first = index  # the last one stays, whatever it costs
                if dropped >= to_drop:
                    break
            dropped += said.cost
        return system + [said.message for said in self._said[first:]]

    def messages_after(self, text: str) -> list[Message]:
        """What `messages` would be if the user now said `text`; nothing is added."""
        self.add_user(text)
        try:
            return self.messages()
        finally:
            self._said.pop()

    def _add(self, message: Message, key: Hashable) -> None:
        self._said.append(_Said(message, self._cost(message), key))

    def _cost(self, message: Message) -> int:
        return self._count(message.content) + MESSAGE_OVERHEAD

    def _end_of(self, text: str) -> str:
        words = text.split()
        low, high = 0, len(words)  # keep words[low:]
        while low < high:
            middle = (low + high) // 2
            if self._count(" ".join(words[middle:])) + MESSAGE_OVERHEAD > self._budget:
                low = middle + 1
            else:
                high = middle
        return " ".join(words[low:])
