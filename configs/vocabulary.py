"""The identity of a text vocabulary, on which the language model's room and the synthesiser's must agree."""

import hashlib
import json
from pathlib import Path

VOCAB, MERGES = "vocab.json", "merges.txt"  # Qwen's older way to keep a vocabulary


def vocabulary_id(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of vocabulary and merges, of a tokenizer.json or a folder of the two files.

    Raises OSError, ValueError, KeyError.
    """
    if path.is_dir():
        vocab = json.loads((path / VOCAB).read_text(encoding="utf-8"))
        lines = (path / MERGES).read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    else:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        vocab, merges = model["vocab"], [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    text = json.dumps([sorted(vocab.items(), key=lambda item: item[1]), merges], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
