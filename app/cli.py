"""The command line: `ask`, `say`, `transcribe`, `doctor`, `train`, `eval`. Exit codes: 0, 1 (run failed), 2 (bad usage)."""

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from configs.loader import DEFAULTS, load
from configs.schema import AppConfig, ConfigError

DESCRIPTION = (
    """A voice assistant that runs on this machine alone: it listens, thinks and speaks while it is still thinking."""
)

WAYS_IN = """\
Start here:
  python launch.py ask                          ask the sample question, hear the answer in answer.wav
  python launch.py ask QUESTION.wav             ask your own recorded question
  python launch.py say "Good morning."          speak a text into speech.wav
  python launch.py transcribe FILE.wav          write down what is said in a recording
  python launch.py doctor                       what is installed, what is missing, what will run where

Make and measure the small models:
  python launch.py train small                  train every bundled model from nothing
  python launch.py eval small                   measure them

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
    group.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings file (default: configs/tiny.yaml)")
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
        "--voice", metavar="REF.wav", help="speak in the voice of this recording (3 to 15 s of one person)"
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
    say.add_argument("--speed", type=float, metavar="X", help="speaking rate, 0.5 to 2.0; above 1 is faster")

    transcribe = commands.add_parser("transcribe", parents=[common], help="write down what is said in a recording")
    transcribe.add_argument("recording", type=Path, metavar="FILE.wav")

    commands.add_parser(
        "doctor",
        parents=[common],
        help="packages, devices, weights, what will run where; a hint for each thing missing",
    )

    train = commands.add_parser("train", help="train models", description="Train models.")
    trained = train.add_subparsers(dest="what", metavar="WHAT", required=True)
    small = trained.add_parser(
        "small",
        help="the bundled models, from nothing",
        description="Make the bundled models from synthetic speech: corpus, tokenizers, every model. Needs the Debian "
        "programs flite and espeak-ng. Interrupted runs go on where they stopped.",
    )
    small.add_argument("models", nargs="*", metavar="MODEL", help="only these steps, in the given order (default: all)")
    small.add_argument(
        "--work", type=Path, default=Path("build/small"), help="corpus and checkpoints (default: build/small)"
    )
    small.add_argument("--out", type=Path, help="where the weights go (default: into the repository's assets folders)")
    small.add_argument("--config", type=Path, metavar="FILE.yaml", help="default: configs/train/small.yaml")

    evaluate = commands.add_parser("eval", help="measure models", description="Measure models.")
    evaluated = evaluate.add_subparsers(dest="what", metavar="WHAT", required=True)
    figures = evaluated.add_parser(
        "small",
        parents=[common],
        help="the bundled models, on sentences and voices never seen in training",
        description="Measure the bundled models on held-out sentences, questions and voices; writes a table.",
    )
    figures.add_argument(
        "parts", nargs="*", metavar="PART", help="only these: asr tts clone llm ask speed (default: all)"
    )
    figures.add_argument(
        "--work", type=Path, default=Path("build/small"), help="held-out recordings (default: build/small)"
    )
    figures.add_argument("--report", type=Path, default=Path("build/small/eval"), metavar="DIR")
    figures.add_argument("--limit", type=int, metavar="N", help="at most N items of each part, for a quick look")
    return top


def default_config() -> Path:
    """The configuration used when none is named."""
    return DEFAULTS / "tiny.yaml"


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
    module, function = {
        "ask": ("app.ask", "run"),
        "say": ("app.say", "run"),
        "transcribe": ("app.transcribe", "run"),
        "doctor": ("app.doctor", "run"),
        "train": ("app.small.pipeline", "run"),
        "eval": ("app.small.evaluate", "run"),
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
    from asr.base import RecognizerError
    from audio_io.base import AudioFileError, DeviceError
    from llm.base import ChatModelError
    from tts.base import SynthesisError, VoiceError

    if isinstance(error, ConfigError | AudioFileError | VoiceError):
        return 2
    if isinstance(error, RecognizerError | DeviceError | ChatModelError | SynthesisError | OSError):
        return 1
    return None


def configuration(options: argparse.Namespace, extra: Sequence[str] = ()) -> AppConfig:
    """The configuration that a command's options name."""
    settings = [*extra, *options.settings]
    if getattr(options, "voice", None):
        settings.append(f"tts.voice={options.voice}")
    if getattr(options, "speed", None) is not None:
        if not 0.5 <= options.speed <= 2.0:
            raise ConfigError(f"--speed {options.speed:g}: choose a rate between 0.5 and 2.0.")
        settings.append(f"tts.speed={options.speed}")
    return load(options.config or default_config(), settings)
