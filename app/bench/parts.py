"""The parts of the assistants that are measured: real ones, each loaded once, and stand-ins."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from app.assemble import Assistant, build_chat, build_recognizer, build_synthesizer, build_voice, fed, speaking_threads
from app.bench.cases import Case
from app.bench.simulate import SimulatedChat, SimulatedRecognizer, SimulatedSynthesizer, Simulation, TimedWorker
from app.worker import Worker
from asr.base import Recognizer
from configs.schema import AppConfig, LlmConfig
from llm.base import ChatModel
from tts.base import Synthesizer


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the assistants of a run."""

    name: str
    config: AppConfig


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a configuration needs, for any number of conversations; None: a stand-in that each conversation makes."""

    config: AppConfig
    simulation: Simulation
    recognizer: Recognizer | None
    chat: ChatModel | None
    synthesizer: Synthesizer
    voice: Any
    asr_worker: Worker
    tts_worker: Worker

    def assistant(self, case: Case) -> Assistant:
        """An assistant for one conversation."""
        delays, speech = self.simulation.delays, self.synthesizer
        return Assistant(
            config=self.config,
            recognizer=self.recognizer or SimulatedRecognizer(delays),
            chat=self.chat or SimulatedChat(delays, speech.tokenize(case.reply), speech.vocabulary_id),
            synthesizer=speech,
            voice=self.voice,
            asr_worker=self.asr_worker,
            tts_worker=self.tts_worker,
        )


class Loader:
    """Loads what is not simulated; assistants share every part for which they have the same settings."""

    def __init__(self, simulation: Simulation, sessions: int = 1) -> None:
        """`sessions`: conversations at once."""
        self._simulation, self._sessions = simulation, sessions
        self._loaded: dict[object, Any] = {}
        self._asr_worker: Worker = TimedWorker("asr") if simulation.recogniser else Worker("asr")
        self._tts_workers: dict[int, Worker] = {}  # by their number of threads

    async def parts(self, config: AppConfig, report: Callable[[str], None]) -> Parts:
        """Build and warm up; `report` is told what is being done."""
        recognizer = chat = voice = None
        synthesizer: Synthesizer = SimulatedSynthesizer(self._simulation.delays)
        if not self._simulation.recogniser:
            report("loading the recogniser")
            recognizer = await self._once((config.asr, config.runtime), lambda: self._recognizer(config))
        if not self._simulation.language_model:
            report("loading the language model")
            chat = await self._once((config.llm, config.runtime), lambda: self._chat(config))
        if not self._simulation.speech:
            report("loading the voice")
            plain = replace(config, tts=replace(config.tts, feeding="token"))
            synthesizer, voice = await self._once((plain.tts, plain.runtime), lambda: self._speech(plain))
        return Parts(
            config=config,
            simulation=self._simulation,
            recognizer=recognizer,
            chat=chat,
            synthesizer=fed(synthesizer, config),
            voice=voice,
            asr_worker=self._asr_worker,
            tts_worker=self._tts_worker(config),
        )

    async def _once(self, settings: object, load: Callable[[], Awaitable[Any]]) -> Any:
        if settings not in self._loaded:
            self._loaded[settings] = await load()
        return self._loaded[settings]

    def _tts_worker(self, config: AppConfig) -> Worker:
        num_threads = speaking_threads(config, self._sessions)
        if num_threads not in self._tts_workers:
            kind = TimedWorker if self._simulation.speech else Worker
            self._tts_workers[num_threads] = kind("tts", num_threads=num_threads)
        return self._tts_workers[num_threads]

    async def _recognizer(self, config: AppConfig) -> Recognizer:
        recognizer = build_recognizer(config)
        await self._asr_worker.run(recognizer.warm_up)
        return recognizer

    async def _chat(self, config: AppConfig) -> ChatModel:
        chat = build_chat(config, self._sessions)
        await chat.warm_up()
        return chat

    async def _speech(self, config: AppConfig) -> tuple[Synthesizer, Any]:
        synthesizer = build_synthesizer(config)
        voice = build_voice(synthesizer, config)
        await self._tts_worker(config).run(synthesizer.warm_up)
        return synthesizer, voice

    def close(self) -> None:
        """Stop the threads and the language models' engines."""
        for worker in (self._asr_worker, *self._tts_workers.values()):
            worker.close()
        for settings, part in self._loaded.items():
            if isinstance(settings, tuple) and isinstance(settings[0], LlmConfig):
                part.close()
