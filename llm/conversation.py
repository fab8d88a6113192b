"""What was said so far, within a token budget. Of a reply that was interrupted only what was heard remains."""

from collections.abc import Callable

from llm.base import Message

CUT_MARK = "..."  # ends a reply that was interrupted there
MESSAGE_OVERHEAD = 5  # tokens of the chat template around a message


class Conversation:
    """The history that the model is shown."""

    def __init__(self, *, system_prompt: str, max_tokens: int, count_tokens: Callable[[str], int]) -> None:
        self._count, self._max_tokens = count_tokens, max_tokens
        self.instruct(system_prompt)
        self._said: list[tuple[Message, int]] = []  # with the cost in tokens

    def instruct(self, system_prompt: str) -> None:
        """Change the system prompt; what was said stays."""
        self._system = [Message("system", system_prompt)] if system_prompt else []
        self._budget = self._max_tokens - sum(self._cost(message) for message in self._system)

    def clear(self) -> None:
        """Forget what was said."""
        self._said.clear()

    def add_user(self, text: str) -> None:
        """The user's turn. One that alone is beyond the budget keeps its end, where the question usually stands."""
        message = Message("user", text)
        if self._cost(message) > self._budget:
            message = Message("user", self._end_of(text))
        self._add(message)

    def add_assistant(self, text: str, *, interrupted: bool = False) -> None:
        """The reply as far as it was heard. One of which nothing was heard leaves no trace."""
        heard = text.rstrip()
        if heard:
            self._add(Message("assistant", heard + CUT_MARK if interrupted else heard))

    def messages(self) -> list[Message]:
        """The system prompt and as many of the latest messages as the budget allows, beginning with a user's."""
        room = self._budget
        first = len(self._said)
        for index in range(len(self._said) - 1, -1, -1):
            message, cost = self._said[index]
            room -= cost
            if room < 0 and first < len(self._said):
                break
            if message.role == "user":
                first = index
        return self._system + [message for message, _ in self._said[first:]]

    def messages_after(self, text: str) -> list[Message]:
        """What `messages` would be if the user now said `text`; nothing is added."""
        self.add_user(text)
        try:
            return self.messages()
        finally:
            self._said.pop()

    def _add(self, message: Message) -> None:
        self._said.append((message, self._cost(message)))

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
