"""Text tokens in, 24 kHz samples out: SyncSpeech, its decoder, and voices from reference recordings."""

from pathlib import Path
from typing import TYPE_CHECKING

from configs.schema import BUNDLED, RuntimeConfig, TtsConfig

if TYPE_CHECKING:
    from tts.stream import SyncSpeech
    from tts.voice import VoiceEncoder

ASSETS = Path(__file__).parent / "assets"


def build(config: TtsConfig, runtime: RuntimeConfig) -> "SyncSpeech":
    """Load the synthesiser. Raises CheckpointError, VoiceError."""
    import torch

    from tts.decoder.flow import FlowDecoder
    from tts.decoder.vocoder import Vocoder
    from tts.stream import StreamOptions, SyncSpeech
    from tts.tmt.model import Tmt
    from tts.vocabulary import TextVocabulary
    from tts.voice import Voice

    torch.set_num_threads(runtime.num_threads)
    tmt = _folder(config.tmt, "tmt")

    def load_voice_encoder() -> "VoiceEncoder":
        from tts.speaker import SpeakerEncoder
        from tts.tokenizer import SpeechTokenizer
        from tts.voice import VoiceEncoder

        return VoiceEncoder(
            SpeechTokenizer.load(_folder(config.speech_tokenizer, "speech_tokenizer")),
            SpeakerEncoder.load(_folder(config.speaker, "speaker")),
        )

    return SyncSpeech(
        tmt=Tmt.load(tmt),
        flow=FlowDecoder.load(_folder(config.flow, "flow")),
        vocoder=Vocoder.load(_folder(config.vocoder, "vocoder")),
        vocabulary=TextVocabulary(tmt / "tokenizer.json"),
        default_voice=Voice.load(ASSETS / "voice" / "voice.safetensors"),
        load_voice_encoder=load_voice_encoder,
        options=StreamOptions(
            lookahead=config.lookahead,
            duration_top_k=config.duration_top_k,
            num_flow_steps=config.num_flow_steps,
            flow_temperature=config.flow_temperature,
            language=config.language,
            seed=config.seed,
        ),
    )


def _folder(chosen: str, name: str) -> Path:
    return ASSETS / name if chosen == BUNDLED else Path(chosen)
