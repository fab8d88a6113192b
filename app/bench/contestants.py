"""The text-to-token models that are timed: trained ones, or random weights that speak as long as real speech.

What a model costs does not depend on its weights but on how much it says and, with draft heads, on how many drafts are
kept. With random weights both are arranged: the temporal masked transformer takes durations as they occur in speech, the
interleaved model is cut at as many speech tokens, and drafts are accepted as often as `ASSUMED` says. The paper's mask
costs the same whatever it was trained with: without weights of its own it takes those of the other mask, and is not judged.
All compute as they do in the assistant (`tts.precision`).
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

import tts
from app.small.speed import TEXT
from configs.schema import BUNDLED, ConfigError, InterleavedTtsConfig, TtsConfig
from tts.interleaved import config as interleaved_config
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.decode import DecodeOptions, InterleavedDecoder
from tts.interleaved.drafts import Draft, Drafter, DraftHeads, HeadsConfig, usual_nodes
from tts.interleaved.model import InterleavedLm
from tts.interleaved.sampling import RepetitionAware
from tts.precision import ready
from tts.tmt import config as tmt_config
from tts.tmt.config import TmtConfig
from tts.tmt.decode import DecodeOptions as TmtOptions
from tts.tmt.decode import TmtDecoder
from tts.tmt.model import Tmt
from tts.vocabulary import TextVocabulary

M = TypeVar("M", bound=nn.Module)
TMT, PAPER, BASELINE, VADUSA = "TMT, prefix mask", "TMT, paper mask", "interleaved", "interleaved + VADUSA"
# How many text tokens last 0, 1, 2, ... speech tokens: 220 held-out sentences in the bundled voice, each word and each mark a
# text token, as large vocabularies mostly have it; their last words, which end in silence, left out.
DURATIONS = np.array([7, 80, 162, 227, 243, 232, 198, 163, 148, 141, 128, 94, 45, 48, 21, 13, 14, 5, 2, 3])
SPEECH_PER_TEXT = float(np.average(np.arange(len(DURATIONS)), weights=DURATIONS))  # 6.3; 6.4 on LibriTTS (2502.11094)
# By head and rank: with 4 heads and 64 nodes about 1.9 drafts per pass, what VADUSA's paper has for a flat vocabulary
ASSUMED = tuple(tuple(first * 0.5**rank for rank in range(10)) for first in (0.44, 0.39, 0.35, 0.31, 0.28, 0.25))
TEXT_IDS, SPEECH_IDS = 2048, 729  # vocabularies of the small models
TOLERANCES, NUM_HEADS, NUM_NODES = (1, 2, 3, 4), (4, 6), (64, 96, 128)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One of the models."""

    name: str
    model: nn.Module  # every pass is one call of it
    begin: Callable[[int], TmtDecoder | InterleavedDecoder]  # an utterance, from its seed
    heads: nn.Module | None = None  # draft heads
    ahead: bool = False  # it is made for text that is ahead of the speech: all of it is handed over at once
    judged: bool = True  # what it says is its own: its weights were trained to be run as they are


@dataclass(frozen=True, kw_only=True)
class Field:
    """All who are timed in a run."""

    contestants: Sequence[Contestant]
    text: np.ndarray  # text token ids to cut texts from
    vocabulary: TextVocabulary | None  # of trained weights; None: they are random
    num_nodes: int  # of the tree of drafts

    @property
    def trained(self) -> bool:
        """Whether these are trained weights."""
        return self.vocabulary is not None


class Scripted(TmtDecoder):
    """Random weights: durations are drawn, for what it costs, and then taken from `DURATIONS`."""

    def __init__(self, model: Tmt, options: TmtOptions) -> None:
        super().__init__(model, options)
        self._script = np.random.default_rng(options.seed)

    def draw_duration(self, logits: torch.Tensor) -> tuple[int, bool]:
        """See `TmtDecoder.draw_duration`."""
        super().draw_duration(logits)
        return int(self._script.choice(len(DURATIONS), p=DURATIONS / DURATIONS.sum())), False


class Rehearsed(Drafter):
    """Draft heads with random weights: they are run, but what is accepted is drawn by their stated accuracies."""

    def __init__(self, heads: DraftHeads, chosen: InterleavedTtsConfig) -> None:
        super().__init__(heads, num_heads=chosen.num_heads, num_nodes=chosen.nodes)
        self._sample = RepetitionAware()
        self._generator = np.random.default_rng(0)
        self._way: dict[int, int] = {}  # by the number of speech ids before it, the draft to be chosen
        self._drafted: set[int] = set()

    def draft(self, hidden_D: torch.Tensor, max_depth: int, history: list[int]) -> Draft:
        """See `Drafter.draft`."""
        draft = super().draft(hidden_D, max_depth, history)
        accuracies = self.heads.config.accuracies
        self._drafted, self._way = set(draft.tokens), {}
        node = 0
        for head in accuracies[: int(draft.tree.depths.max())]:
            drawn, children = self._generator.random(), draft.tree.children[node]
            ends = np.cumsum([head[int(draft.tree.ranks[child])] for child in children])
            reached = int(np.searchsorted(ends, drawn, side="right"))
            if reached == len(children):
                break
            node = children[reached]
            self._way[len(history) + len(self._way)] = draft.tokens[node - 1]
        return draft

    def choose(self, scores: np.ndarray, history: Sequence[int], generator: np.random.Generator) -> int:
        """Draw as the model alone would, for what it costs, and then follow the plan."""
        chosen = self._sample(scores, history, generator)
        if len(history) in self._way:
            return self._way[len(history)]
        while chosen in self._drafted:
            chosen = (chosen + 1) % self.heads.config.num_speech_tokens
        return chosen


def entered(
    size: str, device: torch.device, config: TtsConfig, *, grid: Sequence[int] = (), paper: Path | None = None
) -> Field:
    """Who is timed; `grid`: sizes of trees for every tolerance and number of heads; `paper`: weights trained with the
    paper's mask. Raises ConfigError, CheckpointError.
    """
    nodes = config.interleaved.nodes or usual_nodes(device)  # what 0 means
    config = replace(config, interleaved=replace(config.interleaved, nodes=nodes))
    folders = [weights(config.interleaved.model, "interleaved"), weights(vadusa_folder(config), "vadusa")]
    if size == "small" and all(folder.is_dir() for folder in folders):
        return trained(device, config, grid=grid, paper=paper)
    if grid or paper:
        raise ConfigError(
            f"--{'grid' if grid else 'paper'} needs trained weights of all models: "
            "`python launch.py train small interleaved vadusa`, and --size small."
        )
    if size == "small":
        tmt = tmt_config.small_config(text_vocab_size=TEXT_IDS, num_speech_tokens=SPEECH_IDS)
        model = interleaved_config.small_config(text_vocab_size=TEXT_IDS, num_speech_tokens=SPEECH_IDS)
        return untrained(tmt, model, device, config)
    full = TmtConfig(max_lookahead=4, text_per_step=2)
    same = InterleavedConfig(
        text_vocab_size=full.text_vocab_size,
        num_speech_tokens=full.num_speech_tokens,
        dim=full.dim,
        num_layers=full.num_layers,
        num_heads=full.num_heads,
        num_kv_heads=full.num_heads,
        ff_dim=full.ff_dim,
    )
    return untrained(full, same, device, config)


def weights(chosen: str, name: str) -> Path:
    """The folder that a knob names."""
    return tts.ASSETS / name if chosen == BUNDLED else Path(chosen)


def vadusa_folder(config: TtsConfig) -> str:
    """The draft heads of the configuration; those that `train small vadusa` makes where it has none."""
    return BUNDLED if config.interleaved.heads == "none" else config.interleaved.heads


def several_at_once(
    tmt: Tmt, options: TmtOptions, decoder: Callable[[Tmt, TmtOptions], TmtDecoder] = TmtDecoder
) -> list[Contestant]:
    """The model where it speaks several text tokens in a step: two, and as many as it has learnt."""
    counts = sorted({min(2, tmt.config.text_per_step), tmt.config.text_per_step} - {1})

    def contestant(count: int) -> Contestant:
        fast = replace(options, text_per_step=count)
        return Contestant(
            name=f"{TMT}, {count} text tokens per step",
            model=tmt,
            begin=lambda seed: decoder(tmt, replace(fast, seed=seed)),
            ahead=True,
        )

    return [contestant(count) for count in counts]


def as_published(tmt: Tmt) -> Tmt:
    """The same weights under the paper's mask: each step reads all text and all speech so far, and keeps nothing."""
    paper = copy.copy(tmt)  # the weights are shared
    paper.config = replace(tmt.config, mask="paper", window=0)
    return paper


def published(folder: Path, other: TmtConfig) -> Tmt:
    """Weights trained with the paper's mask. Raises ConfigError, CheckpointError."""
    model = Tmt.load(folder)
    if model.config.mask != "paper":
        raise ConfigError(f"--paper {folder}: trained with the mask {model.config.mask}; set tmt_mask: paper there.")
    for name in ("vocabulary_id", "num_speech_tokens"):
        if getattr(model.config, name) != getattr(other, name):
            raise ConfigError(f"--paper {folder}: its {name} is not that of the other model; train both on one corpus.")
    return model


def trained(device: torch.device, config: TtsConfig, *, grid: Sequence[int], paper: Path | None = None) -> Field:
    """The trained small models on real text. Raises ConfigError, CheckpointError."""
    tmt_folder = weights(config.tmt, "tmt")
    how = config.dtype, str(device)
    tmt = ready(Tmt.load(tmt_folder), *how)
    model = ready(InterleavedLm.load(weights(config.interleaved.model, "interleaved")), *how)
    heads = ready(DraftHeads.load(weights(vadusa_folder(config), "vadusa")), *how)
    vocabulary = TextVocabulary(tmt_folder / "tokenizer.json")
    text = [token for token, _ in vocabulary.encode(TEXT)]
    plain = ready(published(paper, tmt.config), *how) if paper else as_published(tmt)

    record(tmt, model, [config.interleaved.nodes, *grid])

    def drafted(name: str, chosen: InterleavedTtsConfig) -> Contestant:
        drafter = Drafter(
            heads,
            num_heads=chosen.num_heads,
            num_nodes=chosen.nodes,
            tolerance=chosen.tolerance,
            avoid=RepetitionAware().window,
        )
        return Contestant(
            name=name,
            model=model,
            begin=lambda seed: InterleavedDecoder(model, DecodeOptions(seed=seed), drafter=drafter),
            heads=heads,
        )

    options = TmtOptions(lookahead=config.lookahead, top_k=config.duration_top_k)
    contestants = [
        Contestant(name=BASELINE, model=model, begin=lambda seed: InterleavedDecoder(model, DecodeOptions(seed=seed))),
        drafted(VADUSA, config.interleaved),
        Contestant(
            name=PAPER,
            model=plain,
            begin=lambda seed: TmtDecoder(plain, replace(options, seed=seed)),
            judged=paper is not None,
        ),
        Contestant(name=TMT, model=tmt, begin=lambda seed: TmtDecoder(tmt, replace(options, seed=seed))),
        *several_at_once(tmt, options),
    ]
    contestants += [drafted(name, chosen) for name, chosen in variants(config.interleaved, heads, grid)]
    return Field(
        contestants=contestants,
        text=np.array(text, np.int64),
        vocabulary=vocabulary,
        num_nodes=config.interleaved.nodes,
    )


def record(tmt: Tmt, model: InterleavedLm, nodes: Sequence[int]) -> None:
    """CUDA graphs of both models' steps, and of the baseline's passes over trees, where there is a GPU."""
    if tmt.embedding.weight.is_cuda:
        tmt.use_graphs()
        model.use_graphs(num_positions=(1, *nodes))


def variants(
    chosen: InterleavedTtsConfig, heads: DraftHeads, grid: Sequence[int]
) -> Iterator[tuple[str, InterleavedTtsConfig]]:
    """The paper's grid, as far as there are heads."""
    for count, nodes, tolerance in itertools.product(NUM_HEADS, grid, TOLERANCES):
        if count <= heads.config.num_heads:
            name = f"VADUSA, {count} heads, {nodes} nodes, tolerance {tolerance}"
            yield name, replace(chosen, num_heads=count, nodes=nodes, tolerance=tolerance)


def as_stored(model: M) -> M:
    """A model of random weights, which are then numbers that fit float16, as those of files do; in place."""
    for weight in model.requires_grad_(False).eval().parameters():
        weight.copy_(weight.half())
    return model


def untrained(tmt_shape: TmtConfig, shape: InterleavedConfig, device: torch.device, config: TtsConfig) -> Field:
    """Random weights of the given shapes on random text. Raises ConfigError."""
    chosen = config.interleaved
    if not 1 <= chosen.num_heads <= len(ASSUMED):
        raise ConfigError(f"tts.interleaved: num_heads lies between 1 and {len(ASSUMED)}.")
    torch.manual_seed(0)
    tmt = Tmt(tmt_shape)
    model = InterleavedLm(shape).requires_grad_(False)
    model.llm_decoder.bias[shape.fill] = -1e4  # groups are spoken to their end
    heads = DraftHeads(
        HeadsConfig(
            dim=shape.dim, num_speech_tokens=shape.num_speech_tokens, num_heads=len(ASSUMED), accuracies=ASSUMED
        )
    )
    how = config.dtype, str(device)
    tmt, model, heads = ready(as_stored(tmt), *how), ready(as_stored(model), *how), ready(as_stored(heads), *how)
    drafter = Rehearsed(heads, chosen)
    paper, options = as_published(tmt), TmtOptions(lookahead=config.lookahead, top_k=config.duration_top_k)
    record(tmt, model, [chosen.nodes])
    length = DecodeOptions(min_ratio=SPEECH_PER_TEXT, max_ratio=SPEECH_PER_TEXT)
    planned = replace(length, choose=drafter.choose)
    return Field(
        contestants=[
            Contestant(
                name=BASELINE, model=model, begin=lambda seed: InterleavedDecoder(model, replace(length, seed=seed))
            ),
            Contestant(
                name=VADUSA,
                model=model,
                begin=lambda seed: InterleavedDecoder(model, replace(planned, seed=seed), drafter=drafter),
                heads=heads,
            ),
            Contestant(name=PAPER, model=paper, begin=lambda seed: Scripted(paper, replace(options, seed=seed))),
            Contestant(name=TMT, model=tmt, begin=lambda seed: Scripted(tmt, replace(options, seed=seed))),
            *several_at_once(tmt, options, Scripted),
        ],
        text=np.random.default_rng(0).integers(0, shape.text_vocab_size, 4096),
        vocabulary=None,
        num_nodes=drafter.num_nodes,
    )
