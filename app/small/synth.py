"""Training speech with exact phone and word times: flite and espeak-ng, called through ctypes in this process.

Both programs place every phone themselves, so the times are theirs and not an aligner's. Output is float32 mono 24 kHz.
"""

import ctypes
import ctypes.util
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from configs.schema import ConfigError

SAMPLE_RATE = 24_000
TOKEN_SAMPLES = 960  # one speech token: 40 ms
LEAD_S, TAIL_S = 0.08, 0.12  # silence kept before the first and after the last phone
LOUDNESS = 0.1  # root mean square of every utterance, so that no voice is told by its loudness

_VOWELS = "aa ae ah ao aw ay eh er ey ih iy ow oy uh uw"
_CONSONANTS = "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh"
PHONES = (*_VOWELS.split(), *_CONSONANTS.split(), "pau", "other")

_FLITE_PHONES = {"ax": "ah", "axr": "er", "dx": "t", "nx": "n", "el": "l", "em": "m", "en": "n"}
_FLITE_SPELLINGS = {"I'm": "Ime", "i'm": "ime"}  # its lexicon reads "I'm a" as "im a"

# espeak-ng's IPA names; a name that holds two sounds is split in equal parts.
_IPA = """
n n|ɪ ih|s s|t t|ə ah|l l|k k|ɹ r|d d|m m|ɛ eh|z z|b b|p p|a ae|ɡ g|f f|æ ae|ɒ aa|v v|ŋ ng|eɪ ey|aɪ ay
iː iy|ɑː aa|ʌ ah|i iy|h hh|dʒ jh|oʊ ow|w w|ʃ sh|uː uw|ɐ ah|ɔː ao|eː ey|r r|ɚ er|əl ah l|j y|ɜː er|tʃ ch
oː ao|ʊ uh|ɾ t|ᵻ ih|iə iy ah|θ th|ɔɪ oy|ɜ er|e eh|əʊ ow|ʌʊ ow|aʊ aw|ɑːɹ aa r|ei ey|əu ow|ɛə eh|ɔ ao
aɪə ay ah|əɪ er|eə eh|ʉː uw|aː aa|ɑə aa|æʊ aw|oə ao|ʉ uh|oːɹ ao r|a: aa|ð dh|ʒ zh|ʌɹ er|ɔːɹ ao r|o ow
ʌʉ aw|t̪ t|ʊə uh|ɔə ao|aa aa|ʊɹ uh r|ɛɹ eh r|ɪɹ ih r|aɪɚ ay er|əɹ er|oɪ oy|ʉɹ uh r|x k|ʍ w|ʔ t|n̩ n|ʲ y
u uw|ɪə ih ah|aɪʊ ay uh|l̩ l|ɫ l|ɝ er
"""
_ESPEAK_PHONES = {
    name: tuple(rest) for name, *rest in (entry.split() for entry in _IPA.strip().replace("\n", "|").split("|"))
}


class SynthesizerError(ConfigError):
    """A speech program is missing or refuses a voice; the message says how to get it."""


class AlignmentError(Exception):
    """The program split the text into other words than its white space does, so its times fit no word."""


@dataclass(frozen=True)
class Speech:
    """One spoken text: samples (N,) float32 at 24 kHz, N a multiple of 960; times in seconds from the first sample."""

    samples: np.ndarray
    words: tuple[tuple[str, float, float], ...]  # (word, start, end), one per white-space separated word
    phones: tuple[tuple[str, float], ...]  # (name in PHONES, end), contiguous from 0 to the end of the audio


@dataclass(frozen=True)
class _Segment:
    """A phone as a program reports it: name in PHONES, start and end in seconds, index of its word or None."""

    phone: str
    start: float
    end: float
    word: int | None


def _library(name: str, package: str) -> ctypes.CDLL:
    """Load lib<name>; SynthesizerError names the Debian package when it is not installed."""
    candidates = [ctypes.util.find_library(name), *sorted(str(p) for p in Path("/usr/lib").glob(f"*/lib{name}.so.*"))]
    for candidate in candidates:
        if candidate:
            try:
                return ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
    raise SynthesizerError(
        f"lib{name} was not found, and the training corpus needs it: install it with 'apt-get install flite espeak-ng' "
        f"(Debian package {package}) and run the command again"
    )


def _trimmed(samples: np.ndarray, text: str, segments: Sequence[_Segment]) -> Speech:
    """Cut the silence at both ends, pad to whole speech tokens and gather the words' times. `samples` is at 24 kHz."""
    names = text.split()
    spoken = [s for s in segments if s.word is not None]
    order = [s.word for s in spoken if s.word is not None]
    if order != sorted(order) or set(order) != set(range(len(names))):
        raise AlignmentError(f"{len(names)} words of text, {len(set(order))} words of speech: {text!r}")
    start = max(0.0, spoken[0].start - LEAD_S)
    count = int(np.ceil((spoken[-1].end + TAIL_S - start) * SAMPLE_RATE / TOKEN_SAMPLES)) * TOKEN_SAMPLES
    first = round(start * SAMPLE_RATE)
    cut = samples[first : first + count]
    level, peak = float(np.sqrt(np.mean(cut**2))), float(np.abs(cut).max())
    if peak < 1e-3:
        raise AlignmentError(f"the speech of {text!r} is silent")
    cut = cut * min(LOUDNESS / level, 0.95 / peak)
    words: list[tuple[str, float, float]] = []
    for index, name in enumerate(names):
        own = [s for s in spoken if s.word == index]
        words.append((name, round(own[0].start - start, 4), round(own[-1].end - start, 4)))
    phones = _contiguous(spoken, start, count / SAMPLE_RATE)
    return Speech(np.pad(cut, (0, count - len(cut))).astype(np.float32), tuple(words), phones)


def _contiguous(spoken: Sequence[_Segment], start: float, duration: float) -> tuple[tuple[str, float], ...]:
    """Phones with "pau" in every gap, so that each ends where the next begins and the last at `duration`."""
    phones: list[tuple[str, float]] = []
    now = start
    for segment in spoken:
        if segment.start > now + 1e-4:
            phones.append(("pau", round(segment.start - start, 4)))
        phones.append((segment.phone, round(segment.end - start, 4)))
        now = segment.end
    return (*phones, ("pau", round(duration, 4)))


class _FliteWave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class _FliteVoice(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


class Flite:
    """flite's voices (slt, rms, awb, kal16): a 16 kHz source."""

    def __init__(self) -> None:
        self._lib = _library("flite", "libflite1")
        for name in ("flite_cmulex", "flite_usenglish"):
            _library(name, "libflite1")
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "flite_synth_text": (pointer, [text, pointer]),
            "utt_relation": (pointer, [pointer, text]),
            "relation_head": (pointer, [pointer]),
            "item_next": (pointer, [pointer]),
            "item_feat_string": (text, [pointer, text]),
            "item_feat_float": (ctypes.c_float, [pointer, text]),
            "path_to_item": (pointer, [pointer, text]),
            "utt_wave": (ctypes.POINTER(_FliteWave), [pointer]),
            "delete_utterance": (None, [pointer]),
            "feat_set_float": (None, [pointer, text, ctypes.c_float]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments
        self._lib.flite_init()
        self._seed_noise = ctypes.CDLL(None).srand  # flite draws its noise from the C library's rand()
        self._voices: dict[str, Any] = {}

    def _voice(self, name: str) -> Any:
        if name not in self._voices:
            register = getattr(_library(f"flite_cmu_us_{name}", "libflite1"), f"register_cmu_us_{name}")
            register.restype, register.argtypes = ctypes.POINTER(_FliteVoice), [ctypes.c_char_p]
            self._voices[name] = register(None)
        return self._voices[name]

    def speak(self, text: str, voice: str, *, rate: float = 1.0) -> Speech:
        """Speak `text` at `rate` times the voice's own speed. AlignmentError when the words cannot be told apart."""
        spelled = " ".join(_FLITE_SPELLINGS.get(word, word) for word in text.split())
        handle = self._voice(voice)
        self._lib.feat_set_float(handle.contents.features, b"duration_stretch", 1.0 / rate)
        self._seed_noise(zlib.crc32(spelled.encode()))
        utterance = self._lib.flite_synth_text(spelled.encode(), handle)
        try:
            wave = self._lib.utt_wave(utterance).contents
            raw = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / 32768
            source_hz = wave.sample_rate
            segments = self._segments(utterance)
        finally:
            self._lib.delete_utterance(utterance)
        return _trimmed(soxr.resample(raw, source_hz, SAMPLE_RATE), text, segments)

    def _segments(self, utterance: int) -> list[_Segment]:
        lib = self._lib
        segments: list[_Segment] = []
        item = lib.relation_head(lib.utt_relation(utterance, b"Segment"))
        start, last, word = 0.0, None, -1
        while item:
            name = lib.item_feat_string(item, b"name").decode()
            end = float(lib.item_feat_float(item, b"end"))
            # flite's Token is a white-space separated word of the text; its Word may be a part of it ("it" + "'s").
            token = lib.path_to_item(item, b"R:SylStructure.parent.parent.R:Token.parent")
            if token and token != last:
                word, last = word + 1, token
            phone = _FLITE_PHONES.get(name, name)
            segments.append(_Segment(phone if phone in PHONES else "other", start, end, word if token else None))
            start, item = end, lib.item_next(item)
        return segments


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


class Espeak:
    """espeak-ng's English voices with their variants. One per process: the library keeps global state."""

    _SYNCHRONOUS, _PHONEME_EVENTS, _IPA_NAMES = 2, 1, 2
    _RATE, _PITCH = 1, 3
    _UTF8, _END_PAUSE = 1, 0x1000
    _LIST_TERMINATED, _PHONEME = 0, 7
    _WORDS_PER_MINUTE = 175

    def __init__(self) -> None:
        self._lib = _library("espeak-ng", "libespeak-ng1")
        events = self._PHONEME_EVENTS | self._IPA_NAMES
        self._source_hz = self._lib.espeak_Initialize(self._SYNCHRONOUS, 0, None, events)
        if self._source_hz <= 0:
            raise SynthesizerError("espeak-ng has no data files: install them with 'apt-get install espeak-ng-data'")
        self._pieces: list[bytes] = []
        self._phonemes: list[tuple[str, int, int]] = []  # (IPA name, first sample, text position)
        self._lengths: dict[tuple[str, str], int] = {}  # (language, word) -> phonemes of the word said alone
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = kind(self._receive)  # kept: C holds no reference to it
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: int | None, count: int, events: Any) -> int:
        if wave and count:
            self._pieces.append(ctypes.string_at(wave, count * 2))
        index = 0
        while events[index].type != self._LIST_TERMINATED:
            event = events[index]
            if event.type == self._PHONEME:
                name = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0].decode("utf-8", "replace")
                self._phonemes.append((name, event.sample, event.text_position))
            index += 1
        return 0

    def speak(self, text: str, voice: str, *, pitch: int = 50, rate: float = 1.0) -> Speech:
        """Speak `text` with a voice such as "en-us+f3", pitch 0..99. AlignmentError as in `Flite.speak`."""
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SynthesizerError(f"espeak-ng has no voice {voice!r}: 'espeak-ng --voices' lists what it has")
        self._lib.espeak_SetParameter(self._RATE, round(self._WORDS_PER_MINUTE * rate), 0)
        self._lib.espeak_SetParameter(self._PITCH, pitch, 0)
        self._synthesize(text)
        # It starts with the first phone at once.
        lead = round(LEAD_S * self._source_hz)
        raw = np.pad(np.frombuffer(b"".join(self._pieces), dtype=np.int16).astype(np.float32) / 32768, (lead, 0))
        phonemes = [(name, sample + lead, position) for name, sample, position in self._phonemes]
        segments = self._segments(text, phonemes, len(raw), voice.split("+")[0])
        return _trimmed(soxr.resample(raw, self._source_hz, SAMPLE_RATE), text, segments)

    def _synthesize(self, text: str) -> None:
        self._pieces.clear()
        self._phonemes.clear()
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, self._UTF8 | self._END_PAUSE, None, None)
        self._lib.espeak_Synchronize()

    def _segments(
        self, text: str, phonemes: Sequence[tuple[str, int, int]], count: int, language: str
    ) -> list[_Segment]:
        """Phones of `phonemes` (IPA name, first sample, text position of the word); the last ends at sample `count`."""
        owner: list[int] = []  # character -> white-space separated word
        word = 0
        for character in text:
            owner.append(word)
            word += character == " "
        ends = [start for _, start, _ in phonemes[1:]] + [count]
        spans = [
            (name, start, end, owner[position - 1])
            for (name, start, position), end in zip(phonemes, ends, strict=True)
            if name and end > start
        ]
        owners = self._shared_out([span[3] for span in spans], text.split(), language)
        segments: list[_Segment] = []
        for (name, start, end, _), index in zip(spans, owners, strict=True):
            parts = _ESPEAK_PHONES.get(name.strip("ˈˌ"), ("other",))
            edges = np.linspace(start, end, len(parts) + 1) / self._source_hz
            for part, left, right in zip(parts, edges[:-1], edges[1:], strict=True):
                segments.append(_Segment(part, float(left), float(right), index))
        return segments

    def _shared_out(self, owners: list[int], words: Sequence[str], language: str) -> list[int]:
        """Owners with phonemes for every word: of "of the" and its like, espeak-ng reports the first word alone."""
        shared = list(owners)
        present = [*sorted(set(owners)), len(words)]
        for first, following in itertools.pairwise(present):
            if following - first > 1:
                at = [i for i, owner in enumerate(owners) if owner == first]
                lengths = np.cumsum([self._length(words[i], language) for i in range(first, following)])
                for k, i in enumerate(at):
                    shared[i] = first + int(np.searchsorted(lengths * len(at) / lengths[-1], k + 0.5))
        return shared

    def _length(self, word: str, language: str) -> int:
        """Number of phonemes of a word said alone, at least one."""
        key = (language, word.lower())
        if key not in self._lengths:
            self._synthesize(word)
            self._lengths[key] = max(1, sum(bool(name) for name, _, _ in self._phonemes))
        return self._lengths[key]
