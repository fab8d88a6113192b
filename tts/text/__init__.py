"""Spoken form of the language model's text, made while it is being written."""

from tts.text.lexer import Lexer
from tts.text.stream import SpokenStream, SpokenToken

__all__ = ["SpokenStream", "SpokenToken", "spoken"]


def spoken(text: str, language: str = "en") -> str:
    """The spoken form of a whole text, e.g. "Dr. Smith paid $25." -> "Doctor Smith paid twenty five dollars."."""
    lexer = Lexer(language)
    return "".join(piece.text for piece in lexer.feed(text) + lexer.close())
