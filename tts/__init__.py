"""Text tokens in, 24 kHz samples out: SyncSpeech, its decoder, and voices from reference recordings."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from configs.device import resolve
from configs.schema import BUNDLED, ConfigError, RuntimeConfig, TtsConfig

if TYPE_CHECKING:
    import numpy as np

    from tts.base import TwoPass
    from tts.decoder.flow import FlowDecoder
    from tts.decoder.vocoder import Vocoder
    from tts.interleaved.config import InterleavedConfig
    from tts.interleaved.drafts import Drafter
    from tts.speaker import SpeakerEncoder
    from tts.stream import SyncSpeech
    from tts.text_to_token import TextToToken, TokenDecoder
    from tts.tokenizer import SpeechTokenizer
    from tts.voice import Reference, Voice, VoiceEncoder

log = logging.getLogger(__name__)
ASSETS = Path(__file__).parent / "assets"


def build(config: TtsConfig, runtime: RuntimeConfig) -> "SyncSpeech":
    """Load the synthesiser. Raises CheckpointError, VoiceError, ConfigError."""
    import torch

    from tts.stream import StreamOptions, SyncSpeech
    from tts.vocabulary import TextVocabulary
    from tts.voice import VoiceEncoder

    if any(size < 1 for size in config.first_chunks):
        raise ConfigError(f"tts.first_chunks is {list(config.first_chunks)}: a chunk has at least one speech token.")
    torch.set_num_threads(runtime.num_threads)
    device = resolve(runtime.device)
    text_to_token, vocabulary = _text_to_token(config, device)
    flow = load_flow(config, device)

    def load_voice_encoder() -> VoiceEncoder:
        tokenizer = load_speech_tokenizer(config, device)
        _require_same_tokens(tokenizer.config.vocabulary_size, flow.config.vocabulary_size)
        return VoiceEncoder(tokenizer, load_speaker(config, device))

    return SyncSpeech(
        text_to_token=text_to_token,
        flow=flow,
        vocoder=load_vocoder(config, device),
        vocabulary=TextVocabulary(vocabulary),
        default_voice=_bundled_voice(config, flow.config.vocabulary_size, load_voice_encoder),
        load_voice_encoder=load_voice_encoder,
        options=StreamOptions(
            num_flow_steps=config.num_flow_steps,
            flow_guidance=None if config.flow_guidance < 0 else config.flow_guidance,
            flow_temperature=config.flow_temperature,
            first_chunks=config.first_chunks,
            match_timbre=config.match_timbre,
            cuda_graphs=config.cuda_graphs,
            language=config.language,
            seed=config.seed,
        ),
    )


def load_flow(config: TtsConfig, device: str) -> "FlowDecoder":
    """Load the chosen flow-matching decoder. Raises CheckpointError, ConfigError."""
    from tts import precision, public

    if config.max_left_chunks < 0:
        raise ConfigError(f"tts.max_left_chunks is {config.max_left_chunks}: give 0, as the weights say, or more.")
    flow = public.load(public.FLOW, _folder(config.flow, "flow"), device=device)
    if config.max_left_chunks:
        flow.bound_left_context(config.max_left_chunks)
    return precision.lower(flow, precision.resolve(config.dtype, device))


def load_vocoder(config: TtsConfig, device: str) -> "Vocoder":
    """Load the chosen vocoder. Raises CheckpointError."""
    from tts import precision, public

    vocoder = public.load(public.VOCODER, _folder(config.vocoder, "vocoder"), device=device)
    return precision.lower(vocoder, precision.resolve(config.dtype, device)).pack()


def load_speech_tokenizer(config: TtsConfig, device: str = "cpu") -> "SpeechTokenizer":
    """Load the chosen speech tokenizer. Raises CheckpointError."""
    from tts import public

    return public.load(public.SPEECH_TOKENIZER, _folder(config.speech_tokenizer, "speech_tokenizer"), device=device)


def load_speaker(config: TtsConfig, device: str = "cpu") -> "SpeakerEncoder":
    """Load the chosen speaker encoder. Raises CheckpointError."""
    from tts import public

    return public.load(public.SPEAKER, _folder(config.speaker, "speaker"), device=device)


def tokenizer_file(config: TtsConfig) -> Path:
    """The tokenizer.json of the chosen text-to-token model's text."""
    return _folder(config.tmt, "tmt") / "tokenizer.json"


def _bundled_voice(config: TtsConfig, num_decoded: int, load_encoder: Callable[[], "VoiceEncoder"]) -> "Voice":
    """The bundled voice as it was made for the bundled decoder; for another, from the recording of it that ships."""
    from tts import checkpoint
    from tts.tokenizer import SpeechTokenizerConfig
    from tts.voice import Voice

    if not config.speech_tokenizer == config.speaker == BUNDLED:
        return load_encoder().read(ASSETS / "voice" / "reference.flac", name="bundled")
    made = SpeechTokenizerConfig(**checkpoint.read_config(ASSETS / "speech_tokenizer"))
    _require_same_tokens(made.vocabulary_size, num_decoded)
    return Voice.load(ASSETS / "voice" / "voice.safetensors")


def _require_same_tokens(num_made: int, num_decoded: int) -> None:
    from tts.base import CheckpointError

    if num_made != num_decoded:
        raise CheckpointError(
            f"tts.speech_tokenizer makes {num_made} different speech tokens, tts.flow decodes {num_decoded}: set both, and "
            "tts.speaker, to the files of one release."
        )


def _text_to_token(config: TtsConfig, device: str) -> tuple["TextToToken", Path]:
    """The chosen text-to-token model and the tokenizer of its text."""
    return _interleaved(config, device) if config.backend == "interleaved" else _syncspeech(config, device)


def _syncspeech(config: TtsConfig, device: str) -> tuple["TextToToken", Path]:
    from tts import precision
    from tts.prompt import PromptReader
    from tts.text_to_token import TextToToken
    from tts.tmt import pacing
    from tts.tmt.decode import DecodeOptions
    from tts.tmt.model import Tmt
    from tts.tmt.prompt import PreparedPrompt

    folder = _folder(config.tmt, "tmt")
    vocabulary = folder / "tokenizer.json"
    model = precision.ready(Tmt.load(folder), config.dtype, device)
    reader = PromptReader(
        vocabulary,
        language=config.language,
        aligner=config.prompt_aligner,
        max_duration=model.config.num_duration_classes - 1,
    )

    def begin(
        speed: float,
        lookahead: int | None,
        prompt: PreparedPrompt | None = None,
        two_pass: "TwoPass | None" = None,
    ) -> "TokenDecoder":
        options = DecodeOptions(
            lookahead=config.lookahead if lookahead is None else lookahead,
            opportunistic=config.early_text,
            text_per_step=config.text_per_step,
            refinements=config.refinements,
            top_k=config.duration_top_k,
            speed=speed,
            seed=config.seed,
        )
        return pacing.begin(model, options, prompt, two_pass)

    def read_prompt(reference: "Reference", tokens: "np.ndarray", text: str) -> PreparedPrompt:
        return PreparedPrompt(model, reader.read(reference, tokens, text))

    made = TextToToken(
        vocabulary_id=model.config.vocabulary_id,
        num_speech_tokens=model.config.num_speech_tokens,
        begin=begin,
        begin_given=begin,
        read_prompt=read_prompt,
        use_graphs=model.use_graphs,
    )
    return made, vocabulary


def _interleaved(config: TtsConfig, device: str) -> tuple["TextToToken", Path]:
    from tts import precision, public
    from tts.base import CheckpointError
    from tts.interleaved.decode import DecodeOptions, InterleavedDecoder
    from tts.text_to_token import TextToToken

    chosen = config.interleaved
    folder = _folder(chosen.model, "interleaved")
    if chosen.model == BUNDLED and not folder.is_dir():
        raise CheckpointError(
            "no interleaved text-speech model is bundled: train it with `python launch.py train small interleaved`, "
            "or set tts.interleaved.model to a weights folder or CosyVoice 2's."
        )
    file = public.find(public.INTERLEAVED, folder)
    model = precision.ready(public.load(public.INTERLEAVED, folder, device=device), config.dtype, device)
    drafter = _drafter(config, model.config, device)

    def begin(speed: float, _lookahead: int | None) -> "TokenDecoder":
        if speed != 1.0:
            log.warning(
                "speed %g: the interleaved text-speech model has no durations, it speaks at its own rate.", speed
            )
        return InterleavedDecoder(model, DecodeOptions(seed=config.seed), drafter=drafter)

    made = TextToToken(
        vocabulary_id=model.config.vocabulary_id,
        num_speech_tokens=model.config.num_speech_tokens,
        begin=begin,
        use_graphs=lambda capture: model.use_graphs(capture, num_positions=(1, drafter.num_nodes) if drafter else (1,)),
    )
    return made, folder / "tokenizer.json" if file is None else file.parent / public.TEXT_FOLDER


def _drafter(config: TtsConfig, model: "InterleavedConfig", device: str) -> "Drafter | None":
    """The draft heads that are asked for, of a model of the given shape."""
    from tts import precision
    from tts.base import CheckpointError, SynthesisError
    from tts.interleaved.drafts import Drafter, DraftHeads
    from tts.interleaved.sampling import RepetitionAware

    chosen = config.interleaved
    if chosen.heads == "none":
        return None
    folder = _folder(chosen.heads, "vadusa")
    if chosen.heads == BUNDLED and not folder.is_dir():
        raise CheckpointError(
            "no draft heads are bundled: train them with `python launch.py train small vadusa`, or set "
            "tts.interleaved.heads to a weights folder."
        )
    heads = precision.ready(DraftHeads.load(folder), config.dtype, device)
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
