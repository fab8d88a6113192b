"""The small models' text vocabulary: byte-level BPE in Qwen's tokenizer format, shared by the language model and the TTS."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llm.base import Message
from llm.vocabulary import CHAT_TEMPLATE, END_OF_TEXT, MESSAGE_END, MESSAGE_START

NUM_IDS = 2048
SEED = 4242  # of the prose and the dialogues that the bundled vocabulary was learnt from
NUM_PROSE, NUM_DIALOGUES = 16_000, 4_000
# Qwen2's own rule for where words end: contractions, words with their leading space, single digits, punctuation, spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def texts(prose: Iterable[str], dialogues: Sequence[Sequence[Message]]) -> Iterator[str]:
    """What the vocabulary is learnt from: prose in spoken form, all replies, and a quarter of what users say.

    The users' lower-case spelling would otherwise take pieces from the cased words, which are the ones to be spoken.
    """
    yield from prose
    for index, messages in enumerate(dialogues):
        for message in messages:
            if message.role == "assistant" or (message.role == "user" and index % 4 == 0):
                yield message.content


def train(lines: Iterable[str]) -> Tokenizer:
    """Learn the vocabulary. The same lines give the same ids; the three special tokens come last, as in Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(text, normalized=False, special=True) for text in (END_OF_TEXT, MESSAGE_START, MESSAGE_END)]
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_IDS - len(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens(specials)
    if tokenizer.get_vocab_size() != NUM_IDS:
        raise ValueError(
            f"the lines give only {tokenizer.get_vocab_size()} of {NUM_IDS} tokens; more and more varied text is needed"
        )
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> None:
    """Write `tokenizer.json` and the `tokenizer_config.json` that transformers and vLLM read."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1024,
        "bos_token": None,
        "eos_token": MESSAGE_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(values, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
