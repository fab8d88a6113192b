"""The one place that builds the parts from the configuration."""

import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.events import SessionEvent
from app.gpu_plan import plan_for, total_gib
from app.needs import located
from app.reply import SessionOptions
from app.session import Session
from app.worker import VOICE_FIRST, Worker, num_cores
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import Recognizer
from audio_io.base import AudioDevice
from configs.device import resolve
from configs.schema import BUNDLED, AppConfig, ConfigError
from llm.base import ChatModel, ChatModelError, Message, TextToken
from tts.base import SAMPLE_RATE, SynthesisStream, Synthesizer
from tts.feeding import SentenceFed
from tts.unspoken import Unspoken

if TYPE_CHECKING:
    from llm.conversation import Conversation

log = logging.getLogger(__name__)


def prepare_process(config: AppConfig) -> None:
    """Process-wide settings that must stand before a model library is imported."""
    sys.setswitchinterval(0.0005)  # the event loop waits less for busy Python threads
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", str(config.runtime.num_threads))
    logging.getLogger().setLevel(config.runtime.log_level.upper())


def build_recognizer(config: AppConfig) -> Recognizer:
    """Load the recogniser. Raises RecognizerError, ConfigError."""
    import asr

    return asr.build(located(config, "asr").asr, config.runtime)


def build_chat(config: AppConfig, conversations: int = 1) -> ChatModel:
    """Load the chat model, for so many conversations at once. Raises ChatModelError, ConfigError."""
    import llm

    shared = _sharing_gpu(located(config, "llm"), config, conversations)
    return llm.build(shared.llm, config.runtime, conversations)


def _sharing_gpu(located_config: AppConfig, config: AppConfig, conversations: int) -> AppConfig:
    """With the share of the GPU that recogniser and voice leave to vLLM. Raises ChatModelError where that is too little.

    Where there is too little for so many conversations, as many as fit are planned for, and that is told.
    """
    import llm

    device, engine = config.runtime.device, config.llm.engine
    total = total_gib(device) if device != "cpu" and engine in ("auto", "vllm") and llm.has_vllm() else None
    if total is None or config.llm.gpu_share:
        return located_config
    for held in range(conversations, 0, -1):
        plan = plan_for(config, total, held)
        if plan.fits:
            break
    else:
        raise ChatModelError(
            f"the GPU is too small for this configuration: {'; '.join(plan.lines())}. Choose a smaller llm.model, fewer "
            "tts.num_flow_steps, or llm.engine=transformers with runtime.device=cpu; llm.gpu_share sets the share by hand."
        )
    if held < conversations:
        log.warning(
            "the GPU's memory is planned for %d of %d conversations at once, in their longest replies: lower "
            "web.max_sessions and serve.max_sessions, or tts.num_flow_steps, if it runs full.",
            held,
            conversations,
        )
    return replace(located_config, llm=replace(located_config.llm, gpu_share=plan.llm_share))


def build_synthesizer(config: AppConfig) -> Synthesizer:
    """Load the synthesiser. Raises SynthesisError, ConfigError."""
    import tts

    return fed(tts.build(located(config, "tts").tts, config.runtime), config)


def fed(synthesizer: Synthesizer, config: AppConfig) -> Synthesizer:
    """A synthesiser that waits for what the configuration says."""
    return SentenceFed(synthesizer) if config.tts.feeding == "sentence" else synthesizer


def speaking_threads(config: AppConfig, conversations: int) -> int:
    """Threads that speak for so many conversations at once. Raises ConfigError."""
    runtime = config.runtime
    if runtime.tts_workers < 0:
        raise ConfigError(f"runtime.tts_workers is {runtime.tts_workers}: write a number of threads, or 0.")
    if runtime.tts_workers:
        return runtime.tts_workers
    if conversations == 1 or resolve(runtime.device) != "cpu":
        return 1
    return max(1, min(conversations, num_cores() // max(1, runtime.num_threads)))


def build_voice(synthesizer: Synthesizer, config: AppConfig, recognizer: Recognizer | None = None) -> Any:
    """The voice that speaks. Raises VoiceError, and what `prompt_text` raises."""
    if config.tts.voice == BUNDLED:
        return None
    return synthesizer.voice(Path(config.tts.voice), prompt_text(config, recognizer))


def prompt_text(config: AppConfig, recognizer: Recognizer | None = None) -> str:
    """What the reference recording says, where the voice is to go on from it; else nothing.

    A text that is not given is recognised, and told. Raises VoiceError; RecognizerError where a recogniser is loaded for it.
    """
    if not config.tts.prompt_prosody or config.tts.voice_text:
        return config.tts.voice_text if config.tts.prompt_prosody else ""
    from tts.features import resample
    from tts.voice import read_reference
    from tts.voice_table import is_named

    path = Path(config.tts.voice)
    if is_named(path):
        return ""  # a speaker of a table, without a recording
    reference = read_reference(path)
    text = (recognizer or build_recognizer(config)).transcribe(resample(reference.samples, SAMPLE_RATE, CAPTURE_HZ))
    sys.stderr.write(f'{path}: recognised as "{text}"; correct it with --voice-text.\n')
    return text


@dataclass(kw_only=True)
class Choices:
    """What a person may change while he talks; read at the beginning of each turn."""

    voice: Any  # of the synthesiser; None: its own
    speed: float
    lookahead: int
    temperature: float
    patience: float = 1.0  # by what the silence that ends a turn is multiplied
    silent: bool = False  # replies are only written


class _Chat:
    """A chat model at the chosen temperature."""

    def __init__(self, chat: ChatModel, choices: Choices) -> None:
        self._chat, self._choices = chat, choices
        self.vocabulary_id, self.count_tokens = chat.vocabulary_id, chat.count_tokens
        self.warm_up, self.close = chat.warm_up, chat.close

    def stream(self, messages: Sequence[Message], *, temperature: float | None = None) -> AsyncIterator[TextToken]:
        """See `ChatModel.stream`."""
        return self._chat.stream(
            messages, temperature=self._choices.temperature if temperature is None else temperature
        )


@dataclass(frozen=True, kw_only=True)
class Assistant:
    """All loaded parts; holds any number of conversations."""

    config: AppConfig
    recognizer: Recognizer
    chat: ChatModel
    synthesizer: Synthesizer
    voice: Any
    asr_worker: Worker
    tts_worker: Worker

    @classmethod
    async def load(cls, config: AppConfig, report: Callable[[str], None], conversations: int = 1) -> "Assistant":
        """Build and warm up every part, for so many conversations at once; `report` is told what is being done."""
        assistant = cls.build(config, report, conversations)
        report("warming up")
        await assistant.warm_up()
        return assistant

    @classmethod
    def build(cls, config: AppConfig, report: Callable[[str], None], conversations: int = 1) -> "Assistant":
        """Build every part, for so many conversations at once; on any thread."""
        num_speaking, own_streams = speaking_threads(config, conversations), config.runtime.cuda_streams == "own"
        report("loading the recogniser")
        recognizer = build_recognizer(config)
        report("loading the language model")
        chat = build_chat(config, conversations)
        report("loading the voice")
        synthesizer = build_synthesizer(config)
        voice = build_voice(synthesizer, config, recognizer)
        return cls(
            config=config,
            recognizer=recognizer,
            chat=chat,
            synthesizer=synthesizer,
            voice=voice,
            asr_worker=Worker("asr", 0 if own_streams else None),
            tts_worker=Worker("tts", VOICE_FIRST if own_streams else None, num_threads=num_speaking),
        )

    async def warm_up(self) -> None:
        """Run every model once, so that the first turn is as fast as the tenth."""
        await self.asr_worker.run(self.recognizer.warm_up)
        await self.tts_worker.run(self.synthesizer.warm_up)
        await self.chat.warm_up()

    def choices(self) -> Choices:
        """What the configuration chose."""
        config = self.config
        return Choices(
            voice=self.voice,
            speed=config.tts.speed,
            lookahead=config.tts.lookahead,
            temperature=config.llm.temperature,
        )

    def new_speech(self, choices: Choices) -> SynthesisStream:
        """Begin an utterance in the chosen voice."""
        if choices.silent:
            return Unspoken()
        return self.synthesizer.stream(
            voice=choices.voice,
            speed=choices.speed,
            lookahead=choices.lookahead,
            share_ids=self.chat.vocabulary_id == self.synthesizer.vocabulary_id,
        )

    def new_conversation(self) -> "Conversation":
        """A history in which nothing was said yet."""
        from llm.conversation import Conversation

        return Conversation(
            system_prompt=self.config.llm.system_prompt,
            max_tokens=self.config.llm.max_context_tokens,
            count_tokens=self.chat.count_tokens,
        )

    def converse(
        self,
        device: AudioDevice,
        notify: Callable[[SessionEvent], None],
        conversation: "Conversation | None" = None,
        choices: Choices | None = None,
    ) -> Session:
        """Converse on a device; `conversation` carries on an earlier one, `choices` may be changed between turns."""
        config, chosen = self.config, choices or self.choices()
        return Session(
            device=device,
            recognition=self.recognizer.stream(lambda: chosen.patience),
            chat=_Chat(self.chat, chosen),
            new_speech=lambda: self.new_speech(chosen),
            conversation=conversation or self.new_conversation(),
            asr_worker=self.asr_worker,
            tts_worker=self.tts_worker,
            options=SessionOptions(
                max_ahead_s=config.audio.max_ahead_s,
                flush_fade_ms=config.audio.flush_fade_ms,
                first_token_timeout_s=config.llm.first_token_timeout_s,
                duck_gain=config.audio.duck_gain,
                duck_fade_ms=config.audio.duck_fade_ms,
                backchannel=frozenset(config.asr.endpoint.backchannel),
                aside_s=config.asr.endpoint.aside_ms / 1000,
                speculation=config.asr.endpoint.speculation,
                max_ahead_tokens=config.llm.max_ahead_tokens,
                apology=self._apology(),
            ),
            notify=notify,
        )

    def _apology(self) -> tuple[TextToken, ...]:
        """The tokens of what is said when a turn cannot be answered; they may follow a word that was cut off."""
        text = self.config.tts.apology.strip()
        return tuple(TextToken(*token) for token in self.synthesizer.tokenize(f"\n{text}")) if text else ()

    def close(self) -> None:
        """Stop the threads and the language model's engine."""
        self.asr_worker.close()
        self.tts_worker.close()
        self.chat.close()
