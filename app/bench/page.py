"""report.json -> report.md and one self-contained report.html with its plots inside."""

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.bench import plots
from app.bench.metrics import STAGES, trusted
from app.bench.summary import Results
from configs.schema import AppConfig

Table = list[list[str]]
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.25rem .6rem;text-align:left}"
    ".simulated{background:#b00020;color:#fff;padding:.6rem 1rem;font-weight:600}svg{max-width:100%;height:auto}"
    ".wrong{color:#b00020}"
)


def simulated_line(values: dict[str, Any]) -> str:
    """What of a run was not real; empty when everything was."""
    stages = values["about"]["simulated"]
    if not stages:
        return ""
    told = "; ".join(
        f"{stage}: {', '.join(f'{k}={v:g}' for k, v in delays.items())}" for stage, delays in stages.items()
    )
    return f"SIMULATED, not measured on this machine: {told}"


def facts(values: dict[str, Any]) -> list[str]:
    """What the figures were measured on, one line each."""
    about = values["about"]
    lines = [
        f"Machine: {about['machine']}; Python {about['python']}; "
        + ", ".join(f"{name} {number}" for name, number in about["packages"].items()),
        f"Pace: {about['pace']}; {about['sessions']} conversation(s) at a time; {about['cases']} cases ({about['set']}), "
        f"{about['repeats']} time(s) each; peak memory {about['peak_memory_gib']:.2f} GiB"
        + (f", GPU {about['gpu_peak_memory_gib']:.2f} GiB" if about.get("gpu_peak_memory_gib") else "")
        + (
            f"; the machine's host took {100 * about['host_took']:.0f} % of the cores' work time"
            if "host_took" in about
            else ""
        ),
    ]
    for name, variant in values["variants"].items():
        used = ", ".join(f"{key} {value}" for key, value in variant["weights"].items())
        lines.append(f"{name}: settings {', '.join(changed(variant['config'])) or 'as by default'}; weights {used}")
    lines.append(f"Counted: {about['counted']}")
    lines.append("Intervals: 95 % bootstrap over turns.")
    return lines


def changed(config: dict[str, Any], default: dict[str, Any] | None = None, prefix: str = "") -> list[str]:
    """The settings of a configuration that are not the default ones, as `section.key=value`."""
    found = []
    for key, usual in (dataclasses.asdict(AppConfig()) if default is None else default).items():
        if isinstance(usual, dict):
            found += changed(config[key], usual, f"{prefix}{key}.")
        elif config[key] != usual:
            found.append(f"{prefix}{key}={config[key]}")
    return found


def figures_table(values: dict[str, Any]) -> Table:
    """One row per figure, one column per assistant."""
    variants = values["variants"]
    titles: dict[str, str] = {}
    for variant in variants.values():
        titles.update({key: figure["title"] for key, figure in variant["figures"].items()})
    rows = [
        [title, *(v["figures"][key]["text"] if key in v["figures"] else "" for v in variants.values())]
        for key, title in titles.items()
    ]
    return [["figure", *variants], *rows]


def stages_table(values: dict[str, Any]) -> Table:
    """Median and 90th percentile of each stage."""
    variants = values["variants"]
    head = ["stage", *(f"{name}: median / P90, ms" for name in variants)]
    rows = []
    for stage in STAGES:
        cells = []
        for variant in variants.values():
            times = variant["stages"].get(stage)
            cells.append(f"{1000 * times['p50']:.0f} / {1000 * times['p90']:.0f}" if times else "")
        rows.append([stage.replace("_", " "), *cells])
    return [head, *rows]


def comparison_lines(values: dict[str, Any]) -> list[str]:
    """One line per pair of assistants and figure."""
    return [
        f"{c['second']} takes {c['value']:.2f} times ({c['low']:.2f}-{c['high']:.2f}) as long as {c['first']}: "
        f"{c['title']}, {c['count']} pairs of turns"
        for c in values["comparisons"]
    ]


def problem_lines(values: dict[str, Any]) -> list[str]:
    """Turns that failed, and turns whose trace and recording disagree."""
    found = []
    for name, variant in values["variants"].items():
        for turn in variant["turns"]:
            where = f"{name}, {turn['case']}, turn {turn['turn']}"
            if turn["disagreement"]:
                found.append(f"trace and recording disagree: {where}: {turn['disagreement']}")
            if turn["error"]:
                found.append(f"failed: {where}: {turn['error']}")
        for talk in variant["conversations"]:
            if talk["unknown_sounds"]:
                found.append(
                    f"trace and recording disagree: {name}, {talk['case']}: {talk['unknown_sounds']} sounds of the "
                    "assistant that no trace knows"
                )
    return found


def markdown(values: dict[str, Any]) -> str:
    """The report for people and for the README."""
    lines = ["# Response latency", ""]
    if simulated_line(values):
        lines += [f"> **{simulated_line(values)}**", ""]
    lines += [f"- {fact}" for fact in facts(values)]
    for title, table in (("Figures", figures_table(values)), ("Where the time goes", stages_table(values))):
        lines += ["", f"## {title}", "", *_markdown_table(table)]
    for title, told in _sections(values):
        lines += ["", f"## {title}", "", *(f"- {line}" for line in told)]
    return "\n".join(lines) + "\n"


def page(values: dict[str, Any], results: Sequence[Results], folder: Path) -> str:
    """The report as one page that needs nothing else."""
    simulated = simulated_line(values)
    parts = ["<h1>Response latency</h1>"]
    if simulated:
        parts.append(f'<p class="simulated">{html.escape(simulated)}</p>')
    parts.append("<ul>" + "".join(f"<li>{html.escape(fact)}</li>" for fact in facts(values)) + "</ul>")
    parts += ["<h2>Figures</h2>", _html_table(figures_table(values))]
    parts += ["<h2>Where the time goes</h2>", _html_table(stages_table(values))]
    for title, told in _sections(values):
        kind = ' class="wrong"' if title == "Problems" else ""
        parts.append(
            f"<h2>{title}</h2><ul{kind}>" + "".join(f"<li>{html.escape(line)}</li>" for line in told) + "</ul>"
        )
    for title, picture in _pictures(values, results, folder):
        parts += [f"<h2>{html.escape(title)}</h2>", picture]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Response latency</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _sections(values: dict[str, Any]) -> list[tuple[str, list[str]]]:
    found = [
        ("Comparison", comparison_lines(values)),
        ("Against the baseline", values.get("baseline", [])),
        ("Simulated clock against real pace", [values["check"]["text"]] if values.get("check") else []),
        ("Problems", problem_lines(values)),
    ]
    return [(title, told) for title, told in found if told]


def _pictures(values: dict[str, Any], results: Sequence[Results], folder: Path) -> list[tuple[str, str]]:
    mark = bool(values["about"]["simulated"])
    if not any(trusted(found.turns) for found in results):
        return []
    tall = 2.2 + 0.6 * len(results)
    found = [
        ("Waterfall", plots.figure(plots.waterfall(results), height=tall, simulated=mark)),
        ("Distribution of voice-to-voice", plots.figure(plots.distribution(results), simulated=mark)),
    ]
    for one in results:
        turn = plots.typical(one.turns)
        if turn is not None:
            files = one.files[turn.key]
            drawn = plots.timeline(folder / files["recording"], turn, files)
            found.append((f"A typical turn ({one.variant.name})", plots.figure(drawn, simulated=mark)))
    found.append(("Cost over the length of a reply", plots.figure(plots.cost(results), simulated=mark)))
    for compared in values["comparisons"]:
        if compared["of"] == "voice_to_voice_s":
            drawn = plots.comparison(compared["pairs"], compared["first"], compared["second"])
            title = f"Voice-to-voice, turn by turn: {compared['second']} against {compared['first']}"
            found.append((title, plots.figure(drawn, height=4.0, simulated=mark)))
    return found


def _markdown_table(table: Table) -> list[str]:
    safe = [[cell.replace("|", "\\|") for cell in row] for row in table]
    head, *rows = [f"| {' | '.join(row)} |" for row in safe]
    return [head, f"|{'---|' * len(table[0])}", *rows]


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table[0])
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table[1:])
    return f"<table><tr>{head}</tr>{rows}</table>"
