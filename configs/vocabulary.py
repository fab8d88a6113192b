"""The identity of a text vocabulary, on which the language model's room and the synthesiser's must agree."""

import hashlib
import json
from pathlib import Path


def vocabulary_id(tokenizer_json: Path) -> str:
    """First 16 hex digits of the SHA-256 of vocabulary and merges. Raises OSError, ValueError, KeyError."""
    model = json.loads(tokenizer_json.read_text(encoding="utf-8"))["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    text = json.dumps([sorted(model["vocab"].items(), key=lambda item: item[1]), merges], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
