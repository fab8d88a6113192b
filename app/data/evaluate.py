"""`launch.py eval tts`: a synthesiser on a test set: errors, likeness of voices, first packets, real-time factor."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from app.about import about
from app.assemble import build_recognizer, build_synthesizer, build_voice, prepare_process
from app.configuration import configuration
from app.data.testset import Case, errors, language_of, read_testset, score
from audio_io.file import read_audio, write_wav
from configs.device import resolve
from configs.schema import BUNDLED, AppConfig, ConfigError
from tts.base import SAMPLE_RATE, PcmChunk, SpeechStep, Synthesizer, TwoPass, VoiceError

HZ = 16_000
Listener = Callable[[np.ndarray], str]  # 24 kHz samples -> text


@dataclass(frozen=True)
class Spoken:
    """A text as it was spoken."""

    samples: np.ndarray
    steps: Sequence[SpeechStep]
    first_audio_s: float  # from the text, all at hand, to the first samples
    compute_s: float


def run(options: argparse.Namespace) -> int:
    """Speak, listen, write the report; 1 when nothing could be spoken."""
    config = configuration(options)
    prepare_process(config)
    cases = read_testset(options.testset)[: options.limit]
    language = options.language or language_of(cases)
    listen, judge = listener(options.judge, config, language)
    (options.report / "wav").mkdir(parents=True, exist_ok=True)
    items = speak_all(config, cases, options.report / "wav", TwoPass() if options.two_pass else None)
    spoken = [item for item in items if "failed" not in item]
    for item in tqdm(spoken, desc="judge", disable=not sys.stderr.isatty()):
        item["heard"] = listen(read_audio(Path(item["wav"]), SAMPLE_RATE).samples)
        item["errors"], item["units"] = errors(item["text"], item["heard"], language)
    if find_spec("utmosv2"):
        _naturalness(spoken)
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (options.report / "items.jsonl").write_text(lines, encoding="utf-8")
    if not spoken:
        sys.stderr.write(f"eval: none of {len(items)} texts could be spoken: {items[0]['failed']}\n")
        return 1
    told = about(config, judge=judge, language=language, testset=str(options.testset), failed=len(items) - len(spoken))
    values = {"about": told, "figures": figures(config, spoken)}
    (options.report / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    text = page(values, len(spoken))
    (options.report / "report.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


def listener(name: str, config: AppConfig, language: str) -> tuple[Listener, str]:
    """Who writes down what is heard: `own` (asr.model), pocketsphinx, or a transformers folder. Raises ConfigError."""
    from tts.features import resample

    if name == "pocketsphinx":
        from app.small.judges import hear

        if language != "en":
            raise ConfigError("pocketsphinx knows English only: --judge own with a Mandarin Paraformer as asr.model.")
        return (lambda samples: hear(samples, SAMPLE_RATE)), "pocketsphinx with its general English model"
    if name == "own":
        if language == "zh" and config.asr.backend == "paraformer" and config.asr.model == BUNDLED:
            raise ConfigError("the bundled recogniser knows English only: set asr.model to a Mandarin Paraformer.")
        asr = build_recognizer(config)
        padded = HZ // 3
        return (
            lambda samples: asr.transcribe(np.pad(resample(samples, SAMPLE_RATE, HZ), padded)),
            f"the recogniser asr.model ({config.asr.model})",
        )
    if not Path(name).is_dir():
        raise ConfigError(f"--judge {name}: no such folder; give own, pocketsphinx, or a transformers ASR folder.")
    from transformers import pipeline

    try:
        recognise = pipeline("automatic-speech-recognition", model=name, device=resolve(config.runtime.device))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"--judge {name}: not a transformers folder of a recogniser ({reason}).") from None

    def transcribe(samples: np.ndarray) -> str:
        return str(recognise({"raw": resample(samples, SAMPLE_RATE, HZ), "sampling_rate": HZ})["text"])

    return transcribe, f"{Path(name).name} (transformers, {type(recognise.model).__name__})"


def speak_all(
    config: AppConfig, cases: Sequence[Case], folder: Path, two_pass: TwoPass | None = None
) -> list[dict[str, Any]]:
    """Speak every text; a case whose prompt cannot serve as a voice is marked as failed."""
    import tts
    from tts.features import resample

    synthesizer = build_synthesizer(config)
    synthesizer.warm_up()
    default = build_voice(synthesizer, config)
    encoder = tts.load_speaker(config.tts) if any(case.prompt for case in cases) else None
    items = []
    for number, case in enumerate(tqdm(cases, desc="speak", disable=not sys.stderr.isatty())):
        item: dict[str, Any] = {"id": case.id, "text": case.text}
        items.append(item)
        try:
            said = case.prompt_text if config.tts.prompt_prosody else ""
            voice = synthesizer.voice(case.prompt, said) if case.prompt else default
        except VoiceError as error:
            item["failed"] = str(error)
            continue
        spoken = speak(synthesizer, voice, case.text, config.tts.speed, two_pass)
        if not len(spoken.samples):
            item["failed"] = "nothing was spoken: the text has only symbols or an unknown script"
            continue
        path = folder / f"{number:05d}.wav"
        write_wav(path, spoken.samples, SAMPLE_RATE)
        item |= {"wav": str(path), **timing(spoken, config)}
        if case.prompt and encoder is not None:
            vectors = [
                encoder.embed(read_audio(case.prompt, HZ).samples),
                encoder.embed(resample(spoken.samples, SAMPLE_RATE, HZ)),
            ]
            item["similarity"] = float(np.dot(*vectors) / np.prod([np.linalg.norm(v) for v in vectors]))
    return items


def speak(synthesizer: Synthesizer, voice: Any, text: str, speed: float, two_pass: TwoPass | None = None) -> Spoken:
    """Speak a text that is all at hand."""
    began = time.perf_counter()
    stream = synthesizer.stream(voice=voice, speed=speed, share_ids=False, two_pass=two_pass)
    stream.push(0, text)
    stream.finish()
    parts, steps, first_s = [np.zeros(0, np.float32)], [], 0.0
    while (made := stream.step()) is not None:
        if isinstance(made, PcmChunk):
            parts.append(made.samples)
            first_s = first_s or (time.perf_counter() - began if len(made.samples) else 0.0)
        else:
            steps.append(made)
    return Spoken(np.concatenate(parts), steps, first_s, time.perf_counter() - began)


def timing(said: Spoken, config: AppConfig) -> dict[str, float]:
    """Latencies in ms and real-time factors of one text."""
    from app.bench.text_to_token import TEXT_TOKEN_S, Step, first_packet

    num_text = said.steps[-1].text_token + 1
    ahead = 1 + config.tts.lookahead
    steps = [
        Step(min(step.text_token + ahead, num_text), step.synth_ms / 1000, step.num_speech_tokens)
        for step in said.steps
    ]
    seconds = len(said.samples) / SAMPLE_RATE
    found = {
        "seconds": seconds,
        "first_audio_ms": 1000 * said.first_audio_s,
        "fpl_a_ms": 1000 * first_packet(steps, 0.0, pipelined=False),
        "rtf": said.compute_s / seconds,
        "rtf_text_to_token": sum(step.seconds for step in steps) / seconds,
    }
    if config.tts.backend == "syncspeech":
        found["fpl_l_ms"] = 1000 * first_packet(steps, TEXT_TOKEN_S, pipelined=True)
    return found


def _naturalness(items: Sequence[dict[str, Any]]) -> None:
    import utmosv2

    model = utmosv2.create_model(pretrained=True)
    for item in tqdm(items, desc="UTMOSv2", disable=not sys.stderr.isatty()):
        item["utmosv2"] = float(model.predict(input_path=item["wav"]))


def figures(config: AppConfig, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is reported of all items."""

    def column(name: str) -> np.ndarray:
        return np.array([item[name] for item in items if name in item])

    found: dict[str, Any] = {"errors": asdict(score([(item["errors"], item["units"]) for item in items]))}
    for name in ("first_audio_ms", "fpl_a_ms", "fpl_l_ms"):
        if len(column(name)):
            found[name] = {"median": float(np.median(column(name))), "p90": float(np.percentile(column(name), 90))}
    for name in ("rtf", "rtf_text_to_token"):
        found[name] = float((column(name) * column("seconds")).sum() / column("seconds").sum())
    if len(column("similarity")):
        found["similarity"] = float(column("similarity").mean())
        found["speaker_encoder"] = config.tts.speaker
    if len(column("utmosv2")):
        found["utmosv2"] = float(column("utmosv2").mean())
    return found | {"seconds": float(column("seconds").sum())}


def page(values: dict[str, Any], count: int) -> str:
    """The report for people."""
    from app.bench.text_to_token import CHUNK, TEXT_TOKEN_S

    found, told = values["figures"], values["about"]
    counted = found["errors"]
    name = "character error rate" if told["language"] == "zh" else "word error rate"
    rows = [
        (f"{name}, mean of the utterances (95 % interval)", f"{100 * counted['macro']:.2f} % "
         f"({100 * counted['low']:.2f}-{100 * counted['high']:.2f})"),
        (f"{name}, all errors by all {counted['num_units']} in the texts", f"{100 * counted['micro']:.2f} %"),
    ]  # fmt: skip
    if "similarity" in found:
        encoder = "bundled, small" if found["speaker_encoder"] == BUNDLED else found["speaker_encoder"]
        rows.append(
            (f"cosine of speaker vectors, prompt and speech (tts.speaker: {encoder})", f"{found['similarity']:.3f}")
        )
    if "utmosv2" in found:
        rows.append(("UTMOSv2", f"{found['utmosv2']:.2f}"))
    titles = {
        "first_audio_ms": "first samples of the whole synthesiser, text at hand",
        "fpl_a_ms": f"FPL-A: {CHUNK} speech tokens, text at hand",
        "fpl_l_ms": f"FPL-L, pipelined: the same with a text token every {1000 * TEXT_TOKEN_S:.0f} ms",
    }
    for key, title in titles.items():
        if key in found:
            rows.append((f"{title} (median, P90)", f"{found[key]['median']:.0f}, {found[key]['p90']:.0f} ms"))
    rows.append(("real-time factor of the whole synthesiser", f"{found['rtf']:.3f}"))
    rows.append(("real-time factor from text to speech tokens", f"{found['rtf_text_to_token']:.3f}"))
    lines = [f"| {title} | {value} |" for title, value in rows]
    return "\n".join(
        [
            f"# {count} texts of {Path(told['testset']).name}, {found['seconds']:.0f} s of speech",
            "",
            f"{told['machine']}. Judge: {told['judge']}; punctuation and case do not count. {told['failed']} failed.",
            "",
            "| figure | value |",
            "|---|---|",
            *lines,
            "",
        ]
    )
