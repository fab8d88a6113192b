"""Shape of a temporal masked transformer; travels as `config.json` beside the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from tts.base import CheckpointError

Mask = Literal["prefix", "paper"]
Positions = Literal["axes", "contiguous"]


@dataclass(frozen=True, kw_only=True)
class TmtConfig:
    """Sizes of the model. The defaults are the paper's full-size one (SyncSpeech, section 4) with Qwen's vocabulary."""

    text_vocab_size: int = 151_669  # text token ids 0 .. text_vocab_size - 1
    vocabulary_id: str = ""  # hash of the text tokenizer whose ids the model reads
    num_speech_tokens: int = 6561  # size of the speech tokenizer's codebook
    # Durations 0 .. num_duration_classes - 1, in speech tokens; the last class stands for that and all longer ones. The
    # paper does not say how many. Blocks that are cut are reported, utterances with longer tokens left out of training.
    num_duration_classes: int = 64
    dim: int = 1024
    num_layers: int = 16
    num_heads: int = 16
    ff_dim: int = 2048
    rope_base: float = 1000.0
    window: int = 0  # text tokens of history a token may see, its own included; 0 = all
    # What text a block sees. prefix: up to the look-ahead beyond its own, so that a key-value cache is exact. paper: all
    # that has arrived by the step, history included, so that every step computes everything anew, as published.
    mask: Mask = "prefix"
    # Where a position stands, of which the paper says nothing. axes: text index and frame, one half of the rotation each;
    # contiguous: its place in the sequence, which moves when text arrives, so that only the mask paper allows it.
    positions: Positions = "axes"
    lookahead: int = 1  # default number of text tokens read ahead of the one being spoken
    max_lookahead: int = 1  # the largest look-ahead seen in training
    text_per_step: int = (
        1  # most text tokens that one step may speak; each beyond the first has a duration head of its own
    )
    index_slots: int = 0  # learned embedding of the text index modulo this; 0 = none
    frame_embeddings: bool = False  # learned embeddings of a frame's distance to its block's start and end

    @property
    def end_id(self) -> int:
        """Row of E, the end of text."""
        return self.text_vocab_size

    @property
    def duration_id(self) -> int:
        """Row of D, the duration placeholder."""
        return self.text_vocab_size + 1

    @property
    def mask_id(self) -> int:
        """Row of the masked speech token."""
        return self.text_vocab_size + 2

    @property
    def speech_offset(self) -> int:
        """Row of speech token 0."""
        return self.text_vocab_size + 3

    @property
    def num_ids(self) -> int:
        """Rows of the input embedding: text tokens, E, D, mask, speech tokens; text and speech share no row."""
        return self.speech_offset + self.num_speech_tokens

    @property
    def head_dim(self) -> int:
        """Width of one attention head; a multiple of 4, for two rotary axes of number pairs."""
        return self.dim // self.num_heads

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "TmtConfig":
        """Read `config.json`'s object. Raises CheckpointError for a key or a size that does not belong."""
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise CheckpointError(f"config.json is not of a temporal masked transformer: unknown {', '.join(unknown)}.")
        config = cls(**values)
        if config.mask not in get_args(Mask):
            raise CheckpointError(f"config.json: mask {config.mask!r} is none of {', '.join(get_args(Mask))}.")
        if config.positions not in get_args(Positions):
            raise CheckpointError(
                f"config.json: positions {config.positions!r} is none of {', '.join(get_args(Positions))}."
            )
        if config.positions == "contiguous" and config.mask != "paper":
            raise CheckpointError("config.json: contiguous positions move when text arrives: they need the mask paper.")
        if config.text_per_step < 1:
            raise CheckpointError(f"config.json: text_per_step {config.text_per_step} must be at least 1.")
        if config.dim % (4 * config.num_heads):
            raise CheckpointError(f"dim {config.dim} must be a multiple of 4 x num_heads ({config.num_heads}).")
        return config


def small_config(*, text_vocab_size: int, num_speech_tokens: int, vocabulary_id: str = "") -> TmtConfig:
    """The bundled small model: about 7 million parameters with a codebook of 729."""
    return TmtConfig(
        text_vocab_size=text_vocab_size,
        vocabulary_id=vocabulary_id,
        num_speech_tokens=num_speech_tokens,
        dim=288,
        num_layers=6,
        num_heads=6,
        ff_dim=768,
        window=32,
        max_lookahead=32,
        text_per_step=2,
        index_slots=64,
        frame_embeddings=True,
    )
