"""The whole chain with random weights: what it costs does not depend on them, and nothing has to be downloaded.

What a model says is scripted: the language model's tokens are counted and a written text is spoken instead; the durations of
its tokens are drawn evenly from 0 to 13 speech tokens, or the speech is cut at as many.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import tts
from app.bench.contestants import SPEECH_PER_TEXT, Scripted, as_stored
from app.bench.writer import Writer, WriterConfig
from asr.funasr_model import build as build_funasr
from asr.paraformer import Paraformer, StreamingLayout, offline_config
from asr.training.paraformer import ParaformerConfig, funasr_config
from configs.schema import TtsConfig
from tts.base import TOKEN_HZ, VoiceError
from tts.decoder.config import EncoderConfig, EstimatorConfig, FlowConfig
from tts.decoder.flow import FlowDecoder
from tts.decoder.vocoder import Vocoder, VocoderConfig
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.decode import DecodeOptions as InterleavedOptions
from tts.interleaved.decode import InterleavedDecoder
from tts.interleaved.model import InterleavedLm
from tts.precision import lower, ready, resolve, weight_bytes
from tts.stream import StreamOptions, SyncSpeech
from tts.text_to_token import TextToToken, TokenDecoder
from tts.tmt.config import TmtConfig
from tts.tmt.decode import DecodeOptions as TmtOptions
from tts.tmt.model import Tmt
from tts.vocabulary import TextVocabulary
from tts.voice import Voice, VoiceEncoder

PROMPT_S = 4.0  # of the reference recording
LOUDNESS = 0.0  # log magnitude of the random vocoder's spectrum: about as loud as speech


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes of all models; the defaults are the public models' and the paper's."""

    asr: ParaformerConfig = ParaformerConfig(
        width=512, encoder_layers=50, encoder_units=2048, decoder_layers=16, decoder_units=2048
    )
    asr_vocabulary: int = 8404
    writer: WriterConfig = WriterConfig()
    tmt: TmtConfig = TmtConfig()
    interleaved: InterleavedConfig = InterleavedConfig()
    flow: FlowConfig = FlowConfig()
    vocoder: VocoderConfig = VocoderConfig()


SIZES = {
    "full": Sizes(),
    "small": Sizes(
        asr=ParaformerConfig(width=64, encoder_layers=2, encoder_units=64, decoder_layers=1, decoder_units=64),
        asr_vocabulary=100,
        writer=WriterConfig(
            vocab_size=512, dim=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, ff_dim=96, num_positions=128
        ),
        tmt=TmtConfig(text_vocab_size=2048, num_speech_tokens=81, dim=64, num_layers=2, num_heads=4, ff_dim=96),
        interleaved=InterleavedConfig(
            text_vocab_size=2048, num_speech_tokens=81, dim=64, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=96
        ),
        flow=FlowConfig(
            vocabulary_size=81,
            encoder=EncoderConfig(width=32, num_heads=2, ffn_width=32, num_blocks=1, num_up_blocks=1),
            estimator=EstimatorConfig(
                width=32, num_heads=2, head_width=16, num_transformers=1, num_mid_blocks=1, time_width=32
            ),
        ),
        vocoder=VocoderConfig(base_channels=32, f0_channels=16, resblock_kernels=(3,), resblock_dilations=((1, 3),)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The loaded models."""

    recognizer: Paraformer
    writer: Writer
    synthesizer: SyncSpeech
    begin: Callable[[float, int | None], TokenDecoder]  # an utterance of the text-to-token model alone
    flow: FlowDecoder
    vocoder: Vocoder
    weights_gib: dict[str, float]


def build(
    sizes: Sizes, config: TtsConfig, device: torch.device, *, num_conversations: int, graphs: bool, dtype: torch.dtype
) -> Chain:
    """Make every model. `config`: text-to-token model, flow steps, guidance, types of numbers; `dtype`: the writer's.

    `graphs`: CUDA graphs, of the writer from now on, of the voice once it was warmed up.
    """
    torch.manual_seed(0)
    recogniser_model = _recogniser(sizes, device)
    text_to_token, model = _text_to_token(sizes, config, device)
    lowered = resolve(config.dtype, device.type)
    flow = lower(FlowDecoder(sizes.flow).eval().requires_grad_(False), lowered).to(device)
    vocoder = lower(_vocoder(sizes.vocoder), lowered).to(device)
    writer = Writer(sizes.writer, num_slots=num_conversations, device=device, dtype=dtype, graphs=graphs)
    models: dict[str, nn.Module] = {
        "recogniser": recogniser_model.model,
        "language model": writer,
        "text to token": model,
        "flow decoder": flow,
        "vocoder": vocoder,
    }
    synthesizer = SyncSpeech(
        text_to_token=text_to_token,
        flow=flow,
        vocoder=vocoder,
        vocabulary=TextVocabulary(tts.ASSETS / "tmt" / "tokenizer.json"),
        default_voice=_voice(sizes.flow),
        load_voice_encoder=_no_voices,
        options=StreamOptions(
            num_flow_steps=config.num_flow_steps,
            flow_guidance=None if config.flow_guidance < 0 else config.flow_guidance,
            flow_temperature=config.flow_temperature,
            first_chunks=config.first_chunks,
            cuda_graphs=graphs,
        ),
    )
    return Chain(
        recognizer=Paraformer(recogniser_model, None, StreamingLayout()),
        writer=writer,
        synthesizer=synthesizer,
        begin=text_to_token.begin,
        flow=flow,
        vocoder=vocoder,
        weights_gib={name: weight_bytes(model) / 2**30 for name, model in models.items()},
    )


def _recogniser(sizes: Sizes, device: torch.device) -> Any:
    """FunASR's model of the pass over whole turns, built from values."""
    tokens = ["<blank>", "<s>", "</s>", *(f"w{n}" for n in range(sizes.asr_vocabulary - 4)), "<unk>"]
    config = offline_config(dict(funasr_config(sizes.asr)))
    model = build_funasr(config, tokens, None, device=str(device))
    model.model.eval().requires_grad_(False)
    return model


def _text_to_token(sizes: Sizes, config: TtsConfig, device: torch.device) -> tuple[TextToToken, nn.Module]:
    if config.backend == "interleaved":
        shape = sizes.interleaved
        model = as_stored(InterleavedLm(shape))
        model.llm_decoder.bias[shape.fill] = -1e4  # groups are spoken to their end
        speaker = ready(model, config.dtype, str(device))
        length = InterleavedOptions(min_ratio=SPEECH_PER_TEXT, max_ratio=SPEECH_PER_TEXT)
        made = TextToToken(
            vocabulary_id="",
            num_speech_tokens=shape.num_speech_tokens,
            begin=lambda _speed, _lookahead: InterleavedDecoder(speaker, length),
            use_graphs=speaker.use_graphs,
        )
        return made, speaker
    placed = ready(as_stored(Tmt(sizes.tmt)), config.dtype, str(device))
    made = TextToToken(
        vocabulary_id="",
        num_speech_tokens=sizes.tmt.num_speech_tokens,
        begin=lambda _speed, lookahead: Scripted(placed, TmtOptions(lookahead=lookahead)),
        use_graphs=placed.use_graphs,
    )
    return made, placed


def _vocoder(config: VocoderConfig) -> Vocoder:
    vocoder = Vocoder(config).eval().requires_grad_(False)
    assert vocoder.conv_post.bias is not None
    vocoder.conv_post.bias[: config.istft_size // 2 + 1] = LOUDNESS
    return vocoder


def _no_voices() -> VoiceEncoder:
    raise VoiceError("random weights clone no voices.")


def _voice(flow: FlowConfig) -> Voice:
    random = np.random.default_rng(0)
    count = round(PROMPT_S * TOKEN_HZ)
    return Voice(
        "random",
        random.integers(flow.vocabulary_size, size=count),
        random.normal(-6.0, 2.0, (flow.mel_bins, 2 * count)).astype(np.float32),
        random.normal(size=flow.speaker_width).astype(np.float32),
    )
