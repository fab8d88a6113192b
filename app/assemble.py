"""The one place that builds the parts from the configuration."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.events import SessionEvent
from app.session import Session, SessionOptions
from app.worker import Worker
from asr.base import Recognizer
from audio_io.base import AudioDevice
from configs.schema import BUNDLED, AppConfig
from llm.base import ChatModel
from tts.base import SynthesisStream, Synthesizer


def prepare_process(config: AppConfig) -> None:
    """Process-wide settings that must stand before a model library is imported."""
    sys.setswitchinterval(0.0005)  # late wake-ups of the audio threads beside busy Python threads: p99 94 -> 20 ms
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", str(config.runtime.num_threads))
    logging.getLogger().setLevel(config.runtime.log_level.upper())


def build_recognizer(config: AppConfig) -> Recognizer:
    """Load the recogniser. Raises RecognizerError."""
    import asr

    return asr.build(config.asr, config.runtime)


def build_chat(config: AppConfig) -> ChatModel:
    """Load the chat model. Raises ChatModelError."""
    import llm

    return llm.build(config.llm, config.runtime)


def build_synthesizer(config: AppConfig) -> Synthesizer:
    """Load the synthesiser. Raises SynthesisError."""
    import tts

    return tts.build(config.tts, config.runtime)


def build_voice(synthesizer: Synthesizer, config: AppConfig) -> Any:
    """The voice that speaks. Raises VoiceError."""
    return None if config.tts.voice == BUNDLED else synthesizer.voice(Path(config.tts.voice))


@dataclass(frozen=True, kw_only=True)
class Assistant:
    """All loaded parts; holds conversations one after the other."""

    config: AppConfig
    recognizer: Recognizer
    chat: ChatModel
    synthesizer: Synthesizer
    voice: Any
    asr_worker: Worker
    tts_worker: Worker

    @classmethod
    async def load(cls, config: AppConfig, report: Callable[[str], None]) -> "Assistant":
        """Build and warm up every part; `report` is told what is being done."""
        report("loading the recogniser")
        recognizer = build_recognizer(config)
        report("loading the language model")
        chat = build_chat(config)
        report("loading the voice")
        synthesizer = build_synthesizer(config)
        voice = build_voice(synthesizer, config)
        report("warming up")
        asr_worker, tts_worker = Worker("asr"), Worker("tts")
        await asr_worker.run(recognizer.warm_up)
        await tts_worker.run(synthesizer.warm_up)
        await chat.warm_up()
        return cls(
            config=config,
            recognizer=recognizer,
            chat=chat,
            synthesizer=synthesizer,
            voice=voice,
            asr_worker=asr_worker,
            tts_worker=tts_worker,
        )

    def new_speech(self) -> SynthesisStream:
        """Begin an utterance in the chosen voice."""
        return self.synthesizer.stream(
            voice=self.voice,
            speed=self.config.tts.speed,
            share_ids=self.chat.vocabulary_id == self.synthesizer.vocabulary_id,
        )

    def converse(self, device: AudioDevice, notify: Callable[[SessionEvent], None]) -> Session:
        """A new conversation on a device."""
        from llm.conversation import Conversation

        config = self.config
        return Session(
            device=device,
            recognition=self.recognizer.stream(),
            chat=self.chat,
            new_speech=self.new_speech,
            conversation=Conversation(
                system_prompt=config.llm.system_prompt,
                max_tokens=config.llm.max_context_tokens,
                count_tokens=self.chat.count_tokens,
            ),
            asr_worker=self.asr_worker,
            tts_worker=self.tts_worker,
            options=SessionOptions(
                max_ahead_s=config.audio.max_ahead_s,
                flush_fade_ms=config.audio.flush_fade_ms,
                first_token_timeout_s=config.llm.first_token_timeout_s,
            ),
            notify=notify,
        )

    def close(self) -> None:
        """Stop the threads and the language model's engine."""
        self.asr_worker.close()
        self.tts_worker.close()
        self.chat.close()
