"""Shape of the flow-matching decoder: what its `config.json` holds."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from tts.base import CheckpointError


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Upsampling conformer encoder: speech tokens at 25 Hz -> hidden frames at 50 Hz."""

    width: int = 512
    num_heads: int = 8
    ffn_width: int = 2048
    num_blocks: int = 6  # at the token rate
    num_up_blocks: int = 4  # at the mel rate


@dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """Causal convolution and attention network that the flow integrates."""

    width: int = 256
    num_heads: int = 8
    head_width: int = 64
    ffn_ratio: int = 4
    num_transformers: int = 4  # per block
    num_mid_blocks: int = 12
    time_width: int = 1024


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Flow-matching decoder. The defaults are the public CosyVoice2-0.5B."""

    vocabulary_size: int = 6561
    mel_bins: int = 80
    speaker_width: int = 192
    chunk_tokens: int = 25  # attention grid, counted from the start of the prompt
    lookahead_tokens: int = 3
    max_left_chunks: int | None = None  # chunks that attention looks back; None = all
    prediction: Literal["velocity", "data", "residual"] = "velocity"  # the estimator's output; residual: data - mu
    num_flow_steps: int = 10
    guidance: float = 0.7  # classifier-free guidance strength; 0 = off
    mel_mean: float = 0.0  # the flow works on (log mel - mean) / scale
    mel_scale: float = 1.0
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FlowConfig":
        """Build from the content of a `config.json`. Raises CheckpointError."""
        try:
            parts = {"encoder": EncoderConfig, "estimator": EstimatorConfig}
            config = cls(**{k: parts[k](**v) if k in parts else v for k, v in values.items()})
        except TypeError as error:
            raise CheckpointError(f"config.json does not describe a flow decoder: {error}.") from None
        if config.prediction not in ("velocity", "data", "residual"):
            raise CheckpointError(
                f"config.json: prediction must be velocity, data or residual, not {config.prediction!r}."
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """Content for a `config.json`."""
        return dataclasses.asdict(self)


def small_config(vocabulary_size: int) -> FlowConfig:
    """The bundled model: two steps, no guidance, 10-token chunks, attention over the last 3.6 s."""
    return FlowConfig(
        vocabulary_size=vocabulary_size,
        chunk_tokens=10,
        max_left_chunks=8,
        prediction="residual",
        num_flow_steps=2,
        guidance=0.0,
        mel_mean=-4.4,
        mel_scale=2.2,
        encoder=EncoderConfig(width=192, num_heads=4, ffn_width=384, num_blocks=3, num_up_blocks=2),
        estimator=EstimatorConfig(
            width=128, num_heads=4, head_width=32, num_transformers=1, num_mid_blocks=4, time_width=256
        ),
    )
