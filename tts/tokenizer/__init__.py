"""The S3 speech tokenizer: 16 kHz samples -> 25 speech tokens per second."""

from tts.tokenizer.model import SpeechTokenizer, SpeechTokenizerConfig, token_lengths

__all__ = ["SpeechTokenizer", "SpeechTokenizerConfig", "token_lengths"]
