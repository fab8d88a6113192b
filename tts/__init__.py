"""Text tokens in, 24 kHz samples out: SyncSpeech, its decoder, and voices from reference recordings."""

from pathlib import Path
from typing import TYPE_CHECKING

from configs.schema import BUNDLED, ConfigError, InterleavedTtsConfig, RuntimeConfig, TtsConfig

if TYPE_CHECKING:
    from tts.interleaved.config import InterleavedConfig
    from tts.interleaved.drafts import Drafter
    from tts.stream import SyncSpeech, TextToToken, TokenDecoder
    from tts.voice import VoiceEncoder

ASSETS = Path(__file__).parent / "assets"


def build(config: TtsConfig, runtime: RuntimeConfig) -> "SyncSpeech":
    """Load the synthesiser. Raises CheckpointError, VoiceError, ConfigError."""
    import torch

    from tts import public
    from tts.stream import StreamOptions, SyncSpeech
    from tts.vocabulary import TextVocabulary
    from tts.voice import Voice

    torch.set_num_threads(runtime.num_threads)
    text_to_token, vocabulary = _text_to_token(config)

    def load_voice_encoder() -> "VoiceEncoder":
        from tts.voice import VoiceEncoder

        return VoiceEncoder(
            public.load_speech_tokenizer(_folder(config.speech_tokenizer, "speech_tokenizer")),
            public.load_speaker(_folder(config.speaker, "speaker")),
        )

    return SyncSpeech(
        text_to_token=text_to_token,
        flow=public.load_flow(_folder(config.flow, "flow")),
        vocoder=public.load_vocoder(_folder(config.vocoder, "vocoder")),
        vocabulary=TextVocabulary(vocabulary),
        default_voice=Voice.load(ASSETS / "voice" / "voice.safetensors"),
        load_voice_encoder=load_voice_encoder,
        options=StreamOptions(
            num_flow_steps=config.num_flow_steps,
            flow_temperature=config.flow_temperature,
            language=config.language,
            seed=config.seed,
        ),
    )


def _text_to_token(config: TtsConfig) -> tuple["TextToToken", Path]:
    """The chosen text-to-token model and the tokenizer.json of its text."""
    return _interleaved(config) if config.backend == "interleaved" else _syncspeech(config)


def _syncspeech(config: TtsConfig) -> tuple["TextToToken", Path]:
    from tts.stream import TextToToken
    from tts.tmt.decode import DecodeOptions, TmtDecoder
    from tts.tmt.model import Tmt

    folder = _folder(config.tmt, "tmt")
    model = Tmt.load(folder)

    def begin(speed: float, lookahead: int | None) -> "TokenDecoder":
        options = DecodeOptions(
            lookahead=config.lookahead if lookahead is None else lookahead,
            top_k=config.duration_top_k,
            speed=speed,
            seed=config.seed,
        )
        return TmtDecoder(model, options)

    made = TextToToken(
        vocabulary_id=model.config.vocabulary_id, num_speech_tokens=model.config.num_speech_tokens, begin=begin
    )
    return made, folder / "tokenizer.json"


def _interleaved(config: TtsConfig) -> tuple["TextToToken", Path]:
    from tts.base import CheckpointError, SynthesisError
    from tts.interleaved.decode import DecodeOptions, InterleavedDecoder
    from tts.interleaved.model import InterleavedLm
    from tts.stream import TextToToken

    chosen = config.interleaved
    folder = _folder(chosen.model, "interleaved")
    if chosen.model == BUNDLED and not folder.is_dir():
        raise CheckpointError(
            "no interleaved text-speech model is bundled: train it with `python launch.py train small interleaved`, "
            "or set tts.interleaved.model to a weights folder."
        )
    model = InterleavedLm.load(folder)
    drafter = _drafter(chosen, model.config)

    def begin(speed: float, _lookahead: int | None) -> "TokenDecoder":
        if speed != 1.0:
            raise SynthesisError(f"speed {speed}: the interleaved text-speech model speaks at speed 1 only.")
        return InterleavedDecoder(model, DecodeOptions(seed=config.seed), drafter=drafter)

    made = TextToToken(
        vocabulary_id=model.config.vocabulary_id, num_speech_tokens=model.config.num_speech_tokens, begin=begin
    )
    return made, folder / "tokenizer.json"


def _drafter(chosen: InterleavedTtsConfig, model: "InterleavedConfig") -> "Drafter | None":
    """The draft heads that are asked for, of a model of the given shape."""
    from tts.base import CheckpointError, SynthesisError
    from tts.interleaved.drafts import Drafter, DraftHeads
    from tts.interleaved.sampling import RepetitionAware

    if chosen.heads == "none":
        return None
    folder = _folder(chosen.heads, "vadusa")
    if chosen.heads == BUNDLED and not folder.is_dir():
        raise CheckpointError(
            "no draft heads are bundled: train them with `python launch.py train small vadusa`, or set "
            "tts.interleaved.heads to a weights folder."
        )
    heads = DraftHeads.load(folder)
    try:
        drafter = Drafter(
            heads,
            num_heads=chosen.num_heads,
            num_nodes=chosen.nodes,
            tolerance=chosen.tolerance,
            avoid=RepetitionAware().window,
        )
    except SynthesisError as error:
        raise ConfigError(f"tts.interleaved: {error}") from None
    drafter.check(model)
    return drafter


def _folder(chosen: str, name: str) -> Path:
    return ASSETS / name if chosen == BUNDLED else Path(chosen).expanduser()
