"""The text vocabulary of the synthesiser: a byte-level BPE in Qwen's tokenizer format."""

from pathlib import Path

from tokenizers import Tokenizer

from configs.vocabulary import vocabulary_id
from tts.base import CheckpointError


class TextVocabulary:
    """Text -> token ids with the text of each."""

    def __init__(self, path: Path) -> None:
        """Read a tokenizer.json. Raises CheckpointError."""
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: the text-to-token model needs the tokenizer of its text.")
        try:
            self.id = vocabulary_id(path)
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for a file it cannot read
            raise CheckpointError(f"{path} is not a tokenizer.json ({error}). Restore it.") from None

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
