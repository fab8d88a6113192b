"""The options of the commands that work on corpora and test sets of one's own."""

import argparse
from pathlib import Path
from typing import Any


def add_prepare(commands: Any, common: argparse.ArgumentParser) -> None:
    """`data prepare`."""
    data = commands.add_parser("data", help="prepare a corpus of your own", description="Prepare a corpus.")
    done = data.add_subparsers(dest="what", metavar="WHAT", required=True)
    prepare = done.add_parser(
        "prepare",
        parents=[common],
        help="recordings and texts -> what `train tmt` reads",
        description="Turn recordings and texts into speech tokens (tts.speech_tokenizer), speaker vectors (tts.speaker) and "
        "the duration of every text token. A run that was interrupted goes on where it stopped. What cannot be used is "
        "listed with the reason in DIR/rejected.jsonl. For Mandarin add --set tts.language=zh, for other languages "
        "tts.language=none, with numbers written out.",
    )
    prepare.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder laid out like LibriTTS (NAME.wav, .flac or .mp3 with NAME.normalized.txt or NAME.txt beside it), or "
        'a JSONL file of {"audio": FILE, "text": ...}, optional: id, speaker, alignment (a TextGrid, or a list of '
        "[word, start, end] in seconds)",
    )
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the prepared corpus goes")
    prepare.add_argument(
        "--alignments",
        type=Path,
        metavar="DIR",
        help="TextGrids of the Montreal Forced Aligner, found by name (default: beside the recordings)",
    )
    prepare.add_argument(
        "--aligner",
        metavar="DIR",
        help="for items without a TextGrid: transformers folder of a wav2vec 2.0 model with CTC; for Mandarin: FunASR folder "
        "of a timestamp model (MonotonicAligner, BiCifParaformer, SeacoParaformer), or fa-zh after `weights get fa-zh`",
    )
    prepare.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokenizer.json of the text, or a Qwen folder (default: that of tts.tmt)",
    )
    prepare.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    prepare.add_argument("--min-s", type=float, default=0.5, metavar="S", help="shortest recording (default: 0.5)")
    prepare.add_argument("--max-s", type=float, default=30.0, metavar="S", help="longest recording (default: 30)")
    prepare.add_argument(
        "--max-duration",
        type=int,
        default=63,
        metavar="N",
        help="longest text token, in speech tokens of 40 ms; items with a longer one are left out. The model that is trained "
        "needs as many duration classes and one more, model.num_duration_classes (default: 63)",
    )
    prepare.add_argument("--limit", type=int, metavar="N", help="only the first N items, for a quick look")
    prepare.add_argument("--shard-items", type=int, default=256, metavar="N", help="items in a shard (default: 256)")


def add_plan(command: argparse.ArgumentParser, default: str, example: str, *, alone: bool) -> None:
    """`--plan` and `--set-plan`; where there is no configuration beside the plan (`alone`), also as `--config` and `--set`."""
    group = command.add_argument_group("plan of the training")
    group.add_argument(
        "--plan",
        *(("--config",) if alone else ()),
        type=Path,
        metavar="FILE.yaml",
        help=f"default: {default}",
    )
    group.add_argument(
        "--set-plan",
        *(("--set",) if alone else ()),
        action="append",
        default=[],
        dest="plan_settings",
        metavar="section.key=value",
        help=f"change one value of it, for example --set-plan {example}; wins over the file; may be repeated",
    )


def add_train(trained: Any) -> None:
    """`train tmt`."""
    own = trained.add_parser(
        "tmt",
        help="SyncSpeech's text-to-token model on a corpus of your own",
        description="Train a temporal masked transformer on what `data prepare` wrote, with checkpoints from which an "
        "interrupted run goes on exactly. On several GPUs: torchrun --nproc_per_node 4 launch.py train tmt ..., or "
        "accelerate launch; the batch of a step stays the same.",
    )
    own.add_argument("--data", type=Path, required=True, metavar="DIR", help="the prepared corpus")
    add_plan(own, "configs/train/tmt_small.yaml", "loop.steps=1000", alone=True)
    own.add_argument(
        "--work",
        type=Path,
        default=Path("build/tmt"),
        metavar="DIR",
        help="checkpoint, log.jsonl, tensorboard (default: build/tmt)",
    )
    own.add_argument(
        "--out",
        type=Path,
        default=Path("build/tmt/weights"),
        metavar="DIR",
        help="the finished weights, for --set tts.tmt=DIR (default: build/tmt/weights)",
    )
    own.add_argument(
        "--text-embedding", type=Path, metavar="DIR", help="Qwen folder whose text embedding is the beginning of ours"
    )


def add_student(trained: Any, common: argparse.ArgumentParser) -> None:
    """`train student`."""
    few = trained.add_parser(
        "student",
        parents=[common],
        help="a flow-matching decoder of few steps without guidance, from one of many",
        description="Distil the decoder tts.flow on recordings of many speakers, no texts needed: from the same noise, a student "
        "learns to reach in one or two steps, without guidance, where it arrives in ten with guidance. tts.speech_tokenizer and "
        "tts.speaker read the recordings. An interrupted run goes on; several GPUs: see `train tmt`.",
    )
    few.add_argument(
        "--data", type=Path, required=True, metavar="SOURCE", help="folder of recordings by speaker, or a JSONL file"
    )
    add_plan(few, "configs/train/student.yaml", "loop.steps=1000", alone=False)
    few.add_argument(
        "--work",
        type=Path,
        default=Path("build/student"),
        metavar="DIR",
        help="checkpoint, log.jsonl, tensorboard (default: build/student)",
    )
    few.add_argument(
        "--out",
        type=Path,
        default=Path("build/student/weights"),
        metavar="DIR",
        help="the finished weights, for --set tts.flow=DIR (default: build/student/weights)",
    )


def add_evaluate(evaluated: Any, common: argparse.ArgumentParser) -> None:
    """`eval tts`."""
    speech = evaluated.add_parser(
        "tts",
        parents=[common],
        help="the configured synthesiser on a test set of your own",
        description="Speak the texts of a test set, in the voices of its prompts if it has any, and measure word error rate "
        "(Mandarin: character error rate) as seed-tts-eval counts, likeness of the voice by tts.speaker, first packets, "
        "real-time factor, and UTMOSv2 where its package is installed. Writes report.md, report.json, items.jsonl and wav/.",
    )
    speech.add_argument(
        "--testset",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSONL with "text" and optional id and prompt_audio, or seed-tts-eval\'s meta.lst',
    )
    speech.add_argument(
        "--judge",
        default="own",
        metavar="NAME",
        help="who writes down what is heard: own (asr.model; for Mandarin a Paraformer folder there), pocketsphinx, or a "
        "transformers ASR folder such as Whisper's (default: own)",
    )
    speech.add_argument("--language", choices=("en", "zh"), help="how errors are counted (default: by the texts)")
    speech.add_argument("--limit", type=int, metavar="N", help="only the first N texts, for a quick look")
    speech.add_argument(
        "--two-pass",
        action="store_true",
        help="predict all durations of a text, then scale them by tts.speed and speak",
    )
    speech.add_argument(
        "--report", type=Path, default=Path("build/eval/tts"), metavar="DIR", help="default: build/eval/tts"
    )
