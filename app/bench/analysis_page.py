"""report.json of `bench analysis` -> report.md."""

from typing import Any

from app.bench.ablations import ABLATIONS, FULL
from app.bench.spoken_settings import GROUPS, REFERENCE

FEW = 20  # sentences
UNDERSTOOD = 0.5  # word error rate from which nothing of importance is understood
CLAIMS = {
    "without stage 1": "The paper finds that stage 1 helps",
    "sequential stage 2": "One pass over all steps of inference should teach more than one step of them",
    "causal within a block": "The paper finds that a step's tokens should see each other both ways",
}  # each says that the model named does worse


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
    lines += ["", "## What holds here", "", *(f"- {finding}" for finding in findings(values))]
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
    told = _ablations(values) if "ablations" in values else ["Not trained in this run (`--steps 0`)."]
    lines += ["", "## Ablations", "", *told]
    return "\n".join([*lines, ""])


def findings(values: dict[str, Any]) -> list[str]:
    """What the figures say of the paper's claims, in plain sentences."""
    spoken, losses = values["spoken"], values["losses"]
    found = [
        _apart(spoken, values["about"]["sentences"]),
        f"Durations: {_against(spoken, 'true durations')} The paper finds drawn and greedy durations understood better than "
        "true ones.",
        _stretched(spoken),
        _ahead(losses),
        _faulty(losses),
    ]
    return [*found, *(_lesioned(values["ablations"]) if "ablations" in values else [])]


def _apart(spoken: dict[str, Any], count: int) -> str:
    compared = dict.fromkeys(setting.name for group in GROUPS.values() for setting in group if setting != REFERENCE)
    names = ", ".join(name for name in compared if _is_clear(spoken[name])) or "none"
    return (
        f"Word errors: settings that differ from {REFERENCE.name} beyond chance (95 % interval without 0): {names}. What the "
        f"others change is smaller than {count} sentences can tell. One in twenty of {len(compared)} intervals lies beyond 0 by "
        "chance alone."
        + (" With so few the intervals themselves are rough: trust the losses below." if count < FEW else "")
    )


def _is_clear(found: dict[str, Any]) -> bool:
    _, low, high = found["more_than_reference"]
    return bool(low > 0 or high < 0)


def _against(spoken: dict[str, Any], name: str) -> str:
    more = 100 * spoken[name]["more_than_reference"][0]
    verdict = "beyond chance" if _is_clear(spoken[name]) else "within chance"
    return (
        f"{name} have {abs(more):.1f} points {'more' if more > 0 else 'fewer'} word errors than drawn ones, {verdict}."
    )


def _stretched(spoken: dict[str, Any]) -> str:
    length = spoken["factor 0.8"]["length"] / spoken[REFERENCE.name]["length"]
    verdict = "holds" if length < 0.76 else "does not hold"
    return (
        f"Duration factor: at 0.8 speech is {length:.2f} times as long. The paper's runaway (0.68, because the model goes on "
        f"at the rate that it hears itself speak at) {verdict} here."
    )


def _ahead(losses: dict[str, dict[str, float]]) -> str:
    names = [setting.name for setting in GROUPS["Look-ahead"]]
    one, *more = (losses[name] for name in names)
    best = min(more, key=lambda loss: loss["duration_ce"])
    return (
        f"Look-ahead: more text changes the duration cross entropy from {one['duration_ce']:.3f} to {best['duration_ce']:.3f} "
        f"and the duration error from {one['duration_error']:.2f} to {best['duration_error']:.2f} speech tokens at best, most "
        f"of it with the second token ({more[0]['duration_ce']:.3f}, {more[0]['duration_error']:.2f}); the token cross entropy "
        f"moves by {max(abs(loss['token_ce'] - one['token_ce']) for loss in more):.3f}. As in the paper it is the rhythm "
        "that gains."
    )


def _faulty(losses: dict[str, dict[str, float]]) -> str:
    clean = losses[REFERENCE.name]["token_ce"]
    random, masked = (losses[f"20% {fault}"]["token_ce"] - clean for fault in ("random", "masked"))
    return (
        f"Faults in the history: with 20 % of it replaced the token cross entropy rises by {random:.3f} nats (random) and "
        f"{masked:.3f} (masked), of {clean:.3f}: little of what it predicts hangs on what exactly was said before."
    )


def _lesioned(found: dict[str, dict[str, Any]]) -> list[str]:
    against = {ablation.name: ablation.against for ablation in ABLATIONS}
    told = []
    for name, one in list(found.items())[1:]:
        other = found[against[name]]
        told.append(
            f"{name}: token cross entropy {one['token_ce'] - other['token_ce']:+.3f} against {against[name]}, duration error "
            f"{one['duration_error'] - other['duration_error']:+.2f} speech tokens, word errors {_more(one['more_words'])} "
            f"points, after {one['steps']:.0f} steps."
            + (f" {CLAIMS[name]}: {_verdict(one, other)}." if name in CLAIMS else "")
        )
    lowest = min(one["words"]["rate"] for one in found.values())
    if lowest > UNDERSTOOD:
        told.append(
            f"None of these models is understood (word error rates from {100 * lowest:.0f} % on): their losses alone tell "
            "them apart."
        )
    return told


def _verdict(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Whether a model does worse than another, by its losses on speech tokens and by how it is understood."""
    _, low, high = one["more_words"]
    losses = "holds" if one["token_ce"] > other["token_ce"] else "does not hold"
    words = "holds" if low > 0 else "does not hold" if high < 0 else ""
    if words == losses:
        return f"{losses} here, by losses and by words"
    return (
        f"{losses} here by the losses; by the words it {words}"
        if words
        else f"{losses} here by the losses; words are within chance"
    )


def _more(found: tuple[float, float, float]) -> str:
    more, low, high = (100 * value for value in found)
    return f"{more:+.1f} ({low:+.1f} to {high:+.1f})"


def _row(name: str, found: dict[str, Any]) -> str:
    apart = "" if name == REFERENCE.name else _more(found["more_than_reference"])
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
        f"Small models trained from nothing for {steps:.0f} steps on the same batches, each but for one thing like the "
        "full recipe, and the paper's mask like sequential stage 2, since it has no parallel one "
        "(`configs/train/analysis.yaml`); losses as above at look-ahead 1.",
        "",
        *_losses(found, "model"),
    ]
    rows = []
    for name, one in found.items():
        rate, low, high = (100 * one["words"][key] for key in ("rate", "low", "high"))
        apart = "" if name == FULL.name else _more(one["more_words"])
        rows.append(f"| {name} | {one['cpu_minutes']:.1f} | {rate:.0f} % ({low:.0f}-{high:.0f}) | {apart} |")
    return [
        *first,
        "",
        "| model | CPU minutes of training | word error rate, greedy durations | difference to what it is compared with |",
        "|---|---|---|---|",
        *rows,
    ]
