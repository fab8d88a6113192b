"""Words and word pieces: the recogniser's text side. Pieces inside a word end in "@@", as in FunASR's models."""

import re
from collections.abc import Iterable, Sequence

SPECIAL = ("<blank>", "<s>", "</s>")
UNKNOWN = "<unk>"
CONTINUES = "@@"
_NOT_SPOKEN = re.compile(r"[^a-z' ]+")


def normalise(text: str) -> str:
    """Lower-case words with inner apostrophes, single spaces: "Well-known; it's Tom's!" -> "well known it's tom's"."""
    lowered = _NOT_SPOKEN.sub(" ", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return " ".join(word for word in (w.strip("'") for w in lowered.split()) if word)


def join(tokens: Iterable[str]) -> str:
    """Text of a token sequence; special tokens are left out, CJK characters are not spaced, a loose piece closes."""
    text = ""
    glue = True
    for token in tokens:
        if token in SPECIAL or token == UNKNOWN:
            continue
        piece = token.removesuffix(CONTINUES)
        is_cjk = "\u4e00" <= piece[:1] <= "\u9fff"
        text += piece if glue or (is_cjk and "\u4e00" <= text[-1:] <= "\u9fff") else " " + piece
        glue = token.endswith(CONTINUES)
    return text.strip()


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]
