"""report.json of `bench tts` -> report.md, and plots in one self-contained report.html."""

import html
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from app.bench.contestants import SPEECH_PER_TEXT
from app.bench.plots import COLOURS, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = {
    "rtf": ("real-time factor, text to speech tokens", ".3f"),
    "rtf_whole": ("real-time factor, decoder and vocoder added", ".3f"),
    "fpl_a_ms": ("FPL-A, ms", ".0f"),
    "fpl_l_paper_ms": ("FPL-L as in the paper, ms", ".0f"),
    "fpl_l_pipelined_ms": ("FPL-L pipelined, ms", ".0f"),
    "passes": ("passes", ".0f"),
    "pass_ms": ("ms per pass", ".1f"),
    "tokens_per_pass": ("speech tokens per pass", ".2f"),
    "accepted": ("drafts accepted per pass with drafts", ".2f"),
    "early_ms_per_s": ("ms per second, seconds 1-11 of a long reply", ".0f"),
    "late_ms_per_s": ("its last ten seconds", ".0f"),
    "weights_mib": ("weights, MiB", ".0f"),
    "cache_mib": ("cache of the long reply, MiB", ".0f"),
    "peak_mib": ("peak memory, MiB", ".0f"),
}
BARS = ("rtf", "fpl_a_ms", "fpl_l_pipelined_ms")
NONE = "-"
_GRID = re.compile(r"VADUSA, (\d+) heads, (\d+) nodes, tolerance (\d+)")


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    run = values["about"]
    rows = [f"| model | {' | '.join(title for title, _ in COLUMNS.values())} |", f"|{'---|' * (1 + len(COLUMNS))}"]
    for name, found in values["figures"].items():
        cells = (NONE if found[key] is None else format(found[key], form) for key, (_, form) in COLUMNS.items())
        rows.append(f"| {name} | {' | '.join(cells)} |")
    better = [f"| {name} | {value:.2f} |" for name, value in values["ratios"].items()]
    return "\n".join(
        [
            f"# Text to speech tokens, {run['size']} size",
            "",
            f"{run['machine']}, {run['device']}, {run['threads']} thread(s), {run['dtype']}, {run['num_texts']} texts, "
            f"{run['weights']}.",
            "",
            *rows,
            "",
            "| ratio | |",
            "|---|---|",
            *better,
            "",
            *_grid(values["figures"]),
            *_words(values["words"]),
            "## What is counted",
            "",
            *(f"- {note}" for note in notes(values)),
            "",
        ]
    )


def _grid(found: dict[str, dict[str, Any]]) -> list[str]:
    """What a pass of `--grid` brings, and the speed-up over no drafts: a row for heads and nodes, a column for tolerances."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    plain = next(iter(found.values()))
    for name, one in found.items():
        if match := _GRID.fullmatch(name):
            heads, nodes, tolerance = match.groups()
            faster = plain["rtf"] / one["rtf"]
            cells.setdefault((heads, nodes), {})[tolerance] = f"{one['tokens_per_pass']:.2f} ({faster:.2f})"
    if not cells:
        return []
    tolerances = list(next(iter(cells.values())))
    head = [f"| draft heads | nodes | {' | '.join(f'tolerance {tolerance}' for tolerance in tolerances)} |"]
    head.append(f"|{'---|' * (2 + len(tolerances))}")
    rows = [f"| {heads} | {nodes} | {' | '.join(row.values())} |" for (heads, nodes), row in cells.items()]
    return ["Speech tokens per pass, in brackets the speed-up in time over no drafts:", "", *head, *rows, ""]


def _words(words: dict[str, dict[str, float]]) -> list[str]:
    if not words:
        return []
    rows = [
        f"| {name} | {100 * rate['rate']:.1f} % ({100 * rate['low']:.1f}-{100 * rate['high']:.1f}) "
        f"| {rate['num_words']} |"
        for name, rate in words.items()
    ]
    head = ["| model | word error rate, pocketsphinx (95 % bootstrap interval) | words |", "|---|---|---|"]
    return [*head, *rows, ""]


def notes(values: dict[str, Any]) -> list[str]:
    """What a reader must know of the figures."""
    run, found = values["about"], values["figures"]
    seen = {mask: f"{window} text tokens" if window else "everything" for mask, window in run["windows"].items()}
    decoding = run["decoder_rtf"]
    long_s = min(one["long_reply_s"] for one in found.values())
    return [
        "Every model has what speeds it up: fused attention (PyTorch's), one pass per step, and an exact key-value cache; "
        "the paper's mask allows no cache, each of its steps reads everything anew. "
        + (
            "CUDA graphs start the steps of all but the paper's mask, whose shapes never come twice."
            if run["device"] != "cpu"
            else "There are no CUDA graphs on a CPU."
        ),
        f"VADUSA: {run['num_nodes']} drafts in a pass.",
        f"TMT, paper mask: weights are {run['paper_weights']}"
        + ("; its cost does not depend on them. " if run["paper_weights"] != "its own" else ". ")
        + f"History that a token sees: {seen['paper']}, under the prefix mask {seen['prefix']}.",
        "FPL: until 15 speech tokens are there; FPL-A with all text at hand, FPL-L with a text token every 25 ms. Several text "
        "tokens per step: all text is there from the beginning, so that there is no FPL-L.",
        "Decoder and vocoder are not counted in the whole: they are not run at this size on a CPU."
        if decoding is None
        else f"Decoder and vocoder take {decoding:.3f} s per second of speech, for every model the same; timed in this run "
        "in chunks, on speech tokens of the same texts.",
        f"Long reply: {long_s:.0f} s of speech at least. Weights: on a CPU with their float16 copies. Peak memory: these, and by "
        "how much the process (on a GPU: what PyTorch holds there) grew at most while it spoke the long reply.",
        *(
            [f"Random weights: each text token lasts as words do in speech ({SPEECH_PER_TEXT:.1f} speech tokens on average; "
             "LibriTTS has 6.4), drafts are accepted as often as VADUSA's paper has it. Trained heads decide how good VADUSA "
             "really is."]
            if run["weights"] != "trained weights"
            else []
        ),
    ]  # fmt: skip


def drawings(values: dict[str, Any]) -> str:
    """Bars and cost over the length of a reply, as one page that needs nothing else."""
    title = f"Text to speech tokens, {values['about']['size']} size"
    parts = [f"<h1>{title}</h1>", f"<p>{html.escape(values['about']['machine'])}, {values['about']['weights']}</p>"]
    for key in BARS:
        parts.append(figure(bars(values["figures"], key), height=1.2 + 0.3 * len(values["figures"])))
    parts.append(figure(growth(values["curves"])))
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body>\n{body}\n'
        "</body></html>\n"
    )


def bars(found: dict[str, dict[str, Any]], key: str) -> Callable[["Axes"], None]:
    """One figure of every model."""

    def draw(axes: "Axes") -> None:
        title, form = COLUMNS[key]
        known = {name: one[key] for name, one in found.items() if one[key] is not None}
        shown = axes.barh(list(known), list(known.values()), color=COLOURS[0], height=0.6)
        axes.bar_label(shown, fmt=f"{{:{form}}}", padding=3)
        axes.invert_yaxis()
        axes.set_xlabel(title)

    return draw


def growth(curves: dict[str, Sequence[Sequence[float]]]) -> Callable[["Axes"], None]:
    """What a second of speech costs along the long reply."""

    def draw(axes: "Axes") -> None:
        for number, (name, points) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot([at for at, _ in points], [cost for _, cost in points], color=colour, label=name)
        axes.set_xlabel("second of the reply")
        axes.set_ylabel("ms of computing\nper spoken second")
        axes.set_yscale("log")
        if len(curves) <= len(COLOURS):
            axes.legend(frameon=False, fontsize=7)

    return draw
