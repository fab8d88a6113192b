"""The plots of the report, each as inline SVG."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.bench.metrics import STAGES, Turn, trusted, warm
from app.bench.summary import Results, stage_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e")
MARK = "simulated"


def figure(draw: Callable[["Axes"], None], *, height: float = 3.2, simulated: bool = False) -> str:
    """One plot as an SVG element; a simulated one says so inside the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style | {"svg.fonttype": "none"}):  # letters as text: smaller, and can be searched
        picture = Figure(figsize=(8.0, height), layout="constrained")
        axes = picture.subplots()
        draw(axes)
        if simulated:
            axes.text(0.99, 0.02, MARK, transform=axes.transAxes, ha="right", color="#b00020", size=14, alpha=0.6)
        out = io.StringIO()
        picture.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    return text[text.index("<svg") :]


def waterfall(results: Sequence[Results]) -> Callable[["Axes"], None]:
    """Where the time goes: median per stage, the 90th percentile as a thin line."""

    def draw(axes: "Axes") -> None:
        names = [r.variant.name for r in results]
        for row, found in enumerate(results):
            at = 0.0
            for stage, colour in zip(STAGES, COLOURS, strict=True):
                times = stage_table(found.turns).get(stage)
                if times is None:
                    continue
                width = 1000 * times["p50"]
                axes.barh(row, width, left=at, color=colour, height=0.5, label=_words(stage) if row == 0 else None)
                axes.plot([at, at + 1000 * times["p90"]], [row + 0.32] * 2, color=colour, linewidth=2)
                at += width
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(
            "ms after the user's last voiced sample (medians of stages; thin line: 90th percentile of the stage)"
        )
        axes.legend(ncols=5, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)

    return draw


def distribution(results: Sequence[Results]) -> Callable[["Axes"], None]:
    """Share of turns answered within a time."""

    def draw(axes: "Axes") -> None:
        for found, colour in zip(results, _cycle(len(results)), strict=True):
            times = np.sort([1000 * t.voice_to_voice_s for t in warm(found.turns) if t.voice_to_voice_s is not None])
            if len(times):
                share = np.arange(1, len(times) + 1) / len(times)
                axes.step(times, share, where="post", color=colour, label=f"{found.variant.name} (n={len(times)})")
        axes.set_xlabel("voice-to-voice, ms")
        axes.set_ylabel("share of turns")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.03)
        axes.legend(frameon=False)

    return draw


def cost(results: Sequence[Results]) -> Callable[["Axes"], None]:
    """Computing per spoken second along the reply."""

    def draw(axes: "Axes") -> None:
        for found, colour in zip(results, _cycle(len(results)), strict=True):
            points = np.array([point for turn in found.turns for point in turn.cost])
            if len(points):
                axes.plot(points[:, 0], 1000 * points[:, 1], ".", color=colour, markersize=3, label=found.variant.name)
        axes.set_xlabel("second of the reply")
        axes.set_ylabel("ms of synthesis\nper spoken second")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)

    return draw


def comparison(pairs: Sequence[Sequence[Any]], first: str, second: str) -> Callable[["Axes"], None]:
    """The same turn by two assistants."""

    def draw(axes: "Axes") -> None:
        x, y = 1000 * np.array([p[1] for p in pairs]), 1000 * np.array([p[2] for p in pairs])
        top = max(x.max(), y.max()) * 1.05
        axes.plot([0, top], [0, top], color="#999", linewidth=0.8)
        axes.plot(x, y, "o", color=COLOURS[0], markersize=4)
        axes.set_xlabel(f"{first}, ms")
        axes.set_ylabel(f"{second}, ms")

    return draw


def timeline(recording: Path, turn: Turn, marks: dict[str, float]) -> Callable[["Axes"], None]:
    """Both voices around the answer, and when each stage ended."""
    import soundfile

    both, rate = soundfile.read(recording, dtype="float32", always_2d=True)

    def draw(axes: "Axes") -> None:
        begin, end = max(0.0, marks["last_voiced"] - 0.8), marks["first_audible"] + 0.8
        size = max(1, rate // 400)
        for side, offset, colour in ((0, 1.0, "#666"), (1, -1.0, COLOURS[0])):
            piece = np.abs(both[round(begin * rate) : round(end * rate), side])
            piece = np.pad(piece, (0, -len(piece) % size)).reshape(-1, size).max(1)
            piece = piece / (piece.max() or 1.0)
            time = (begin + np.arange(len(piece)) * size / rate - marks["last_voiced"]) * 1000
            axes.fill_between(time, offset - 0.9 * piece, offset + 0.9 * piece, color=colour, linewidth=0)
        at = 0.0
        for stage, colour in zip(STAGES, COLOURS, strict=True):
            width = 1000 * (turn.stages or {}).get(stage, 0.0)
            axes.axvspan(at, at + width, color=colour, alpha=0.35, label=f"{_words(stage)} {width:.0f}")
            at += width
        axes.set_yticks([1.0, -1.0], ["user", "assistant"])
        axes.set_xlabel(f"ms after the user's last voiced sample ({turn.case}, turn {turn.turn})")
        axes.legend(ncols=5, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)

    return draw


def typical(turns: Sequence[Turn]) -> Turn | None:
    """The turn whose voice-to-voice is the median."""
    found = sorted(trusted(turns), key=lambda turn: turn.voice_to_voice_s or 0.0)
    return found[len(found) // 2] if found else None


def _words(stage: str) -> str:
    return stage.replace("_", " ")


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
