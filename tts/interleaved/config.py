"""Shape of an interleaved text-speech language model; travels as `config.json` beside the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tts.base import CheckpointError


@dataclass(frozen=True, kw_only=True)
class InterleavedConfig:
    """Sizes of the model. The defaults are CosyVoice 2's: Qwen2-0.5B with a speech vocabulary (2412.10117, section 2.3).

    Input ids are the text tokens, then sos and task id, then the speech ids: the codebook, end of speech, one that is
    never used, and fill. The output knows the speech ids only.
    """

    text_vocab_size: int = 151_936  # text token ids 0 .. text_vocab_size - 1
    vocabulary_id: str = ""  # hash of the text tokenizer whose ids the model reads
    num_speech_tokens: int = 6561  # size of the speech tokenizer's codebook
    dim: int = 896
    num_layers: int = 24
    num_heads: int = 14
    num_kv_heads: int = 2
    ff_dim: int = 4864
    rope_base: float = 1_000_000.0
    norm_eps: float = 1e-6
    text_chunk: int = 5  # text tokens that are read before
    speech_chunk: int = 15  # this many speech tokens are spoken

    @property
    def eos(self) -> int:
        """Speech id that ends the utterance."""
        return self.num_speech_tokens

    @property
    def unused(self) -> int:
        """Speech id that no training target has."""
        return self.num_speech_tokens + 1

    @property
    def fill(self) -> int:
        """Speech id that asks for more text."""
        return self.num_speech_tokens + 2

    @property
    def num_speech_ids(self) -> int:
        """Rows of the speech embedding and of the output."""
        return self.num_speech_tokens + 3

    @property
    def sos(self) -> int:
        """Input id that begins every sequence."""
        return self.text_vocab_size

    @property
    def task(self) -> int:
        """Input id between the last text token and the rest of the speech."""
        return self.text_vocab_size + 1

    @property
    def speech_offset(self) -> int:
        """Input id of speech token 0."""
        return self.text_vocab_size + 2

    @property
    def head_dim(self) -> int:
        """Width of one attention head; even, for rotary number pairs."""
        return self.dim // self.num_heads

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "InterleavedConfig":
        """Read `config.json`'s object. Raises CheckpointError for a key or a size that does not belong."""
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise CheckpointError(
                f"config.json is not of an interleaved text-speech model: unknown {', '.join(unknown)}."
            )
        config = cls(**values)
        if config.dim % (2 * config.num_heads):
            raise CheckpointError(f"dim {config.dim} must be a multiple of 2 x num_heads ({config.num_heads}).")
        if config.num_heads % config.num_kv_heads:
            raise CheckpointError(
                f"num_heads {config.num_heads} must be a multiple of num_kv_heads ({config.num_kv_heads})."
            )
        if config.text_chunk < 1 or config.speech_chunk < 1:
            raise CheckpointError(f"text_chunk {config.text_chunk} and speech_chunk {config.speech_chunk}: at least 1.")
        return config


def small_config(*, text_vocab_size: int, num_speech_tokens: int, vocabulary_id: str = "") -> InterleavedConfig:
    """A model of the size of the small temporal masked transformer: about 7.5 million parameters with a codebook of 729."""
    return InterleavedConfig(
        text_vocab_size=text_vocab_size,
        vocabulary_id=vocabulary_id,
        num_speech_tokens=num_speech_tokens,
        dim=288,
        num_layers=6,
        num_heads=6,
        num_kv_heads=2,
        ff_dim=992,
    )
