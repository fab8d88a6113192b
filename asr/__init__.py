"""The recogniser's room. `build` is its only door; the models are imported on use."""

from pathlib import Path
from typing import TYPE_CHECKING

from asr.base import Recognizer
from configs.device import resolve
from configs.schema import BUNDLED, NONE, SILERO, AsrConfig, RuntimeConfig

if TYPE_CHECKING:
    from asr.endpoint import Ear
    from asr.stream import Reader
    from asr.vad import VoiceActivity


def hears_turn_ends(config: AsrConfig) -> bool:
    """Whether the sound of a voice, and not its words alone, tells where a turn ends (`asr.endpoint.sound`)."""
    known = _is_bundled(config) or config.endpoint.smart_turn
    return config.endpoint.sound == "always" or (config.endpoint.sound == "auto" and bool(known))


def limits(config: AsrConfig) -> str:
    """What people who speak to the configured recogniser must know, in a line; "" where there is nothing."""
    if not _is_bundled(config):
        return ""
    return (
        "The built-in recogniser has heard synthetic voices only and misunderstands people. To speak to it yourself: "
        "--set asr.backend=moonshine"
    )


def build(config: AsrConfig, runtime: RuntimeConfig) -> Recognizer:
    """Load the recogniser.

    Raises:
        asr.base.RecognizerError: a package or weights are missing or damaged.
        ConfigError: the device is not there.
    """
    from asr.endpoint import Endpoint
    from asr.punctuation import Punctuator
    from asr.stream import StreamingRecognizer, StreamOptions
    from asr.turn_end import bundled

    endpoint = config.endpoint
    options = StreamOptions(
        vad_threshold=config.vad_threshold,
        notice_threshold=config.notice_threshold,
        min_speech_ms=config.min_speech_ms,
        sustained_ms=config.sustained_ms,
        pre_roll_ms=config.pre_roll_ms,
        partial_interval_ms=config.partial_interval_ms,
        max_turn_s=endpoint.max_turn_s,
        endpoint=Endpoint(
            complete_silence_ms=endpoint.complete_silence_ms,
            probable_silence_ms=endpoint.probable_silence_ms,
            min_silence_ms=endpoint.min_silence_ms,
            incomplete_silence_ms=endpoint.incomplete_silence_ms,
            judge=bundled(),
            ear=_ear(config),
        ),
    )
    reader, vad = _reader(config, runtime), _voice_activity(config)
    if config.punctuation == NONE:
        return StreamingRecognizer(reader, vad, options)
    punctuate = Punctuator.load(Path(config.punctuation).expanduser(), resolve(runtime.device))
    return StreamingRecognizer(reader, vad, options, punctuate)


def _voice_activity(config: AsrConfig) -> "VoiceActivity":
    from asr.fsmn_vad import FsmnVad
    from asr.vad import SileroModel

    return SileroModel() if config.vad == SILERO else FsmnVad.load(Path(config.vad).expanduser())


def _ear(config: AsrConfig) -> "Ear | None":
    from asr import turn_sound
    from asr.smart_turn import SmartTurn

    if not hears_turn_ends(config):
        return None
    chosen = config.endpoint.smart_turn
    return SmartTurn(Path(chosen).expanduser()) if chosen else turn_sound.bundled()


def _is_bundled(config: AsrConfig) -> bool:
    return config.backend == "paraformer" and config.model == BUNDLED


def _reader(config: AsrConfig, runtime: RuntimeConfig) -> "Reader":
    if config.backend == "moonshine":
        from asr.moonshine import Moonshine

        return Moonshine()
    from asr.paraformer import Paraformer

    return Paraformer.load(
        config.model,
        config.streaming_model,
        device=resolve(runtime.device),
        num_threads=runtime.num_threads,
        partial_interval_ms=config.partial_interval_ms,
        word_search=config.word_search,
    )
