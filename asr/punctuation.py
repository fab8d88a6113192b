"""Punctuation for recognisers that write none: FunASR's CT-Transformer (`asr.punctuation`; Chen et al., arXiv 2003.01309).

It ends every text with a mark, a broken-off one too, so that turns are never judged by what it writes (`asr.stream`).
"""

from pathlib import Path
from typing import Any

from asr.funasr_model import load_kind

_MODULES = ("funasr.models.ct_transformer.model",)
_KINDS = ("CTTransformer",)


class Punctuator:
    """The model of a FunASR folder. Use from one thread at a time."""

    def __init__(self, auto_model: Any) -> None:
        self._model = auto_model

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Punctuator":
        """Read a folder: config.yaml, model.pt, tokens.json. Raises RecognizerError."""
        refusal = "writes no punctuation; asr.punctuation takes the folder or name of ct-punc"
        needed = ("config.yaml", "model.pt", "tokens.json")
        return cls(load_kind(folder, kinds=_KINDS, needed=needed, also=_MODULES, device=device, refusal=refusal))

    def __call__(self, text: str) -> str:
        """The text with punctuation marks; English sentences begin with a capital letter."""
        if not text.strip():
            return ""
        found = self._model.generate(input=text, key="text")  # FunASR would draw a key at random
        return str(found[0]["text"]).strip()
