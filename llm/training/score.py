"""Exact rules for an acceptable answer to a held-out question.

An answer is acceptable when it matches at least one expression of every group in `needs` and none in `never`, has at
most `max_words` words, and ends like a sentence. Expressions are regular, ignore case and match whole words.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.schema import LlmConfig
from llm.base import Message

HELD_OUT = Path(__file__).parent / "heldout_paraphrases.jsonl"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A held-out question: the user's lines (replies between them are given), and the rules for the last answer."""

    turns: tuple[str, ...]  # user, assistant, user, ...; the last is the user's
    needs: tuple[tuple[str, ...], ...]  # all groups; of each group one
    never: tuple[str, ...] = ()
    max_words: int = 30

    @property
    def messages(self) -> list[Message]:
        """The conversation up to the question."""
        roles = ("user", "assistant")
        spoken = [Message(roles[index % 2], turn) for index, turn in enumerate(self.turns)]  # type: ignore[arg-type]
        return [Message("system", LlmConfig.system_prompt), *spoken]


def read_questions(path: Path) -> list[Question]:
    """Read a file of one JSON object per line: `say` (a string, or a list of turns), `needs`, `never`, `max_words`."""
    questions = []
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        say = values["say"]
        questions.append(
            Question(
                turns=(say,) if isinstance(say, str) else tuple(say),
                needs=tuple(tuple(group) for group in values["needs"]),
                never=tuple(values.get("never", ())),
                max_words=values.get("max_words", 30),
            )
        )
    return questions


def is_acceptable(question: Question, answer: str) -> bool:
    """Apply the rules."""
    if not answer.strip() or len(answer.split()) > question.max_words or answer.rstrip()[-1] not in ".!?":
        return False
    return all(_any(group, answer) for group in question.needs) and not _any(question.never, answer)


def _any(expressions: Sequence[str], answer: str) -> bool:
    return any(re.search(rf"(?<!\w)(?:{expression})(?!\w)", answer, re.IGNORECASE) for expression in expressions)
