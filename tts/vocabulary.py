"""The text vocabulary of the synthesiser: a byte-level BPE in Qwen's tokenizer format."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from configs.vocabulary import MERGES, VOCAB, vocabulary_id
from tts.base import CheckpointError

# How Qwen 2 and 3 cut text before they look for pieces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TextVocabulary:
    """Text -> token ids with the text of each."""

    def __init__(self, path: Path) -> None:
        """Read a tokenizer.json, or a folder with vocab.json and merges.txt. Raises CheckpointError."""
        for needed in (path / VOCAB, path / MERGES) if path.suffix != ".json" else (path,):
            if not needed.is_file():
                raise CheckpointError(f"{needed} is missing: the text-to-token model needs the tokenizer of its text.")
        try:
            self.id = vocabulary_id(path)
            self._tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else _qwen(path)
        except Exception as error:  # tokenizers raises bare Exception for a file it cannot read
            raise CheckpointError(f"{path} is not a tokenizer ({error}). Restore it.") from None

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[tuple[int, str]]:
        """Tokens as (id, text); a character cut into several tokens stands with its last one."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        tokens: list[tuple[int, str]] = []
        done = 0
        for index, (token, (start, end)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True)):
            following = encoding.offsets[index + 1][0] if index + 1 < len(encoding.ids) else len(text)
            stop = end if following >= end else start
            tokens.append((token, text[done : max(done, stop)]))
            done = max(done, stop)
        return tokens


def _qwen(folder: Path) -> Tokenizer:
    """A tokenizer of plain text; control tokens are never spoken."""
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / VOCAB), str(folder / MERGES)))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer
