"""The text-to-token models that are timed: trained ones, or random weights that speak as long as real speech.

What a model costs does not depend on its weights but on how much it says and, with draft heads, on how many drafts are
kept. With random weights both are arranged: the temporal masked transformer draws durations evenly from 0 to 13, the
interleaved model is cut at as many speech tokens, and drafts are accepted as often as `ASSUMED` says.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import tts
from app.small.speed import TEXT
from configs.schema import BUNDLED, ConfigError, InterleavedTtsConfig, TtsConfig
from tts.interleaved import config as interleaved_config
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.decode import DecodeOptions, InterleavedDecoder
from tts.interleaved.drafts import Draft, Drafter, DraftHeads, HeadsConfig
from tts.interleaved.model import InterleavedLm
from tts.interleaved.sampling import RepetitionAware
from tts.tmt import config as tmt_config
from tts.tmt.config import TmtConfig
from tts.tmt.decode import DecodeOptions as TmtOptions
from tts.tmt.decode import TmtDecoder
from tts.tmt.model import Tmt
from tts.vocabulary import TextVocabulary

TMT, BASELINE, VADUSA = "TMT, prefix mask", "interleaved", "interleaved + VADUSA"
NUM_DURATIONS = 14  # durations that random weights draw from
SPEECH_PER_TEXT = (NUM_DURATIONS - 1) / 2  # speech tokens per text token; 6.4 on LibriTTS (SyncSpeech's figures)
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


@dataclass(frozen=True, kw_only=True)
class Field:
    """All who are timed in a run."""

    contestants: Sequence[Contestant]
    text: np.ndarray  # text token ids to cut texts from
    trained: bool


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


def entered(size: str, device: torch.device, config: TtsConfig, *, grid: bool) -> Field:
    """Who is timed. Raises ConfigError, CheckpointError."""
    folders = [weights(config.interleaved.model, "interleaved"), weights(vadusa_folder(config), "vadusa")]
    if size == "small" and all(folder.is_dir() for folder in folders):
        return trained(device, config, grid=grid)
    if grid:
        raise ConfigError(
            "--grid needs trained weights: `python launch.py train small interleaved vadusa`, and --size small."
        )
    if size == "small":
        tmt = tmt_config.small_config(text_vocab_size=TEXT_IDS, num_speech_tokens=SPEECH_IDS)
        model = interleaved_config.small_config(text_vocab_size=TEXT_IDS, num_speech_tokens=SPEECH_IDS)
        return untrained(tmt, model, device, config.interleaved)
    paper = TmtConfig()
    same = InterleavedConfig(
        text_vocab_size=paper.text_vocab_size,
        num_speech_tokens=paper.num_speech_tokens,
        dim=paper.dim,
        num_layers=paper.num_layers,
        num_heads=paper.num_heads,
        num_kv_heads=paper.num_heads,
        ff_dim=paper.ff_dim,
    )
    return untrained(paper, same, device, config.interleaved)


def weights(chosen: str, name: str) -> Path:
    """The folder that a knob names."""
    return tts.ASSETS / name if chosen == BUNDLED else Path(chosen)


def vadusa_folder(config: TtsConfig) -> str:
    """The draft heads of the configuration; those that `train small vadusa` makes where it has none."""
    return BUNDLED if config.interleaved.heads == "none" else config.interleaved.heads


def trained(device: torch.device, config: TtsConfig, *, grid: bool) -> Field:
    """The trained small models on real text."""
    tmt_folder = weights(config.tmt, "tmt")
    tmt = Tmt.load(tmt_folder).to(device)
    model = InterleavedLm.load(weights(config.interleaved.model, "interleaved")).to(device)
    heads = DraftHeads.load(weights(vadusa_folder(config), "vadusa")).to(device)
    text = [token for token, _ in TextVocabulary(tmt_folder / "tokenizer.json").encode(TEXT)]

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
        )

    options = TmtOptions(lookahead=config.lookahead, top_k=config.duration_top_k)
    contestants = [
        Contestant(name=BASELINE, model=model, begin=lambda seed: InterleavedDecoder(model, DecodeOptions(seed=seed))),
        drafted(VADUSA, config.interleaved),
        Contestant(name=TMT, model=tmt, begin=lambda seed: TmtDecoder(tmt, replace(options, seed=seed))),
    ]
    contestants += [drafted(name, chosen) for name, chosen in variants(config.interleaved, heads) if grid]
    return Field(contestants=contestants, text=np.array(text, np.int64), trained=True)


def variants(chosen: InterleavedTtsConfig, heads: DraftHeads) -> Iterator[tuple[str, InterleavedTtsConfig]]:
    """The paper's grid, as far as there are heads."""
    for count, nodes, tolerance in itertools.product(NUM_HEADS, NUM_NODES, TOLERANCES):
        if count <= heads.config.num_heads:
            name = f"VADUSA, {count} heads, {nodes} nodes, tolerance {tolerance}"
            yield name, replace(chosen, num_heads=count, nodes=nodes, tolerance=tolerance)


def untrained(
    tmt_shape: TmtConfig, shape: InterleavedConfig, device: torch.device, chosen: InterleavedTtsConfig
) -> Field:
    """Random weights of the given shapes on random text. Raises ConfigError."""
    if not 1 <= chosen.num_heads <= len(ASSUMED) or chosen.nodes < 1:
        raise ConfigError(f"tts.interleaved: num_heads lies between 1 and {len(ASSUMED)}, nodes is at least 1.")
    torch.manual_seed(0)
    tmt = Tmt(tmt_shape).eval().requires_grad_(False)
    tmt.duration_head.weight.zero_()  # all durations are as likely
    model = InterleavedLm(shape).eval().requires_grad_(False)
    model.llm_decoder.bias[shape.fill] = -1e4  # groups are spoken to their end
    heads = DraftHeads(
        HeadsConfig(
            dim=shape.dim, num_speech_tokens=shape.num_speech_tokens, num_heads=len(ASSUMED), accuracies=ASSUMED
        )
    )
    heads.eval().requires_grad_(False)
    drafter = Rehearsed(heads.to(device), chosen)
    tmt, model = tmt.to(device), model.to(device)
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
            ),
            Contestant(
                name=TMT, model=tmt, begin=lambda seed: TmtDecoder(tmt, TmtOptions(top_k=NUM_DURATIONS, seed=seed))
            ),
        ],
        text=np.random.default_rng(0).integers(0, shape.text_vocab_size, 4096),
        trained=False,
    )
