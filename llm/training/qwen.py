"""Training of the small Qwen3 on dialogues drawn afresh at every step, with a little prose. Shapes: B rows, L tokens."""

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from llm.base import Message
from llm.training.dialogue import conversations
from llm.training.phrasing import Confusions
from llm.training.score import Question, is_acceptable
from llm.vocabulary import END_OF_TEXT, MESSAGE_END, Vocabulary

USER_WEIGHT = 0.1  # of the loss on what users say: it teaches the language without spending the model on guessing users
PROSE_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True)
class QwenTraining:
    """Size of the model and of a batch."""

    width: int = 256
    num_layers: int = 6
    num_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64  # vLLM's CPU attention knows 32 and 64
    feed_forward: int = 704
    max_positions: int = 1024
    num_rows: int = 6
    row_length: int = 352
    prose_share: float = 0.1  # of the rows
    dialogue_seed: int = 1


@dataclass(frozen=True)
class Batch:
    """Packed rows: several conversations stand in one row and do not see each other."""

    ids_BL: torch.Tensor
    positions_BL: torch.Tensor  # within the conversation
    weights_BL: torch.Tensor  # of the loss on each token as a target
    owner_BL: torch.Tensor  # number of the conversation in the row; 0 = padding


class QwenTask:
    """A task of app/small/loop.py."""

    name = "qwen"

    def __init__(
        self,
        vocabulary: Vocabulary,
        prose: Sequence[str],
        questions: Sequence[Question],
        config: QwenTraining,
        confusions: Confusions | None = None,
        start: Path | None = None,
        unseen: Sequence[str] = (),
    ) -> None:
        self._confusions = confusions
        self._unseen = {_key(line) for line in (*unseen, *(question.turns[-1] for question in questions))}
        self._vocabulary, self._prose, self._questions, self._config = vocabulary, prose, questions, config
        (self._end,) = vocabulary.encode(MESSAGE_END)
        (self._pad,) = vocabulary.encode(END_OF_TEXT)
        self.module = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(vocabulary),
                hidden_size=config.width,
                intermediate_size=config.feed_forward,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                max_position_embeddings=config.max_positions,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=self._end,
                pad_token_id=self._pad,
            )
        )
        self._seed = config.dialogue_seed
        if start is not None:  # a training that goes on draws other dialogues than the one before
            self._seed = zlib.crc32((start / "model.safetensors").read_bytes())
            self.module.load_state_dict(Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Weighted cross entropy of the step's rows."""
        loss = self._cross_entropy(self.batch(self._seed * 10_000_019 + step))
        return loss, {}

    def evaluate(self) -> dict[str, float]:
        """Cross entropy on dialogues of another seed, and the share of held-out questions answered acceptably."""
        return {
            "cross_entropy": float(self._cross_entropy(self.batch(-1))),
            "acceptable": sum(self.verdicts()) / max(1, len(self._questions)),
        }

    def export(self, directory: Path) -> None:
        """Write config.json and model.safetensors (float16) as transformers and vLLM read them."""
        self.module.eval()
        copy = Qwen3ForCausalLM(self.module.config)
        copy.load_state_dict(self.module.state_dict())
        copy.half().save_pretrained(directory)

    def verdicts(self) -> list[bool]:
        """Whether each held-out question is answered acceptably, greedily."""
        return [is_acceptable(q, reply) for q, reply in zip(self._questions, self.replies(), strict=True)]

    def replies(self) -> list[str]:
        """Greedy replies to the held-out questions."""
        return [self._reply(question.messages) for question in self._questions]

    def batch(self, seed: int) -> Batch:
        """Draw and pack the rows of a seed."""
        config, rng = self._config, random.Random(seed)
        ids = torch.full((config.num_rows, config.row_length), self._pad)
        positions, owner = torch.zeros_like(ids), torch.zeros_like(ids)
        weights = torch.zeros(ids.shape)
        drawn = conversations(rng.getrandbits(60), 60 * config.num_rows, self._confusions)
        draws = iter(self._dialogue(c) for c in drawn if not any(_key(m.content) in self._unseen for m in c))
        for row in range(config.num_rows):
            filled, number = 0, 0
            as_prose = bool(self._prose) and rng.random() < config.prose_share
            while filled < config.row_length - 16:
                tokens, token_weights = self._line(rng) if as_prose else next(draws)
                take = min(len(tokens), config.row_length - filled)
                place = slice(filled, filled + take)
                number += 1
                ids[row, place] = torch.tensor(tokens[:take])
                weights[row, place] = torch.tensor(token_weights[:take])
                positions[row, place] = torch.arange(take)
                owner[row, place] = number
                filled += take
        device = self.module.device
        return Batch(ids.to(device), positions.to(device), weights.to(device), owner.to(device))

    def _dialogue(self, messages: Sequence[Message]) -> tuple[list[int], list[float]]:
        """A conversation's ids with the weight of each as a target."""
        tokens: list[int] = []
        weights: list[float] = []
        for message in messages:
            head = self._vocabulary.encode(f"<|im_start|>{message.role}\n")
            body = [*self._vocabulary.encode(message.content), self._end]
            tail = self._vocabulary.encode("\n")
            weight = {"assistant": 1.0, "user": USER_WEIGHT, "system": 0.0}[message.role]
            tokens += head + body + tail
            weights += [0.0] * len(head) + [weight] * len(body) + [0.0] * len(tail)
        return tokens, weights

    def _line(self, rng: random.Random) -> tuple[list[int], list[float]]:
        tokens = [*self._vocabulary.encode(rng.choice(self._prose)), self._pad]
        return tokens, [PROSE_WEIGHT] * len(tokens)

    def _cross_entropy(self, batch: Batch) -> torch.Tensor:
        length = batch.ids_BL.shape[1]
        same = batch.owner_BL[:, :, None] == batch.owner_BL[:, None, :]
        seen = same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril()
        with torch.autocast(batch.ids_BL.device.type):
            hidden_BLD = self.module.model(
                input_ids=batch.ids_BL, attention_mask=seen[:, None], position_ids=batch.positions_BL, use_cache=False
            ).last_hidden_state
            # Only tokens that carry loss need logits; a conversation's first token is never a target.
            weights = batch.weights_BL[:, 1:] * (batch.positions_BL[:, 1:] > 0)
            chosen = weights > 0
            logits = self.module.lm_head(hidden_BLD[:, :-1][chosen])
        losses = F.cross_entropy(logits.float(), batch.ids_BL[:, 1:][chosen], reduction="none")
        return (losses * weights[chosen]).sum() / weights[chosen].sum()

    @torch.inference_mode()
    def _reply(self, messages: Sequence[Message], limit: int = 90) -> str:
        cache, text, detokenizer = None, "", self._vocabulary.detokenizer()
        ids = torch.tensor([self._vocabulary.prompt(messages)], device=self.module.device)
        for _ in range(limit):
            out = self.module(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
            if token in self._vocabulary.stop_ids:
                break
            text += detokenizer.push(token)
            ids = torch.tensor([[token]], device=self.module.device)
        return text


def _key(line: str) -> str:
    """A line without case and punctuation."""
    return re.sub(r"[^a-z0-9' ]", "", line.lower())


def task(
    vocabulary: Vocabulary,
    prose: Sequence[str],
    questions: Sequence[Question],
    config: QwenTraining | None = None,
    confusions: Confusions | None = None,
    start: Path | None = None,
    unseen: Sequence[str] = (),
) -> QwenTask:
    """The task for app/small/loop.py: `prose` in spoken form, `questions` held out of training.

    `confusions`: how the recogniser in use mishears words. `start`: the folder of a model of this size and vocabulary that
    is trained further. `unseen`: more lines of users that are held out of training.
    """
    return QwenTask(vocabulary, prose, questions, config or QwenTraining(), confusions, start, unseen)
