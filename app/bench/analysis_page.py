"""report.json of `bench analysis` -> report.md."""

from typing import Any

from app.bench.spoken_settings import GROUPS, REFERENCE


def page(values: dict[str, Any]) -> str:
    """The report for people, as far as there are figures."""
    run, spoken = values["about"], values["spoken"]
    lines = [
        "# SyncSpeech's analysis, repeated at small scale",
        "",
        f"{run['machine']}, {run['threads']} thread(s); {run['weights']}. {run['sentences']} held-out sentences "
        f"({run['words']} words) of the synthetic corpus in every row; word error rates by {run['judge']}, with 95 % bootstrap "
        f"intervals over sentences. The difference is to {REFERENCE.name}, sentence by sentence. Length: of the speech, "
        "against the recordings.",
    ]
    others = [name for name in spoken if name not in {s.name for group in GROUPS.values() for s in group}]
    for title, names in (
        ("For comparison", others),
        *((title, [setting.name for setting in group]) for title, group in GROUPS.items()),
    ):
        lines += ["", f"## {title}", "", "| | word error rate | difference | length |", "|---|---|---|---|"]
        lines += [_row(name, spoken[name]) for name in names]
    lines += [
        "",
        "## Losses",
        "",
        f"All steps of inference of {run['sentences_of_losses']} held-out sentences behind true speech, without and with faults "
        "in it: cross entropies in nats, duration error (of the likeliest) in speech tokens of 40 ms.",
        "",
        *_losses(values["losses"], "setting"),
    ]
    if "ablations" in values:
        lines += ["", "## Ablations", "", *_ablations(values)]
    return "\n".join([*lines, ""])


def _row(name: str, found: dict[str, Any]) -> str:
    more, low, high = (100 * value for value in found["more_than_reference"])
    apart = "" if name == REFERENCE.name else f"{more:+.1f} ({low:+.1f} to {high:+.1f})"
    rate = f"{100 * found['rate']:.1f} % ({100 * found['low']:.1f}-{100 * found['high']:.1f})"
    return f"| {name} | {rate} | {apart} | {found['length']:.2f} |"


def _losses(found: dict[str, dict[str, Any]], title: str) -> list[str]:
    head = [f"| {title} | token cross entropy | tokens right | duration cross entropy | duration error |"]
    rows = [
        f"| {name} | {one['token_ce']:.3f} | {100 * one['token_accuracy']:.1f} % | {one['duration_ce']:.3f} "
        f"| {one['duration_error']:.2f} |"
        for name, one in found.items()
    ]
    return [*head, "|---|---|---|---|---|", *rows]


def _ablations(values: dict[str, Any]) -> list[str]:
    found = values["ablations"]
    steps = next(iter(found.values()))["steps"]
    first = [
        f"Small models trained from nothing for {steps:.0f} steps on the same batches, all alike but for one thing "
        "(`configs/train/analysis.yaml`); losses as above at look-ahead 1.",
        "",
        *_losses(found, "model"),
    ]
    rows = [
        f"| {name} | {one['cpu_minutes']:.1f} | {100 * one['words']['rate']:.0f} % "
        f"({100 * one['words']['low']:.0f}-{100 * one['words']['high']:.0f}) |"
        for name, one in found.items()
    ]
    return [
        *first,
        "",
        "| model | CPU minutes of training | word error rate, greedy durations |",
        "|---|---|---|",
        *rows,
    ]
