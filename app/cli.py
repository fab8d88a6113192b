"""The command line: every command and its options. Exit codes: 0, 1 (run failed), 2 (bad usage)."""

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from app.bench.options import BENCHMARKS, add_bench
from app.data import options as data
from configs.schema import MAX_REFERENCE_S, ConfigError

EVALUATIONS = {"small": "app.small.evaluate", "tts": "app.data.evaluate", "decoder": "app.small.decoder_settings"}
TRAININGS = {"small": "app.small.pipeline", "tmt": "app.data.train", "student": "app.data.student"}
DESCRIPTION = (
    """A voice assistant that runs on this machine alone: it listens, thinks and speaks while it is still thinking."""
)

WAYS_IN = """\
Start here:
  python launch.py talk                         talk by microphone and loudspeaker
  python launch.py web                          talk in the browser
  python launch.py serve                        talk from programs, as with OpenAI's Realtime API
  python launch.py ask                          ask the sample question, hear the answer in answer.wav
  python launch.py ask QUESTION.wav             ask your own recorded question
  python launch.py say "Good morning."          speak a text into speech.wav
  python launch.py transcribe FILE.wav          write down what is said in a recording
  python launch.py doctor                       what is installed, what is missing, what will run where
  python launch.py weights get                  fetch the public models that the configuration names
  python launch.py weights check                whether the models it needs are there and whole
  python launch.py bench latency --virtual      how long the assistant takes to answer, and where the time goes

Make and measure models:
  python launch.py data prepare CORPUS --out D  speech tokens and durations of a corpus of your own
  python launch.py train tmt --data D           a text-to-token model from it
  python launch.py eval tts --testset FILE      error rates and latencies on texts of your own
  python launch.py train small                  train every bundled model from nothing
  python launch.py eval small                   measure them
  python launch.py bench tts                    time the text-to-token models side by side
  python launch.py bench decoder                what the decoder's caches save over a long reply
  python launch.py bench gpu --random-weights   the full-size chain on a GPU, with nothing downloaded
  python launch.py bench analysis               the analysis of SyncSpeech's paper, on the synthetic corpus

Each command explains itself: python launch.py ask --help
"""


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="launch.py", description=DESCRIPTION, epilog=WAYS_IN, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("configuration")
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE.yaml",
        help="settings file (default: configs/gpu.yaml where a GPU and its weights are there, else configs/tiny.yaml)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="section.key=value",
        help="change one setting, for example --set tts.speed=1.1; wins over the file; may be repeated",
    )
    voice = argparse.ArgumentParser(add_help=False)
    voice.add_argument(
        "--voice",
        metavar="REF.wav",
        help=f"speak in the voice of this recording (3 to {MAX_REFERENCE_S:g} s of one person)",
    )
    voice.add_argument(
        "--voice-text",
        metavar="TEXT",
        help="what it says: then its rate and its prosody are taken too (tts.prompt_prosody recognises it itself)",
    )

    ask = commands.add_parser(
        "ask",
        parents=[common, voice],
        help="answer recorded questions with the whole chain",
        description="Play recorded questions to the assistant, as if into a microphone, and record what it answers. "
        "Several recordings are one conversation. Prints the transcript, the reply as it is spoken, and where the time went.",
    )
    ask.add_argument("questions", nargs="*", type=Path, metavar="QUESTION.wav", help="default: the sample question")
    ask.add_argument("--out", type=Path, default=Path("answer.wav"), metavar="ANSWER.wav", help="default: answer.wav")
    ask.add_argument("--trace", type=Path, metavar="TRACE.json", help="write every time stamp of every turn")
    ask.add_argument("--record", type=Path, metavar="BOTH.wav", help="stereo recording: user left, assistant right")
    ask.add_argument("--fast", action="store_true", help="do not wait for the pace of the audio")

    say = commands.add_parser(
        "say",
        parents=[common, voice],
        help="speak a text into a file",
        description="Speak a text. With - the text is read from standard input and spoken while it is still being written.",
    )
    say.add_argument("text", metavar="TEXT", help='what to say; "-" reads standard input as it arrives')
    say.add_argument("--out", type=Path, default=Path("speech.wav"), metavar="FILE.wav", help="default: speech.wav")
    say.add_argument(
        "--timestamps",
        type=Path,
        metavar="FILE.json",
        help="write when every word and text token of the spoken form begins and ends; FILE.vtt: the words as WebVTT",
    )
    say.add_argument("--speed", type=float, metavar="X", help="speaking rate, 0.5 to 2.0; above 1 is faster")
    say.add_argument(
        "--length", type=float, metavar="SECONDS", help="how long the speech shall be, to 40 ms; needs the whole text"
    )
    say.add_argument(
        "--two-pass",
        action="store_true",
        help="reach the speed by all durations together, predicted before anything is spoken; needs the whole text",
    )

    transcribe = commands.add_parser("transcribe", parents=[common], help="write down what is said in a recording")
    transcribe.add_argument("recording", type=Path, metavar="FILE.wav")

    talk = commands.add_parser(
        "talk",
        parents=[common, voice],
        help="talk by microphone and loudspeaker",
        description="Talk with the assistant. Speak when it listens; speak over it to interrupt. Keys: m mutes the "
        "microphone, t types a line, s stops the reply, q leaves; Ctrl+C stops the reply, twice within two seconds leaves.",
    )
    talk.add_argument("--input-device", metavar="DEVICE", help="microphone: id or part of the name (see `devices`)")
    talk.add_argument("--output-device", metavar="DEVICE", help="loudspeaker: id or part of the name")
    talk.add_argument(
        "--echo",
        choices=("webrtc", "half_duplex", "off"),
        help="how it avoids hearing itself: webrtc (default), half_duplex (deaf while it speaks), off (headphones)",
    )
    talk.add_argument("--push-to-talk", action="store_true", help="the space key switches the microphone on and off")
    talk.add_argument("--text", action="store_true", help="no microphone: type, or pipe lines in")
    talk.add_argument("--system-prompt", metavar="TEXT", help="the first message of the conversation")
    talk.add_argument("--record", type=Path, metavar="DIR", help="keep a stereo recording and the trace there")

    commands.add_parser(
        "web",
        parents=[common, voice, _hosting(7860)],
        help="talk in the browser, in a voice from an uploaded recording if you like",
        description="Serve a page to talk with the assistant. It is open to this machine only unless --host says otherwise; "
        "for a microphone on other machines the browser wants HTTPS (--ssl-certfile, --ssl-keyfile).",
    )
    commands.add_parser(
        "serve",
        parents=[common, voice, _hosting(8765)],
        help="talk from programs: OpenAI's Realtime API, speech and transcriptions",
        description="Serve programs that speak OpenAI's API: a WebSocket at /v1/realtime, /v1/audio/speech, "
        "/v1/audio/transcriptions and /health (503 while the models are loaded). It is open to this machine only unless "
        "--host says otherwise; with --auth the key of a program is USER:PASSWORD.",
    )

    commands.add_parser(
        "devices", parents=[common], help="list microphones and loudspeakers; those that the settings name are marked"
    )

    commands.add_parser(
        "doctor",
        parents=[common],
        help="packages, devices, weights, what will run where; a hint for each thing missing",
    )

    weights = commands.add_parser(
        "weights",
        help="the models that the configuration needs: which, where, whole? Fetch them",
        description="The models that the configuration needs. Only `get` uses the network.",
    )
    asked = weights.add_subparsers(dest="what", metavar="WHAT", required=True)
    asked.add_parser(
        "list", parents=[common], help="what is needed, with size and licence; exit code 1 if some is missing"
    )
    asked.add_parser("where", parents=[common], help="where each model is looked for, and which public files fit there")
    asked.add_parser("check", parents=[common], help="read all of them strictly; exit code 1 if one cannot be used")
    get = asked.add_parser(
        "get",
        parents=[common],
        help="fetch what the settings name in public repositories and this machine lacks",
        description="Fetch the weights that the settings name as OWNER/REPOSITORY into the hub's cache (HF_HOME, "
        "MODELSCOPE_CACHE). What is there already is not fetched again, so an interrupted run loses one file at most.",
    )
    get.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="aligners for `data prepare`, such as fa-zh, instead of what the settings name",
    )
    get.add_argument(
        "--hub",
        choices=("auto", "huggingface", "modelscope"),
        default="auto",
        help="from where (default: Hugging Face, and ModelScope where that cannot be reached)",
    )

    add_bench(commands, common)
    data.add_prepare(commands, common)

    train = commands.add_parser("train", help="train models", description="Train models.")
    trained = train.add_subparsers(dest="what", metavar="WHAT", required=True)
    small = trained.add_parser(
        "small",
        help="the bundled models, from nothing",
        description="Make the bundled models from synthetic speech: corpus, tokenizers, every model. Needs the Debian "
        "programs flite and espeak-ng. Interrupted runs go on where they stopped; a checkpoint of another plan is refused.",
    )
    small.add_argument("models", nargs="*", metavar="MODEL", help="only these steps, in the given order (default: all)")
    small.add_argument(
        "--work", type=Path, default=Path("build/small"), help="corpus and checkpoints (default: build/small)"
    )
    small.add_argument("--out", type=Path, help="where the weights go (default: into the repository's assets folders)")
    small.add_argument(
        "--start-from",
        type=Path,
        metavar="DIR",
        help="flow, vocoder, tmt, paraformer and qwen: train the weights below DIR further (. = those that ship) instead of "
        "random ones",
    )
    data.add_plan(small, "configs/train/small.yaml", "tmt.steps=1000", alone=True)
    data.add_train(trained)
    data.add_student(trained, common)

    evaluate = commands.add_parser("eval", help="measure models", description="Measure models.")
    evaluated = evaluate.add_subparsers(dest="what", metavar="WHAT", required=True)
    figures = evaluated.add_parser(
        "small",
        parents=[common],
        help="the bundled models, on sentences and voices never seen in training",
        description="Measure the bundled models on held-out sentences, questions and voices; writes a table.",
    )
    figures.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="only these: asr tts clone llm ask speed (default: all); ask_dev: the questions kept for who improves the models",
    )
    figures.add_argument(
        "--work", type=Path, default=Path("build/small"), help="held-out recordings (default: build/small)"
    )
    figures.add_argument("--report", type=Path, default=Path("build/small/eval"), metavar="DIR")
    figures.add_argument("--limit", type=int, metavar="N", help="at most N items of each part, for a quick look")
    steps = evaluated.add_parser(
        "decoder",
        parents=[common],
        help="what fewer flow steps and smaller first chunks of the decoder cost in quality, and what the steps save",
        description="Decode true speech tokens of held-out sentences with 10, 4, 2 and 1 flow steps, with guidance and without, "
        "and with smaller first chunks: word error rate by pocketsphinx, distance of the mel, real-time "
        "factor. Writes report.md and report.json.",
    )
    steps.add_argument(
        "--work", type=Path, default=Path("build/small"), help="held-out recordings (default: build/small)"
    )
    steps.add_argument("--report", type=Path, default=Path("build/small/decoder"), metavar="DIR")
    steps.add_argument("--limit", type=int, default=40, metavar="N", help="sentences (default: 40)")
    data.add_evaluate(evaluated, common)
    return top


def _hosting(port: int) -> argparse.ArgumentParser:
    """Where a server listens and whom it lets in."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("address")
    group.add_argument("--host", metavar="ADDRESS", help="address to listen at (default: 127.0.0.1)")
    group.add_argument("--port", type=int, metavar="N", help=f"port to listen at (default: {port})")
    group.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        default=os.environ.get("ASSISTANT_AUTH"),
        help="ask for a user name and a password (default: the environment's ASSISTANT_AUTH)",
    )
    group.add_argument("--ssl-certfile", type=Path, metavar="FILE.pem", help="certificate: serve HTTPS")
    group.add_argument("--ssl-keyfile", type=Path, metavar="FILE.pem", help="key of the certificate")
    group.add_argument("--max-sessions", type=int, metavar="N", help="conversations at the same time (default: 4)")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code."""
    if not arguments:
        sys.stdout.write(f"{DESCRIPTION}\n\n{WAYS_IN}")
        return 0
    options = parser().parse_args(arguments)
    if options.command is None:
        parser().print_help()
        return 2
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    warnings.filterwarnings("ignore")
    what = getattr(options, "what", "")
    module, function = {
        "ask": ("app.ask", "run"),
        "talk": ("app.talk", "run"),
        "web": ("app.web.server", "run"),
        "serve": ("app.serve.server", "run"),
        "devices": ("app.talk", "devices"),
        "say": ("app.say", "run"),
        "transcribe": ("app.transcribe", "run"),
        "doctor": ("app.doctor", "run"),
        "weights": ("app.weights", "run"),
        "bench": (f"app.bench.{BENCHMARKS.get(what, '')}", "run"),
        "data": ("app.data.prepare", "run"),
        "train": (TRAININGS.get(what, ""), "run"),
        "eval": (EVALUATIONS.get(what, ""), "run"),
    }[options.command]
    try:
        return int(getattr(importlib.import_module(module), function)(options))
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 1
    except BrokenPipeError:
        return 1
    except Exception as error:  # the last border: users get one line, developers the rest with log_level debug
        code = exit_code(error)
        if code is None:
            raise
        sys.stderr.write(f"{options.command}: {error}\n")
        return code


def exit_code(error: Exception) -> int | None:
    """2 for what the user gave us, 1 for a run that failed, None for a fault of our own."""
    from app.hub import WeightsError
    from asr.base import RecognizerError
    from audio_io.base import AudioFileError, DeviceError
    from llm.base import ChatModelError
    from tts.base import LengthError, SynthesisError, VoiceError

    if isinstance(error, ConfigError | AudioFileError | VoiceError | LengthError):
        return 2
    if isinstance(error, RecognizerError | DeviceError | ChatModelError | SynthesisError | WeightsError | OSError):
        return 1
    return None
