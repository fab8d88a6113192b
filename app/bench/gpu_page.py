"""The report of `bench gpu` for people."""

from collections.abc import Mapping
from typing import Any

STAGES = {
    "asr_ms": "final recognition",
    "llm_ms": "language model's first token",
    "text_to_token_ms": "text to token",
    "decoder_ms": "flow decoder and vocoder",
    "waiting_ms": "waiting for text and for the voice's thread",
    "silence_ms": "silence at the start of the sound",
}


def page(values: Mapping[str, Any]) -> str:
    """All tables."""
    return "\n".join([*_head(values), *_stages(values), *_voice(values), *_conversations(values), *_memory(values)])


def _pair(found: Mapping[str, float]) -> str:
    return f"{found['p50']:.1f} / {found['p95']:.1f}"


def _head(values: Mapping[str, Any]) -> list[str]:
    run = values["about"]
    tts, packages = run["config"]["tts"], run["packages"]
    guidance = "as the weights say" if tts["flow_guidance"] < 0 else f"{tts['flow_guidance']:g}"
    graphs = "of the language model's step, the text-to-token model's and the flow's" if run["graphs"] else "off"
    return [
        f"# The chain with random weights, {run['size']} size",
        "",
        f"{run['device']}; {run['machine']}; torch {packages['torch']}. Random weights, scripted text and durations. "
        f"Text to token: {run['backend']}; {tts['num_flow_steps']} flow steps, guidance {guidance}; numbers: language model "
        f"{run['dtype']['language model']}, voice {run['dtype']['voice']}; CUDA graphs: {graphs}; "
        f"CUDA streams: {run['streams']}. "
        f"Questions of {run['question_s']:g} s, replies of {run['reply_tokens']} text tokens.",
        "",
    ]


def _stages(values: Mapping[str, Any]) -> list[str]:
    counted = "kernel launches" if values["about"]["device"] != "cpu" else "operator calls (no GPU)"
    return [
        f"| stage alone | P50 / P95, ms | {counted} |",
        "|---|---|---|",
        *(f"| {name} | {_pair(found)} | {values['launches'][name]} |" for name, found in values["stages"].items()),
        "",
    ]


def _voice(values: Mapping[str, Any]) -> list[str]:
    voice = values["voice"]
    return [
        "| voice | |",
        "|---|---|",
        f"| second text token to the first chunk with sound, text at hand, P50 / P95 | {_pair(voice['alone'])} ms |",
        f"| silence that the listener hears before it | {voice['alone']['silence_ms']:.0f} ms |",
        f"| the same beside a language model at {voice['busy_tokens_per_s']:.0f} tokens per second | {_pair(voice['busy'])} ms |",
        f"| later by | {100 * voice['later_by']:.0f} % |",
        f"| real-time factor of the whole synthesis, {voice['spoken_s']:.0f} s, one stream | {voice['rtf']:.3f} |",
        "",
    ]


def _conversations(values: Mapping[str, Any]) -> list[str]:
    levels = values["conversations"]
    rows = [
        ("turns", [str(found["turns"]) for found in levels.values()]),
        ("end-of-turn decision to first audible sample", [_pair(f["decision_to_audible_ms"]) for f in levels.values()]),
        ("voice-to-voice", [_pair(found["voice_to_voice_ms"]) for found in levels.values()]),
        *((f"- {title}", [_pair(f["stages_ms"][key]) for f in levels.values()]) for key, title in STAGES.items()),
        ("underruns per minute", [f"{found['underruns_per_min']:.1f}" for found in levels.values()]),
        ("synthesis per second of speech, s", [f"{found['rtf']:.3f}" for found in levels.values()]),
    ]
    silence = values["about"]["config"]["asr"]["endpoint"]["complete_silence_ms"]
    return [
        f"| P50 / P95 in ms; conversations at once | {' | '.join(levels)} |",
        f"|---|{'---|' * len(levels)}",
        *(f"| {title} | {' | '.join(cells)} |" for title, cells in rows),
        "",
        f"Voice-to-voice: with the {silence} ms of silence that end a turn (asr.endpoint.complete_silence_ms), in which nothing "
        "is begun ahead. Partial transcripts, voice activity, sound devices and network are not in it.",
        "",
    ]


def _memory(values: Mapping[str, Any]) -> list[str]:
    return [
        "| memory, GiB | |",
        "|---|---|",
        *(f"| weights, {name} | {size:.3f} |" for name, size in values["weights_gib"].items()),
        *(f"| peak, {name} | {size:.3f} |" for name, size in values["memory_gib"].items()),
        "",
    ]
