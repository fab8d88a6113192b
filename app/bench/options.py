"""The options of the benchmarks."""

import argparse
from pathlib import Path
from typing import Any

BENCHMARKS = {  # module in app/bench
    "latency": "run",
    "pauses": "turn_ends",
    "asides": "asides",
    "tts": "text_to_token",
    "decoder": "decoder",
    "gpu": "gpu",
    "analysis": "analysis",
    "soak": "soak",
    "device": "device",
    "echo": "echo",
    "web": "web",
}


def add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    """`bench` and what it measures."""
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
        choices=("held-out", "development", "fresh"),
        default="held-out",
        help="which questions and voices: those that are reported (default), those that the assistant is improved on, or others "
        "in the voices of the first",
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
        description="Time the interleaved model, the same with draft heads, and the temporal masked transformer with the "
        "paper's mask and with ours on the same texts; writes report.md, report.json and plots in report.html. The small "
        "size takes trained weights where all are there, else random ones, whose speech is made as long as real speech; "
        "the full size is the paper's, with random weights.",
    )
    speech.add_argument("--size", choices=("small", "full"), default="small", help="default: small")
    speech.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    speech.add_argument("--texts", type=int, default=20, metavar="N", help="texts, 28 tokens on average (default: 20)")
    speech.add_argument(
        "--grid",
        nargs="*",
        type=int,
        default=None,
        metavar="N",
        help="draft heads at every tolerance and number, with trees of N nodes (default: 64 96 128; trained weights)",
    )
    speech.add_argument(
        "--words",
        type=int,
        default=0,
        metavar="N",
        help="word error rate of N held-out sentences by every model, heard by pocketsphinx (trained weights; default: 0)",
    )
    speech.add_argument(
        "--long",
        type=float,
        metavar="S",
        help="seconds of the long reply (default: 60; 15 at full size on a CPU)",
    )
    speech.add_argument(
        "--paper",
        type=Path,
        metavar="DIR",
        help="weights trained with the paper's mask (default: those of ours, for cost)",
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
    _add_gpu(measured, common)
    _add_analysis(measured, common)
    _add_live(measured, common)


def _add_gpu(measured: Any, common: argparse.ArgumentParser) -> None:
    """`bench gpu`."""
    whole = measured.add_parser(
        "gpu",
        parents=[common],
        help="the full-size chain on one GPU, with nothing downloaded",
        description="Measure recogniser (Paraformer-large), language model (Qwen3-4B's structure), text-to-token model, flow "
        "decoder and vocoder at their public sizes, with random weights and scripted text and durations, whose cost is the same: "
        "each stage alone, first sound alone and beside a busy language model, conversations at once, kernel launches, memory. "
        "Writes report.md and report.json. Of the configuration (default: configs/gpu.yaml) flow steps, guidance and numbers "
        "count: --set tts.num_flow_steps=2 --set tts.flow_guidance=0 --set tts.dtype=float32.",
    )
    whole.add_argument(
        "--random-weights", action="store_true", required=True, help="the only choice; bench latency measures real ones"
    )
    whole.add_argument("--size", choices=("small", "full"), default="full", help="default: full")
    whole.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="default: cuda")
    whole.add_argument(
        "--backend", choices=("syncspeech", "interleaved"), default="syncspeech", help="text-to-token model"
    )
    whole.add_argument(
        "--graphs",
        choices=("on", "off"),
        default="on",
        help="CUDA graphs of the language model and the voice (default: on)",
    )
    whole.add_argument(
        "--streams",
        choices=("one", "own"),
        default="one",
        help="one CUDA stream for all, or one for each thread, the voice's first; as runtime.cuda_streams (default: one)",
    )
    whole.add_argument(
        "--concurrency", default="1,2,4,8,16,32", metavar="N,...", help="conversations at once (default: 1,2,4,8,16,32)"
    )
    whole.add_argument("--turns", type=int, default=3, metavar="N", help="counted turns of each (default: 3)")
    whole.add_argument("--question-s", type=float, default=3.0, metavar="S", help="length of a question (default: 3)")
    whole.add_argument("--reply-tokens", type=int, default=24, metavar="N", help="text tokens of a reply (default: 24)")
    whole.add_argument("--repeats", type=int, default=20, metavar="N", help="runs of each stage alone (default: 20)")
    whole.add_argument("--report", type=Path, default=Path("build/bench/gpu"), metavar="DIR")


def _add_analysis(measured: Any, common: argparse.ArgumentParser) -> None:
    """`bench analysis`."""
    analysis = measured.add_parser(
        "analysis",
        parents=[common],
        help="the analysis of SyncSpeech's paper, on the synthetic corpus",
        description="Have the bundled voice speak held-out sentences with true, greedy and drawn durations, with more "
        "look-ahead, faster and slower, and with faults in its history, heard by pocketsphinx; then train small models that "
        "lack one part of the recipe each (configs/train/analysis.yaml) and compare them. Writes report.md and report.json. "
        "Needs the corpus of `train small corpus tokens`. Interrupted runs go on where they stopped.",
    )
    analysis.add_argument(
        "--work", type=Path, default=Path("build/small"), metavar="DIR", help="the corpus (default: build/small)"
    )
    analysis.add_argument("--sentences", type=int, default=40, metavar="N", help="held-out sentences (default: 40)")
    analysis.add_argument(
        "--steps", type=int, metavar="N", help="of every ablation (default: as in the file; 0: no ablations)"
    )
    analysis.add_argument("--report", type=Path, default=Path("build/bench/analysis"), metavar="DIR")


def _add_live(measured: Any, common: argparse.ArgumentParser) -> None:
    """`bench soak`, `bench device`, `bench echo`, `bench web`."""
    soak = measured.add_parser(
        "soak",
        parents=[common],
        help="one long conversation: memory, what is left behind, latency at its start and end",
        description="Hold one long conversation with the configured models on a clock that skips waiting and counts computing. "
        "Exit code 1 when memory grows by 2 % after the first tenth, or a task or thread is left behind.",
    )
    soak.add_argument("--minutes", type=float, default=60.0, metavar="N", help="how long, about (default: 60)")
    soak.add_argument("--report", type=Path, default=Path("build/bench/soak"), metavar="DIR")
    device = measured.add_parser(
        "device",
        parents=[common],
        help="breaks of the sound in a conversation on a busy machine",
        description="Play replies through the configured microphone and loudspeaker, with the models at work, while other "
        "processes keep every core busy; count what the audio callbacks and their queues lost. Without a sound card: jackd -r -d "
        "dummy. Writes report.md and report.json. Exit code 1 when sound was lost.",
    )
    device.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long, about (default: 10)")
    device.add_argument(
        "--busy", type=int, metavar="N", help="other processes that compute (default: one for each core)"
    )
    device.add_argument("--report", type=Path, default=Path("build/bench/device"), metavar="DIR")
    echo = measured.add_parser(
        "echo",
        parents=[common],
        help="its own voice in the microphone: self-triggered turns, word error rate of the user in double talk",
        description="Let the assistant's own voice leak into the microphone through a synthetic room at several levels and "
        "delays, with and without the user speaking over it. Exit code 1 when it takes itself for the user.",
    )
    echo.add_argument("--report", type=Path, default=Path("build/bench/echo"), metavar="DIR")
    web = measured.add_parser(
        "web",
        parents=[common],
        help="several people at once on the page's WebSocket",
        description="Start `launch.py web` and let several people ask it spoken questions at the same time, over its "
        "WebSocket at the pace of the audio, as the page does; counts underruns and measures voice-to-voice of each.",
    )
    web.add_argument("--sessions", type=int, default=4, metavar="N", help="people at once (default: 4)")
    web.add_argument("--turns", type=int, default=6, metavar="N", help="questions of each (default: 6)")
    web.add_argument("--report", type=Path, default=Path("build/bench/web"), metavar="DIR")
