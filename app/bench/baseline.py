"""What became slower than in an earlier run, beyond noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from app.bench.metrics import STAGES, estimate, p50
from configs.schema import ConfigError

LEAST_S = 0.010  # smaller differences matter to nobody
FEWEST = 5  # turns below which chance says too much


def read(path: Path) -> dict[str, Any]:
    """An earlier report.json. Raises ConfigError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for variant in values["variants"].values():
            for turn in variant["turns"]:
                _ = turn["key"], turn["voice_to_voice_s"]
    except FileNotFoundError:
        raise ConfigError(
            f"--baseline {path}: there is no such file; give the report.json of an earlier run."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"--baseline {path}: not a report.json of `bench latency`.") from None
    return dict(values)


def slower(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """One line for each figure whose change over the same turns has a 95 % interval above zero.

    Assistants are matched by their names, or the only one of each run.
    """
    lines: list[str] = []
    notes: list[str] = []
    earlier = before["variants"]
    if now["about"]["machine"] != before["about"]["machine"]:
        notes.append(f"the baseline was measured on another machine: {before['about']['machine']}")
    for name, variant in now["variants"].items():
        old = earlier.get(name) or (next(iter(earlier.values())) if len(earlier) == len(now["variants"]) == 1 else None)
        if old is None:
            notes.append(f"{name}: not in the baseline")
            continue
        if now["about"]["simulated"] != before["about"]["simulated"]:
            notes.append(f"{name}: the simulated stages differ from the baseline's; the comparison says little")
        for what, left, right in _series(old["turns"], variant["turns"]):
            change = estimate([b - a for a, b in zip(left, right, strict=True)], p50)
            if change and change.count >= FEWEST and change.low > 0 and change.value >= LEAST_S:
                lines.append(
                    f"{name}: {what} slower by {1000 * change.value:.0f} ms "
                    f"({1000 * change.low:.0f}-{1000 * change.high:.0f}, {change.count} turns; "
                    f"median {1000 * np.median(left):.0f} -> {1000 * np.median(right):.0f} ms)"
                )
    return [*notes, *(lines or ["nothing became slower beyond noise"])]


def _series(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[tuple[str, list[float], list[float]]]:
    """(what, before, now) over the turns that both runs have."""
    counted = {t["key"]: t for t in old if t["voice_to_voice_s"] is not None and not t["cold"]}
    pairs = [
        (counted[t["key"]], t)
        for t in new
        if t["key"] in counted and t["voice_to_voice_s"] is not None and not t["cold"]
    ]
    found = [("voice-to-voice", [a["voice_to_voice_s"] for a, _ in pairs], [b["voice_to_voice_s"] for _, b in pairs])]
    staged = [(a["stages"], b["stages"]) for a, b in pairs if a.get("stages") and b.get("stages")]
    for stage in STAGES:
        both = [(a[stage], b[stage]) for a, b in staged if stage in a and stage in b]
        found.append((stage.replace("_", " "), [a for a, _ in both], [b for _, b in both]))
    return [series for series in found if series[1]]
