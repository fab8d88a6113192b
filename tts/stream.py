"""The synthesiser as a stream: text tokens -> speech tokens -> mel -> samples. Owns all state of one utterance."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tts.base import (
    LEFT_OUT,
    SAMPLE_RATE,
    SAMPLES_PER_TOKEN,
    CheckpointError,
    PcmChunk,
    SpeechStep,
    SynthesisError,
    TwoPass,
    VoiceError,
)
from tts.decoder.encoder import UPSAMPLING
from tts.decoder.flow import FlowDecoder
from tts.decoder.flow_state import FlowState
from tts.decoder.vocoder import Vocoder, VocoderState
from tts.modules.graphs import Capture, CudaCapture
from tts.text import SpokenStream, SpokenToken
from tts.text_to_token import TextToToken, TokenDecoder
from tts.timbre import Timbre, difference
from tts.vocabulary import TextVocabulary
from tts.voice import Voice, VoiceEncoder, read_reference
from tts.voice_table import is_named, named_voice

PRIMING_FRAMES = 25
FADE_IN_S = 0.02
MOST_CHUNKS = 3  # in one pass: more would save little, and keep other conversations waiting
SILENT_MEL = float(np.log(1e-5))  # log mel of digital silence
WARM_UP_TEXT = "Hello, this is a warm-up."

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Run-time choices of the synthesiser."""

    num_flow_steps: int = 2
    flow_guidance: float | None = None  # strength of classifier-free guidance; None: as the weights were made for
    flow_temperature: float = 1.0
    first_chunks: tuple[int, ...] = ()  # speech tokens of the chunks that every utterance begins with
    cuda_graphs: bool = True  # on a GPU, record what repeats when warming up
    match_timbre: bool = False  # give every frame what the decoder loses of the voice's timbre
    language: str = "en"
    seed: int = 0


@dataclass(frozen=True)
class PreparedVoice:
    """A voice with the models' states after its prompt: made once, cloned for every utterance."""

    voice: Voice
    state: FlowState  # of the decoder
    timbre: Timbre | None  # None: as the decoder speaks
    prompt: Any = None  # what the text-to-token model goes on from; None: it begins anew
    notes: tuple[str, ...] = ()  # why it does not go on from the text that was given, in sentences


class SyncSpeech:
    """The loaded models; hands out utterances. Raises CheckpointError when the folders do not belong together."""

    def __init__(
        self,
        *,
        text_to_token: TextToToken,
        flow: FlowDecoder,
        vocoder: Vocoder,
        vocabulary: TextVocabulary,
        default_voice: Voice,
        load_voice_encoder: Callable[[], VoiceEncoder],
        options: StreamOptions,
    ) -> None:
        if text_to_token.vocabulary_id and text_to_token.vocabulary_id != vocabulary.id:
            raise CheckpointError(
                "the text-to-token model was trained with another tokenizer.json than the one beside it."
            )
        if text_to_token.num_speech_tokens != flow.config.vocabulary_size:
            raise CheckpointError(
                f"the text-to-token model speaks {text_to_token.num_speech_tokens} speech tokens, the flow decoder "
                f"knows {flow.config.vocabulary_size}: take both from the same training."
            )
        self._text_to_token, self._flow, self._vocoder = text_to_token, flow, vocoder
        self._device = next(flow.parameters()).device
        self._vocabulary = vocabulary
        self._load_voice_encoder = load_voice_encoder
        self._options = options
        self._default = self._prepare(default_voice, known=True)
        self._vocoder_start = primed(vocoder, options.seed)

    @property
    def vocabulary_id(self) -> str:
        """Hash of the text tokenizer whose ids `push` takes directly."""
        return self._vocabulary.id

    @property
    def default_voice(self) -> PreparedVoice:
        """The voice that speaks when none is given."""
        return self._default

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """Split text into (id, text) tokens as a language model would send them."""
        return self._vocabulary.encode(text)

    def voice(self, path: Path, text: str = "") -> PreparedVoice:
        """Read a reference recording, or `spk2info.pt:NAME`. Raises VoiceError, CheckpointError.

        `text`: what is said in it; then the text-to-token model goes on from it, with its rate and its prosody.
        """
        if is_named(path):
            return self._prepare(named_voice(path))
        reference = read_reference(path)
        for note in reference.notes:
            log.warning("%s: %s", path, note)
        prepared = self._prepare(self._voice_encoder.encode(reference, name=path.stem))
        if not text.strip():
            return prepared
        if self._text_to_token.read_prompt is None:
            prompt, note = None, "this text-to-token model takes no prompt; only the sound of the voice is taken."
        else:
            tokens = self._voice_encoder.tokens(reference.samples)
            prompt = self._text_to_token.read_prompt(reference, tokens, text)
            note = prompt.note
        if note:
            log.warning("%s: %s", path, note)
        return replace(prepared, prompt=prompt, notes=(note,) if note else ())

    @cached_property
    def _voice_encoder(self) -> VoiceEncoder:
        """Loaded when the first reference recording comes."""
        return self._load_voice_encoder()

    def _prepare(self, voice: Voice, *, known: bool = False) -> PreparedVoice:
        """`known`: the decoder was trained on this voice, whose timbre it does not miss."""
        config = self._flow.config
        largest, width = int(voice.tokens.max(initial=-1)), len(voice.embedding)
        if largest >= config.vocabulary_size or width != config.speaker_width:
            raise VoiceError(
                f"the voice {voice.name} has speech tokens up to {largest} and a speaker vector of {width} numbers, the flow "
                f"decoder knows {config.vocabulary_size} tokens and {config.speaker_width} numbers: they are of two releases."
            )
        state = self._flow.start(
            torch.from_numpy(voice.embedding)[None].to(self._device),
            torch.from_numpy(voice.tokens)[None].to(self._device),
            torch.from_numpy(voice.mel)[None].to(self._device),
            num_flow_steps=self._options.num_flow_steps,
            guidance=self._options.flow_guidance,
            temperature=self._options.flow_temperature,
            first_chunks=self._options.first_chunks,
        )
        matched = self._options.match_timbre and not known
        return PreparedVoice(voice, state, self._timbre(voice, state) if matched else None)

    def _timbre(self, voice: Voice, state: FlowState) -> Timbre:
        """What the decoder loses of the prompt when it says it once more."""
        tokens = torch.from_numpy(voice.tokens)[None].to(self._device)
        said_again = self._flow.step(tokens, state.clone(), last=True)[0]
        return difference(said_again, torch.from_numpy(voice.mel).to(self._device))

    def stream(
        self,
        *,
        voice: PreparedVoice | None = None,
        speed: float = 1.0,
        share_ids: bool = True,
        lookahead: int | None = None,
        two_pass: TwoPass | None = None,
    ) -> "SyncSpeechStream":
        """Begin an utterance; see `tts.base.Synthesizer.stream`."""
        options, voice = self._options, voice or self._default
        later = voice.prompt is not None and voice.prompt.has_text
        text = SpokenStream(self._vocabulary.encode, share_ids=share_ids, language=options.language, later=later)
        return SyncSpeechStream(
            text=text,
            decoder=self._begin(speed, lookahead, voice.prompt, two_pass),
            flow=self._flow,
            vocoder=self._vocoder,
            flow_state=voice.state.clone(),
            timbre=voice.timbre,
            vocoder_state=self._vocoder_start.clone(),
        )

    def _begin(self, speed: float, lookahead: int | None, prompt: Any, two_pass: TwoPass | None) -> TokenDecoder:
        model = self._text_to_token
        if prompt is None and two_pass is None:
            return model.begin(speed, lookahead)
        if model.begin_given is None:
            raise SynthesisError("this text-to-token model has no durations to scale: use tts.backend=syncspeech.")
        return model.begin_given(speed, lookahead, prompt, two_pass)

    @torch.inference_mode()
    def vocode(self, mel_BMT: np.ndarray) -> np.ndarray:
        """Samples (N,) of a log mel (1, 80, T): the vocoder alone."""
        state = self._vocoder.initial_state(seed=self._options.seed)
        return self._vocoder.stream(torch.from_numpy(mel_BMT).to(self._device), state, last=True)[0].cpu().numpy()

    def speech_tokens(self, samples: np.ndarray) -> np.ndarray:
        """Speech tokens (S,) int64 of a recording (24 kHz)."""
        return self._voice_encoder.tokens(samples)

    @torch.inference_mode()
    def decode(self, tokens: np.ndarray, voice: PreparedVoice | None = None) -> np.ndarray:
        """Log mel (1, 80, 2 S) of speech tokens (S,): the flow decoder alone."""
        voice = voice or self._default
        mel = self._flow.step(torch.from_numpy(tokens)[None].to(self._device), voice.state.clone(), last=True)
        return (voice.timbre(mel) if voice.timbre else mel).cpu().numpy()

    def resynthesize(self, samples: np.ndarray, voice: PreparedVoice | None = None) -> np.ndarray:
        """Samples (N,) of a recording (24 kHz) after speech tokenizer, decoder and vocoder."""
        return self.say_tokens(self.speech_tokens(samples), voice)

    def say_tokens(self, tokens: np.ndarray, voice: PreparedVoice | None = None) -> np.ndarray:
        """Samples (N,) of speech tokens (S,): decoder and vocoder alone. Without tokens there are none."""
        return self.vocode(self.decode(tokens, voice)) if len(tokens) else np.zeros(0, np.float32)

    def warm_up(self) -> None:
        """Speak into the void, so that the first turn is as fast as the tenth; by the thread that will speak."""
        self._say_into_the_void()
        if self._device.type == "cuda" and self._options.cuda_graphs:
            self.use_graphs()
            self._say_into_the_void()

    def use_graphs(self, capture: Callable[[], Capture] = CudaCapture) -> None:
        """Record what repeats, and run it by these recordings from now on, in this thread: a GPU waits for no launches."""
        self._flow.use_graphs(self._default.state, capture)
        tokens = (*self._options.first_chunks, self._flow.config.chunk_tokens)
        self._vocoder.use_graphs(self._vocoder_start, [UPSAMPLING * count for count in tokens], capture)
        if self._text_to_token.use_graphs is not None:
            self._text_to_token.use_graphs(capture)

    def _say_into_the_void(self) -> None:
        stream = self.stream(share_ids=False)
        stream.push(0, WARM_UP_TEXT)
        stream.finish()
        while stream.step() is not None:
            pass


@torch.inference_mode()
def primed(vocoder: Vocoder, seed: int) -> VocoderState:
    """A vocoder state after some silence: causal layers that begin with nothing behind them click."""
    state = vocoder.initial_state(seed=seed)
    if vocoder.config.causal:
        silence = torch.full((1, vocoder.config.mel_bins, PRIMING_FRAMES), SILENT_MEL)
        vocoder.stream(silence.to(next(vocoder.parameters()).device), state)
    return state


def faded_in(samples: np.ndarray, start: int) -> np.ndarray:
    """Samples (N,) from position `start` of what is played of an utterance.

    Speech begins 80 ms after the start of what the models were trained on, so neither the fade nor what is left out
    before it takes anything of it.
    """
    gain = np.clip((start + np.arange(len(samples))) / (SAMPLE_RATE * FADE_IN_S), 0.0, 1.0)
    return (samples * gain).astype(np.float32)


def lead_samples(vocoder: Vocoder) -> int:
    """Samples before the first one that is played: the rest of the priming silence, and what is left out."""
    return LEFT_OUT + (vocoder.config.lookahead_frames * vocoder.config.frame if vocoder.config.causal else 0)


def played(num_speech_tokens: int) -> int:
    """Samples that are played of an utterance's first speech tokens."""
    return max(0, num_speech_tokens * SAMPLES_PER_TOKEN - LEFT_OUT)


class SyncSpeechStream:
    """One utterance. `step` does the most urgent piece of work: a decoder chunk when one is due, else a text token.

    With sound in hand several chunks are due together, as long as there is text to make them of.
    """

    def __init__(
        self,
        *,
        text: SpokenStream,
        decoder: TokenDecoder,
        flow: FlowDecoder,
        vocoder: Vocoder,
        flow_state: FlowState,
        timbre: Timbre | None,
        vocoder_state: VocoderState,
    ) -> None:
        self._text, self._decoder, self._flow, self._vocoder = text, decoder, flow, vocoder
        self._device = next(flow.parameters()).device
        self._flow_state, self._timbre = flow_state, timbre
        self._vocoder_state = vocoder_state
        self._lead = lead_samples(vocoder)  # samples that are still to be left out
        self._ends = VoicedTokens()
        self._texts: deque[str] = deque()  # of the text tokens that are not voiced yet
        self._num_voiced = 0  # text tokens
        self._waiting: list[int] = []  # speech tokens not yet given to the decoder
        self._undecoded = 0  # speech tokens whose samples were not returned
        self._made_samples = 0
        self._finished = False
        self.done = False

    def push(self, token_id: int, text: str) -> None:
        """Take one language model token: its id and its text. Raises SynthesisError after `finish`."""
        if self._finished:
            raise SynthesisError("text after the end of the text: begin a new utterance.")
        self._ends.num_pushed += 1
        for token in self._text.push(token_id, text):
            self._take(token)

    def finish(self) -> None:
        """Say that the text is complete."""
        if self._finished:
            return
        self._finished = True
        for token in self._text.finish():
            self._take(token)
        self._decoder.finish()

    def _take(self, token: SpokenToken) -> None:
        self._ends.owners.append(token.owner)
        self._texts.append(token.text)
        self._decoder.push(token.id)

    def step(self, in_hand_s: float = 0.0) -> SpeechStep | PcmChunk | None:
        """Do one unit of work; None when it waits for text (or is done); see `tts.base.SynthesisStream.step`."""
        if self.done:
            return None
        began = time.perf_counter()
        most = self._flow.due(self._flow_state, self._num_affordable(in_hand_s))
        if self._undecoded >= most:
            return self._decode(began, most)
        block = self._decoder.step() if self._ends.owners else None
        if block is not None:
            self._waiting.extend(block.tokens.tolist())
            self._undecoded += len(block.tokens)
            played_before = played(self._ends.num_speech_tokens)
            text = "".join(self._texts.popleft() for _ in range(block.text_token + 1 - self._num_voiced))
            self._num_voiced = max(self._num_voiced, block.text_token + 1)
            self._ends.add(block.text_token, len(block.tokens))
            return SpeechStep(
                text_token=block.text_token,
                num_speech_tokens=len(block.tokens),
                num_samples=played(self._ends.num_speech_tokens) - played_before,
                token_end=self._ends.at(self._ends.num_speech_tokens, self._finished),
                synth_ms=1000 * (time.perf_counter() - began),
                text=text,
                capped=block.capped,
            )
        if self._finished and (self._decoder.done or not self._ends.owners):
            return self._decode(began, self._undecoded, last=True)
        if self._undecoded >= self._flow.due(self._flow_state):
            return self._decode(began, self._undecoded)
        return None

    def _num_affordable(self, in_hand_s: float) -> int:
        """Chunks that a pass may make: half of the sound that is in hand, so that one that takes twice as long is in time."""
        chunk_s = self._flow.config.chunk_tokens * SAMPLES_PER_TOKEN / SAMPLE_RATE
        return int(min(max(in_hand_s / (2 * chunk_s), 1), MOST_CHUNKS))

    @torch.inference_mode()
    def _decode(self, began: float, num_tokens: int, *, last: bool = False) -> PcmChunk:
        """Turn the chunks that are complete in the next speech tokens into samples; with the last, all of them."""
        before = self._undecoded
        samples, vocoder_s = np.zeros(0, np.float32), 0.0
        if self._ends.num_speech_tokens:
            given = num_tokens - (self._undecoded - len(self._waiting))
            tokens = torch.tensor([self._waiting[:given]], dtype=torch.long, device=self._device)
            del self._waiting[:given]
            mel = self._flow.step(tokens, self._flow_state, last=last)
            if self._timbre is not None:
                mel = self._timbre(mel)
            vocoder_began = time.perf_counter()
            samples = self._vocoder.stream(mel, self._vocoder_state, last=last)[0].cpu().numpy()
            vocoder_s = time.perf_counter() - vocoder_began
            dropped = min(self._lead, len(samples))
            samples, self._lead = faded_in(samples[dropped:], self._made_samples), self._lead - dropped
            self._undecoded = 0 if last else before - mel.shape[2] // 2
        self._made_samples += len(samples)
        self.done = last
        return PcmChunk(
            samples=samples,
            token_end=self._ends.at((self._made_samples + LEFT_OUT) // SAMPLES_PER_TOKEN, last),
            num_speech_tokens=before - self._undecoded,
            synth_ms=1000 * (time.perf_counter() - began),
            last=last,
            vocoder_ms=1000 * vocoder_s,
        )


class VoicedTokens:
    """Which language model tokens are fully voiced after a number of speech tokens; exact to one speech token."""

    def __init__(self) -> None:
        self.owners: list[int] = []  # of each spoken text token: the last language model token voiced with it
        self.num_pushed = 0
        self.num_speech_tokens = 0
        self._ends: list[int] = []  # speech tokens at the end of each spoken text token

    def add(self, text_token: int, num_speech_tokens: int) -> None:
        """Speech tokens at whose end the text tokens up to `text_token` are voiced; -1: none yet."""
        self.num_speech_tokens += num_speech_tokens
        self._ends += [self.num_speech_tokens] * (text_token + 1 - len(self._ends))

    def at(self, num_speech_tokens: int, complete: bool) -> int:
        """Number of leading language model tokens whose speech ends by then. `complete`: the text is finished."""
        voiced = int(np.searchsorted(self._ends, num_speech_tokens, side="right"))
        if complete and voiced == len(self.owners):
            return self.num_pushed
        return self.owners[voiced - 1] + 1 if voiced else 0
