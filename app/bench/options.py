"""The options of the benchmarks."""

import argparse
from pathlib import Path
from typing import Any

BENCHMARKS = {
    "latency": "run",
    "pauses": "turn_ends",
    "asides": "asides",
    "tts": "text_to_token",
    "decoder": "decoder",
}  # module in app/bench


def add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    """`bench latency`, `bench pauses`, `bench asides`, `bench tts`, `bench decoder`."""
    bench = commands.add_parser("bench", help="measure latency and speed", description="Measure.")
    measured = bench.add_subparsers(dest="what", metavar="WHAT", required=True)
    latency = measured.add_parser(
        "latency",
        parents=[common],
        help="from the end of a question to the first sound of the answer",
        description="Play spoken questions to the assistant and measure, on a stereo recording of both sides, how long it "
        "takes from the user's last voiced sample to its first audible one, and which stage takes how much of that. Needs "
        "no network and no sound device. Writes report.html, report.md, report.json, a recording and a trace per case.",
        epilog="Examples:\n"
        "  bench latency --virtual                       the built-in questions, in about a minute\n"
        "  bench latency                                 the same at the pace of a conversation: the figures to publish\n"
        "  bench latency --virtual --simulate llm_first_token_ms=80,llm_token_ms=25 --sweep tts.feeding=token,sentence\n"
        "                                                what waiting for sentences costs with a slower model\n"
        "  bench latency --virtual --compare configs/tiny.yaml configs/interleaved.yaml configs/vadusa.yaml\n"
        "  bench latency --virtual --baseline build/bench/latency/report.json --report build/bench/now\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = latency.add_argument_group("what is played")
    what.add_argument(
        "--cases",
        type=Path,
        metavar="DIR",
        help="recordings of questions; NAME.json beside NAME.wav may hold text, keywords, pauses, replies, reply and "
        "interruption; or the word pauses: questions with a pause inside, made with flite and espeak-ng "
        "(default: the built-in set)",
    )
    what.add_argument("--limit", type=int, metavar="N", help="only the first N cases, for a quick look")
    what.add_argument("--repeats", type=int, default=1, metavar="N", help="play every case N times (default: 1)")
    what.add_argument("--sessions", type=int, default=1, metavar="N", help="hold N conversations at once (default: 1)")
    pace = latency.add_argument_group("clock")
    pace.add_argument(
        "--virtual", action="store_true", help="skip the waiting, count the computing: a hundred turns in minutes"
    )
    pace.add_argument(
        "--check",
        type=int,
        default=2,
        metavar="N",
        help="with --virtual: play N cases at the real pace too and say how far the two are apart (default: 2; 0: none)",
    )
    against = latency.add_argument_group("comparisons (the first assistant is the reference)")
    against.add_argument(
        "--compare", nargs="+", type=Path, metavar="A.yaml", help="two or more configurations, alternately"
    )
    against.add_argument(
        "--sweep", metavar="section.key=v1,v2,...", help="one setting with several values, alternately"
    )
    against.add_argument("--baseline", type=Path, metavar="REPORT.json", help="say what became slower beyond noise")
    other = latency.add_argument_group("models and report")
    other.add_argument(
        "--simulate",
        metavar="NAME=MS,...",
        help="replace stages by timed stand-ins, or 'all': end_of_turn_ms, asr_ms, partial_ms, llm_first_token_ms, "
        "llm_token_ms, text_to_token_ms, decoder_ms, vocoder_ms, leading_silence_ms, speech_tokens (per text token); "
        "marked as simulated everywhere",
    )
    other.add_argument(
        "--no-wer", dest="wer", action="store_false", help="do not judge how well the replies can be understood (slow)"
    )
    other.add_argument(
        "--report",
        type=Path,
        default=Path("build/bench/latency"),
        metavar="DIR",
        help="where everything is written (default: build/bench/latency)",
    )
    ends = measured.add_parser(
        "pauses",
        parents=[common],
        help="the recogniser alone: is a user who pauses let finish, and how long does he wait at the end",
        description="Let the recogniser listen to questions with a pause of 0.3 to 0.8 s inside (made with flite and "
        "espeak-ng) and count the turns that it takes for over too early; writes report.md and report.json. Nothing is "
        "timed: any machine gets the same. The whole assistant: bench latency --cases pauses.",
    )
    ends.add_argument(
        "--part",
        choices=("held-out", "development"),
        default="held-out",
        help="which questions and voices: those that are reported (default), or those that the assistant is improved on",
    )
    ends.add_argument("--limit", type=int, metavar="N", help="only the first N questions, for a quick look")
    ends.add_argument("--report", type=Path, default=Path("build/bench/pauses"), metavar="DIR")
    over = measured.add_parser(
        "asides",
        parents=[common],
        help="short sounds over a reply: does an uh-huh leave it alone, does a stop silence it",
        description="Let recogniser and turn taking hear short words over a reply, made with flite and espeak-ng in several "
        "voices and levels, and count what stops it; writes report.md and report.json. Nothing is timed: any machine gets "
        "the same.",
    )
    over.add_argument("--part", choices=("held-out", "development"), default="held-out", help="which voices")
    over.add_argument("--report", type=Path, default=Path("build/bench/asides"), metavar="DIR")
    speech = measured.add_parser(
        "tts",
        parents=[common],
        help="the text-to-token models side by side",
        description="Time the interleaved model, the same with draft heads, and the temporal masked transformer on the "
        "same texts; writes report.md and report.json. The small size takes trained weights where all are there, else "
        "random ones, whose speech is made as long as real speech; the full size is the paper's, with random weights.",
    )
    speech.add_argument("--size", choices=("small", "full"), default="small", help="default: small")
    speech.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    speech.add_argument("--texts", type=int, default=20, metavar="N", help="texts, 28 tokens on average (default: 20)")
    speech.add_argument(
        "--grid", action="store_true", help="draft heads at every tolerance, number and size of tree (trained weights)"
    )
    speech.add_argument("--report", type=Path, default=Path("build/bench/tts"), metavar="DIR")
    flow = measured.add_parser(
        "decoder",
        parents=[common],
        help="what the decoder's caches save over a long reply",
        description="Decode a long reply with the flow decoder's caches and, chunk by chunk in the same run, by computing all "
        "anew as the public streaming decoder does; writes report.md and report.json. The small size takes the weights of "
        "the configuration, the full size is the public decoder's, with random weights.",
    )
    flow.add_argument("--size", choices=("small", "full"), default="small", help="default: small")
    flow.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    flow.add_argument("--seconds", type=float, default=30.0, metavar="S", help="length of the reply (default: 30)")
    flow.add_argument("--report", type=Path, default=Path("build/bench/decoder"), metavar="DIR")
