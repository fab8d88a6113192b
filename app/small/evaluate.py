"""`launch.py eval small`: measures the bundled models on sentences, questions and voices that training never saw.

Writes DIR/report.md (the README's tables) and DIR/report.json. Every part states what is counted and by which judge.
"""

import argparse
import asyncio
import functools
import io
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from app.about import about
from app.assemble import Assistant, build_chat, build_recognizer, build_synthesizer, prepare_process
from app.configuration import configuration
from app.small.corpus import QUESTIONS, Corpus, CorpusError, Utterance, is_outdated
from app.small.judges import JUDGES, ErrorRate, SpeakerJudge, bootstrap, error_rate, satisfies, voiced_f0
from app.small.synth import SAMPLE_RATE as CORPUS_HZ
from app.small.synth import AlignmentError
from app.small.voices import DEFAULT, Speaker, training_voices
from audio_io.file import Recording, write_wav
from configs.schema import AppConfig
from llm.base import Message
from tts.base import SAMPLE_RATE
from tts.features import mel_24k, resample

PARTS = ("asr", "tts", "clone", "llm", "ask", "speed")
ON_REQUEST = ("ask_dev",)  # for who improves the models; nothing of it is reported
NOISE_DB = 15.0
CLONE_SENTENCES = 8
F0_TOLERANCE = 0.15


class Report:
    """Collects figures and the lines of the table."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.lines: list[str] = []

    def heading(self, title: str, *columns: str) -> None:
        """Begin a table."""
        self.lines += ["", f"### {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]

    def row(self, key: str, *cells: str, **values: Any) -> None:
        """One line of the table and its figures."""
        self.lines.append(f"| {' | '.join(cells)} |")
        self.values[key] = values

    def words(self, key: str, title: str, goal: str, rate: ErrorRate) -> None:
        """A word error rate."""
        self.row(key, title, str(rate), goal, **asdict(rate))


def run(options: argparse.Namespace) -> int:
    """Measure the chosen parts."""
    config = configuration(options)
    prepare_process(config)
    torch.set_num_threads(config.runtime.num_threads)
    known = (*PARTS, *ON_REQUEST)
    unknown = set(options.parts) - set(known)
    if unknown:
        sys.stderr.write(f"eval small: no part named {', '.join(sorted(unknown))}; the parts are {', '.join(known)}.\n")
        return 2
    options.report.mkdir(parents=True, exist_ok=True)
    measure: dict[str, Callable[[AppConfig, argparse.Namespace, Report], None]] = {
        "asr": recogniser,
        "tts": intelligibility,
        "clone": cloning,
        "llm": answers,
        "ask": functools.partial(spoken_answers, name="questions", title="held-out spoken questions"),
        "ask_dev": functools.partial(
            spoken_answers, name="questions_dev", title="spoken questions of the development set"
        ),
        "speed": speed,
    }
    for part in options.parts or PARTS:
        report = Report()
        measure[part](config, options, report)
        (options.report / f"{part}.md").write_text("\n".join(report.lines).strip() + "\n", encoding="utf-8")
        values = {"about": about(config), "figures": report.values}
        (options.report / f"{part}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write("\n".join(report.lines) + "\n")
        sys.stdout.flush()
    tables = [options.report / f"{part}.md" for part in PARTS]
    whole = "\n\n".join(table.read_text(encoding="utf-8").strip() for table in tables if table.exists())
    (options.report / "report.md").write_text(whole + "\n", encoding="utf-8")
    return 0


def held_out(options: argparse.Namespace, name: str) -> tuple[Corpus, list[Utterance]]:
    """A held-out set, cut to --limit. Raises CorpusError."""
    directory = options.work / "corpus" / name
    if name in QUESTIONS and is_outdated(directory):
        raise CorpusError(
            f"{directory} has recordings of other questions: "
            f"make it again with 'python -m app.small.corpus --work {options.work} --sets {name}'"
        )
    speech = Corpus(directory)
    return speech, speech.utterances[: options.limit]


def heard_by(judge: str, recordings: Sequence[np.ndarray]) -> list[str]:
    """What one of `JUDGES` hears in every recording of 24 kHz, on all cores."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = pool.map(JUDGES[judge], recordings, [SAMPLE_RATE] * len(recordings), chunksize=4)
        return list(tqdm(found, total=len(recordings), desc=judge))


def recogniser(config: AppConfig, options: argparse.Namespace, report: Report) -> None:
    """Word error rate of the bundled Paraformer."""
    asr = build_recognizer(config)
    report.heading("Recogniser (Paraformer, final pass)", "recordings", "word error rate (95 % interval)", "goal")
    seen, seen_items = held_out(options, "heldout_seen")
    unseen, unseen_items = held_out(options, "heldout_voices")
    rng = np.random.default_rng(0)

    def rate(speech: Corpus, items: list[Utterance], noise_db: float | None) -> ErrorRate:
        heard = []
        for item in tqdm(items, desc="recogniser"):
            samples = resample(speech.samples(item), CORPUS_HZ, 16_000)
            heard.append(asr.transcribe(noisy(samples, noise_db, rng)))
        return error_rate([item.text for item in items], heard)

    report.words("asr_seen", "held-out sentences, training voices", "5 %", rate(seen, seen_items, None))
    report.words("asr_unseen", "held-out sentences, held-out voices", "15 %", rate(unseen, unseen_items, None))
    report.words("asr_noise", "training voices, noise at 15 dB", "15 %", rate(seen, seen_items, NOISE_DB))
    for key, name, speech, items in (
        ("seen", "training voices", seen, seen_items),
        ("unseen", "held-out voices", unseen, unseen_items),
    ):
        heard = heard_by("Moonshine", [speech.samples(item) for item in items])
        other = error_rate([item.text for item in items], heard)
        report.words(f"asr_{key}_moonshine", f"for comparison: {name}, as Moonshine hears them", "", other)


def noisy(samples: np.ndarray, snr_db: float | None, rng: np.random.Generator) -> np.ndarray:
    """Silence around a recording, and pink noise at a signal-to-noise ratio."""
    samples = np.pad(samples, 4800)
    if snr_db is None:
        return samples
    white = np.fft.rfft(rng.standard_normal(len(samples)))
    pink = np.fft.irfft(white / np.sqrt(np.maximum(np.arange(len(white)), 1)), len(samples))
    level = np.sqrt((samples**2).mean() / (pink**2).mean()) * 10 ** (-snr_db / 20)
    return (samples + level * pink).astype(np.float32)


def speak(synthesizer: Any, text: str, voice: Any = None, *, speed: float) -> np.ndarray:
    """A text as samples, through the streaming path."""
    stream = synthesizer.stream(voice=voice, share_ids=False, speed=speed)
    stream.push(0, text)
    stream.finish()
    parts = []
    while (made := stream.step()) is not None:
        if hasattr(made, "samples"):
            parts.append(made.samples)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def intelligibility(config: AppConfig, options: argparse.Namespace, report: Report) -> None:
    """Word error rate of our speech, stage by stage, by a judge that knows nothing of it and by our recogniser."""
    speech, items = held_out(options, "heldout")
    synthesizer: Any = build_synthesizer(config)
    originals = [speech.samples(item) for item in items]
    stages: dict[str, list[np.ndarray]] = {
        "flite original": originals,
        "vocoder from true mel": [
            synthesizer.vocode(mel_24k(torch.from_numpy(s)[None]).numpy()) for s in tqdm(originals)
        ],
        "flow from true speech tokens": [synthesizer.resynthesize(s) for s in tqdm(originals)],
        "full TMT": [speak(synthesizer, item.text, speed=config.tts.speed) for item in tqdm(items)],
    }
    asr = build_recognizer(config)
    truths = [item.text for item in items]
    goal = {"full TMT": "2 x original"}
    report.heading(
        f"Intelligibility of speech ({len(items)} held-out sentences)",
        "stage", "word error rate, pocketsphinx (95 % interval)", "goal", "ratio to original",
        "Moonshine (95 % interval)", "ratio", "our Paraformer", "first / last word wrong (pocketsphinx; Moonshine)",
    )  # fmt: skip
    floor: dict[str, float] = {}
    for stage, recordings in stages.items():
        judged = {judge: error_rate(truths, heard_by(judge, recordings)) for judge in JUDGES}
        own = error_rate(
            truths, [asr.transcribe(np.pad(resample(r, SAMPLE_RATE, 16_000), 4800)) for r in tqdm(recordings)]
        )
        floor = floor or {judge: rate.rate for judge, rate in judged.items()}
        ratios = {judge: rate.rate / floor[judge] for judge, rate in judged.items()}
        sphinx, moonshine = (f"{rate}" for rate in judged.values())
        of_sphinx, of_moonshine = (f"{ratio:.2f}" for ratio in ratios.values())
        ends = "; ".join(
            f"{100 * rate.first_word_errors:.0f} / {100 * rate.last_word_errors:.0f} %" for rate in judged.values()
        )
        report.row(
            f"tts_{stage.replace(' ', '_')}",
            stage, sphinx, goal.get(stage, ""), of_sphinx, moonshine, of_moonshine, str(own), ends,
            judges={judge: asdict(rate) for judge, rate in judged.items()}, ratios=ratios, paraformer=asdict(own),
            seconds=sum(len(r) for r in recordings) / SAMPLE_RATE,
        )  # fmt: skip


def cloning(config: AppConfig, options: argparse.Namespace, report: Report) -> None:
    """Whether cloned speech is nearer to its reference's voice than to every other held-out voice."""
    speech, items = held_out(options, "heldout_voices")
    voices = sorted({item.voice for item in items})
    judge = speaker_judge(options)
    synthesizer: Any = build_synthesizer(config)
    enrolled = {v: [u for u in items if u.voice == v] for v in voices}
    originals = {v: [speech.samples(u) for u in enrolled[v][3:15]] for v in voices}
    centres = {v: np.mean([judge.vector(s, CORPUS_HZ) for s in originals[v]], axis=0) for v in voices}
    sentences = [u.text for u in Corpus(options.work / "corpus" / "heldout").utterances]
    right, natural, pitches, near = [], [], [], []
    for index, voice in enumerate(tqdm(voices, desc="cloning")):
        reference = np.concatenate([speech.samples(u) for u in enrolled[voice][:3]])
        path = options.report / f"reference_{index}.wav"
        write_wav(path, reference, CORPUS_HZ)
        prepared = synthesizer.voice(path)
        cloned = [
            speak(
                synthesizer, sentences[(index * CLONE_SENTENCES + k) % len(sentences)], prepared, speed=config.tts.speed
            )
            for k in range(CLONE_SENTENCES)
        ]
        write_wav(options.report / f"cloned_{index}.wav", np.concatenate(cloned), SAMPLE_RATE)
        for sample in cloned:
            right.append(closest(judge.vector(sample, SAMPLE_RATE), centres) == voice)
        natural += [closest(judge.vector(s, CORPUS_HZ), centres) == voice for s in originals[voice]]
        wanted = np.median(voiced_f0(reference, CORPUS_HZ))
        got = np.median(np.concatenate([voiced_f0(c, SAMPLE_RATE) for c in cloned]))
        pitches.append(float(got / wanted))
        near.append(abs(pitches[-1] - 1) <= F0_TOLERANCE)
    low, high = share_interval(right)
    report.heading(f"Cloning ({len(voices)} held-out voices)", "figure", "value", "goal")
    report.row(
        "clone_similarity", "cloned speech nearest to its own reference voice (of all held-out voices)",
        f"{100 * np.mean(right):.0f} % ({100 * low:.0f}-{100 * high:.0f}) of {len(right)}", "80 %",
        rate=float(np.mean(right)), trials=len(right),
    )  # fmt: skip
    report.row(
        "clone_ceiling", "the same for original recordings (ceiling of the judge)",
        f"{100 * np.mean(natural):.0f} % of {len(natural)}", "", rate=float(np.mean(natural)),
    )  # fmt: skip
    report.row(
        "clone_pitch", "voices whose median F0 is within 15 % of the reference",
        f"{sum(near)} of {len(near)}", "all", ratios=pitches,
    )  # fmt: skip


def speaker_judge(options: argparse.Namespace) -> SpeakerJudge:
    """Made from original recordings of the training voices."""
    speech = Corpus(options.work / "corpus" / "voices")
    of_voice: dict[str, list[Utterance]] = {}
    for utterance in speech.utterances:
        of_voice.setdefault(utterance.voice, []).append(utterance)
    chosen = [u for voice in training_voices() for u in of_voice.get(voice.name, [])[:16] if u.duration_s > 1.5]
    return SpeakerJudge([speech.samples(u) for u in chosen], [u.voice for u in chosen], CORPUS_HZ)


def closest(vector: np.ndarray, centres: dict[str, np.ndarray]) -> str:
    """Name of the voice with the highest cosine similarity."""
    return max(centres, key=lambda name: float(vector @ centres[name] / np.linalg.norm(centres[name])))


def answers(config: AppConfig, options: argparse.Namespace, report: Report) -> None:
    """Share of acceptable answers on held-out paraphrases, by exact rules."""
    from llm.training.score import HELD_OUT, is_acceptable, read_questions

    questions = read_questions(HELD_OUT)[: options.limit]
    chat = build_chat(config)

    async def reply(messages: list[Message]) -> str:
        return "".join([token.text async for token in chat.stream(messages)])

    async def reply_all() -> list[str]:
        return [await reply(question.messages) for question in tqdm(questions, desc="questions")]

    replies = asyncio.run(reply_all())
    chat.close()
    acceptable = [is_acceptable(question, text) for question, text in zip(questions, replies, strict=True)]
    failures = [
        {"question": question.turns, "reply": text}
        for question, text, good in zip(questions, replies, acceptable, strict=True)
        if not good
    ]
    low, high = share_interval(acceptable)
    rate = float(np.mean(acceptable))
    report.heading("Language model", "figure", "value", "goal")
    report.row(
        "llm_acceptable", f"acceptable answers on {len(questions)} held-out paraphrases",
        f"{100 * rate:.0f} % ({100 * low:.0f}-{100 * high:.0f})", "90 %", rate=rate, failures=failures,
    )  # fmt: skip


def spoken_answers(config: AppConfig, options: argparse.Namespace, report: Report, *, name: str, title: str) -> None:
    """Spoken questions through the whole chain; the spoken answers are transcribed by the independent judge."""
    from app.ask import Screen, converse
    from app.clock import run_skipping

    speech, items = held_out(options, name)

    async def ask_all() -> list[tuple[str, str, np.ndarray]]:
        assistant = await Assistant.load(config, lambda _: None)
        found = []
        for item in tqdm(items, desc="questions"):
            recording = Recording(resample(speech.samples(item), CORPUS_HZ, 16_000), ())
            turns, device = await converse(assistant, [recording], screen=Screen(io.StringIO()))
            said = [turn.transcript for turn in turns], [turn.reply for turn in turns]
            found.append((" / ".join(said[0]), " ".join(said[1]), device.answer()))
        assistant.close()
        return found

    results = run_skipping(ask_all())
    answers = [item.answer for item in items]
    written = [satisfies(reply, answer) for answer, (_, reply, _) in zip(answers, results, strict=True)]
    report.heading(f"End to end ({len(items)} {title})", "figure", "value", "goal")
    for judge in JUDGES:
        judged = heard_by(judge, [samples for _, _, samples in results])
        correct = [satisfies(text, answer) for answer, text in zip(answers, judged, strict=True)]
        low, high = share_interval(correct)
        failures = [
            {"question": item.text, "transcript": transcript, "reply": reply, "judge": text}
            for item, (transcript, reply, _), text, good in zip(items, results, judged, correct, strict=True)
            if not good
        ]
        report.row(
            f"ask_spoken_{judge}", f"right spoken answer, as {judge} hears it",
            f"{100 * np.mean(correct):.0f} % ({100 * low:.0f}-{100 * high:.0f})", "85 %",
            rate=float(np.mean(correct)), failures=failures,
        )  # fmt: skip
    rate = float(np.mean(written))
    report.row("ask_written", "right answer in the reply's text", f"{100 * rate:.0f} %", "", rate=rate)
    by_flite = [spoken_by_flite(reply) for _, reply, _ in results]
    for judge in JUDGES:
        heard = heard_by(judge, by_flite)
        rate = float(np.mean([satisfies(text, answer) for answer, text in zip(answers, heard, strict=True)]))
        report.row(
            f"ask_ceiling_{judge}", f"the same replies spoken by flite itself, as {judge} hears it",
            f"{100 * rate:.0f} %", "", rate=rate,
        )  # fmt: skip


def share_interval(right: Sequence[bool]) -> tuple[float, float]:
    """95 % bootstrap interval of the share that is right."""
    return bootstrap(lambda i: float(np.mean(np.array(right)[i])), len(right))


def spoken_by_flite(text: str) -> np.ndarray:
    """A reply in the voice that the assistant learned from; silence where flite and its word times disagree."""
    voice = next(voice for voice in training_voices() if voice.name == DEFAULT)
    try:
        return flite().speak(text, voice).samples
    except AlignmentError:
        return np.zeros(SAMPLE_RATE, np.float32)


@functools.cache
def flite() -> Speaker:
    """The speech programs, loaded once."""
    return Speaker()


def speed(config: AppConfig, options: argparse.Namespace, report: Report) -> None:
    """Real-time factor, first audible sample, cost over the length of a reply, voice-to-voice."""
    from app.small.speed import measure

    measure(config, report, DEFAULT)
