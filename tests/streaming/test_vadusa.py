"""Draft heads make the interleaved model faster, not different: tokens, state and chance are those of decoding without."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import tts
from configs.schema import ConfigError, InterleavedTtsConfig, TtsConfig
from tests.streaming.test_interleaved import CONFIG, PROMPT, TEXT, make, speak
from tts import checkpoint
from tts.base import CheckpointError, SynthesisError
from tts.interleaved.decode import DecodeOptions, InterleavedDecoder, Prompt
from tts.interleaved.drafts import Choice, Draft, Drafter, DraftHeads, HeadsConfig, accept, usual_nodes
from tts.interleaved.model import InterleavedLm
from tts.interleaved.sampling import RepetitionAware, greedy
from tts.interleaved.state import InterleavedState
from tts.interleaved.tree import DraftTree, grow, probability

ACCURACIES = (tuple(0.45 / (rank + 1) ** 1.5 for rank in range(10)),) * 6
SHAPE = HeadsConfig(dim=CONFIG.dim, num_speech_tokens=CONFIG.num_speech_tokens, num_heads=6, accuracies=ACCURACIES)
SAMPLING = RepetitionAware()


def drafter(model: InterleavedLm, **options: int) -> Drafter:
    """Untrained heads; among 27 speech tokens many of their ten candidates are right."""
    torch.manual_seed(1)
    heads = DraftHeads(SHAPE).eval().requires_grad_(False)
    heads.begin_with_(model.llm_decoder.weight)
    return Drafter(heads, **options)


def utterance(
    model: InterleavedLm,
    arrivals: Sequence[int],
    drafts: Drafter | None,
    prompt: Prompt | None = None,
    text: Sequence[int] = TEXT,
    **options: object,
) -> tuple[list[list[int]], InterleavedState]:
    """Blocks and last state of an utterance whose text arrives in portions of the given sizes (then all the rest)."""
    decoder = InterleavedDecoder(model, DecodeOptions(**options), prompt=prompt, drafter=drafts)
    blocks, rest = [], list(text)
    for size in [*arrivals, len(text)]:
        for token in rest[:size]:
            decoder.push(token)
        rest = rest[size:]
        if not rest:
            decoder.finish()
        blocks += speak(decoder)
    assert decoder.done
    return blocks, decoder.state


FORMS = {
    "sampled": {},
    "sampled, the second draw may repeat": {"choose": RepetitionAware(may_repeat=True)},
    "no repetition is looked for": {"choose": RepetitionAware(max_share=2.0, top_p=0.95)},
    "greedy": {"choose": greedy},
    "text-complete": {"interleaved": False},
    "short steps": {"max_step_tokens": 4},
    "length limits": {"min_ratio": 4, "max_ratio": 4.3},
    "as upstream": {"upstream_exact": True},
}


@pytest.mark.parametrize("prompt", [None, PROMPT], ids=["", "prompt"])
@pytest.mark.parametrize("form", FORMS)
def test_with_a_tolerance_of_one_nothing_changes(form: str, prompt: Prompt | None) -> None:
    """Token for token, over seeds and arrivals of the text, with fill and end of speech drawn early now and then."""
    exact = form == "as upstream"
    never = {"unused": -50.0, "eos": -50.0} if exact else {}
    accepted = 0
    for seed, (fill, nodes) in itertools.product(range(3), [(-50.0, 64), (1.0, 128)]):
        rng = np.random.default_rng((seed, nodes))
        model = make(fill=fill, **{"eos": 1.0, **never})
        arrivals = rng.integers(1, 7, 10)
        options = {"seed": seed, "max_ratio": 5, **FORMS[form]}
        with_heads = drafter(model, num_nodes=nodes, num_heads=int(rng.choice([4, 6])), avoid=int(rng.choice([0, 10])))
        if exact:
            mine, theirs = (unfinished(model, arrivals, drafts, prompt, **options) for drafts in (with_heads, None))
        else:
            mine, theirs = (utterance(model, arrivals, drafts, prompt, **options) for drafts in (with_heads, None))
        assert mine[0] == theirs[0]
        same_state(mine[1], theirs[1])
        assert mine[1].num_passes <= theirs[1].num_passes
        accepted += mine[1].num_accepted
    assert accepted > 15


def unfinished(
    model: InterleavedLm, arrivals: Sequence[int], drafts: Drafter | None, prompt: Prompt | None, **options: object
) -> tuple[list[list[int]], InterleavedState]:
    """Like `utterance`, but the text never ends: what comes behind it has no length limit upstream."""
    decoder = InterleavedDecoder(model, DecodeOptions(**options), prompt=prompt, drafter=drafts)
    blocks, rest = [], list(TEXT)
    for size in arrivals:
        for token in rest[:size]:
            decoder.push(token)
        rest = rest[size:]
        blocks += speak(decoder)
    return blocks, decoder.state


def same_state(mine: InterleavedState, theirs: InterleavedState) -> None:
    """What the rest of the utterance depends on: the cache, what is lined up, and where chance stands."""
    names = {field.name for field in dataclasses.fields(InterleavedState)}
    for name in names - {"keys", "values", "generator", "last_hidden", "num_passes", "num_drafted", "num_accepted"}:
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine.generator.bit_generator.state == theirs.generator.bit_generator.state
    for name in ("keys", "values"):
        kept, read = (getattr(state, name)[:, :, :, : state.end] for state in (mine, theirs))
        torch.testing.assert_close(kept, read, atol=1e-4, rtol=1e-4)


def test_upstream_s_second_reading_of_the_last_token_is_the_same() -> None:
    model = make(fill=50.0, unused=-50.0)
    chosen = [3, 4, 5, CONFIG.fill, 6, 7, CONFIG.eos]
    ends = []
    for drafts in (None, drafter(model)):
        replies = iter(chosen)
        options = {"choose": lambda *_, replies=replies: next(replies), "upstream_exact": True}
        ends.append(utterance(model, (), drafts, text=TEXT[:7], **options)[1])
    same_state(ends[1], ends[0])


def test_nothing_is_drafted_beyond_a_border(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    drafts, asked = drafter(model), []
    draft = drafts.draft

    def spy(hidden: torch.Tensor, depth: int, history: list[int]) -> Draft:
        asked.append(depth)
        return draft(hidden, depth, history)

    monkeypatch.setattr(drafts, "draft", spy)
    decoder = InterleavedDecoder(model, DecodeOptions(seed=3), drafter=drafts)
    for token in TEXT[:5]:
        decoder.push(token)
    spoken = []
    add = decoder._add
    monkeypatch.setattr(decoder, "_add", lambda token: (spoken.append(len(asked)), add(token)))
    decoder.step()
    # The first token comes without drafts; every pass may go on to the 15th, so its drafts to the one before.
    before = [sum(passes <= number for passes in spoken) for number in range(len(asked))]
    assert asked == [14 - count for count in before]
    assert asked[-1] >= 0
    assert decoder.state.end == 1 + 5 + 14  # the 15th is read with the next text


def test_any_arrival_of_the_text_gives_the_same_speech_at_any_tolerance() -> None:
    model = make(fill=1.0)
    for tolerance, prompt in itertools.product((2, 4), (None, PROMPT)):
        drafts = drafter(model, tolerance=tolerance)
        expected, end = utterance(model, (), drafts, prompt, seed=5, max_ratio=6)
        assert end.num_accepted > 5
        for arrivals in ([1] * 14, [2] * 7, [5, 1, 1, 3], [13]):
            assert utterance(model, arrivals, drafts, prompt, seed=5, max_ratio=6)[0] == expected


def test_more_tolerance_keeps_more_drafts() -> None:
    model = make(eos=-50.0)
    kept, different = [], 0
    for tolerance in (1, 2, 4):
        drafts = drafter(model, tolerance=tolerance)
        ends = [utterance(model, (), drafts, seed=seed, max_ratio=8) for seed in range(4)]
        kept.append(sum(end.num_accepted for _, end in ends) / sum(end.num_drafted for _, end in ends))
        different += ends[0][0] != utterance(model, (), None, seed=0, max_ratio=8)[0]
        assert all(sum(map(len, blocks)) == 8 * len(TEXT) for blocks, _ in ends)
    assert kept[0] < kept[1] < kept[2] < 6
    assert kept[2] > 1.3 * kept[0]
    assert different == 2


def test_heads_that_are_right_save_most_passes() -> None:
    """A model that counts up, with heads that know it: a group of 15 takes four passes (1 + 5 + 5 + 4)."""
    model = make()
    for parameter in model.llm.model.model.layers.parameters():
        parameter.zero_()
    model.llm_decoder.weight.zero_()
    model.speech_embedding.weight[:27, :27] = 10 * torch.eye(27)
    model.speech_embedding.weight[:27, 27:] = 0
    drafts = drafter(model, num_heads=4)
    for ahead, output in enumerate([model.llm_decoder, *(head.output for head in drafts.heads.heads)], start=1):
        output.weight.zero_()
        output.weight[:27, :27] = 10 * torch.eye(27).roll(ahead, 0)
    blocks, end = utterance(model, (), drafts, text=TEXT[:10], choose=greedy, min_ratio=3, max_ratio=3)
    assert [len(block) for block in blocks] == [15, 15, 1]  # the last part begins, and is cut
    for block in blocks:
        assert all((last + 1) % 27 == token for last, token in itertools.pairwise(block))
    assert end.num_passes == 2 * 4 + 1
    assert end.num_accepted == 2 * (4 + 4 + 3)


@torch.inference_mode()
def test_what_was_just_said_is_not_drafted() -> None:
    hidden, history = torch.randn(CONFIG.dim), [*range(20), CONFIG.fill]
    plain, avoiding = (drafter(make(), num_nodes=64, avoid=avoid).draft(hidden, 6, history) for avoid in (0, 10))
    assert set(plain.tokens) & set(range(11, 20))
    assert not set(avoiding.tokens) & set(range(11, 20))
    assert len(avoiding.tokens) == len(plain.tokens) == 63


@torch.inference_mode()
@pytest.mark.parametrize("nodes", [64, 128])
def test_a_tree_read_in_one_pass_equals_every_way_read_alone(nodes: int) -> None:
    model = make()
    tree = grow(ACCURACIES, nodes, 6)
    assert len(tree) == nodes
    rng = np.random.default_rng(0)
    before = torch.from_numpy(rng.integers(0, 72, (1, 23)))
    ids = torch.from_numpy(rng.integers(42, 69, nodes))
    state = InterleavedState.create(CONFIG, capacity=16)
    model(model.embed(before), state)
    hidden = model(model.embed(ids[None]), state, tree)[0]
    for node, path in enumerate(tree.paths):
        way = [tree.paths.index(path[:depth]) for depth in range(len(path) + 1)]
        whole = torch.cat((before, ids[None, way]), dim=1)
        torch.testing.assert_close(hidden[node], model(model.embed(whole))[0, -1], atol=1e-5, rtol=1e-5)

    node = max(range(nodes), key=lambda node: (len(tree.paths[node]), node))
    way = [tree.paths.index(tree.paths[node][:depth]) for depth in range(1, len(tree.paths[node]) + 1)]
    state.keep_(23, way)
    assert state.end == 23 + 1 + len(way)
    after = torch.from_numpy(rng.integers(0, 72, (1, 9)))
    whole = torch.cat((before, ids[None, [0, *way]], after), dim=1)
    expected = model(model.embed(whole))[0, -9:]
    torch.testing.assert_close(model(model.embed(after), state)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_greedy_tree_is_the_best_of_its_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = -np.sort(-rng.dirichlet(np.ones(4), 3) * rng.uniform(0.5, 1, (3, 1)), axis=1)
    every = [path for depth in (1, 2, 3) for path in itertools.product(range(4), repeat=depth)]
    by_worth = sorted((probability(path, table) for path in every), reverse=True)
    for size in (1, 2, 7, 20, 64):
        tree = grow(table.tolist(), size, 3)
        assert len(tree) == size
        assert tree.paths[0] == ()
        assert len(set(tree.paths)) == size
        assert tree.expected(table) == pytest.approx(sum(by_worth[: size - 1]))
        for node, path in enumerate(tree.paths[1:], start=1):
            assert tree.paths[tree.parents[node]] == path[:-1]
            assert tree.parents[node] < node
            assert node in tree.children[tree.parents[node]]


@pytest.mark.parametrize("nodes", [64, 96, 128])
def test_the_tree_is_as_deep_and_as_large_as_it_may_be(nodes: int) -> None:
    for depth in range(7):
        tree = grow(ACCURACIES, nodes, depth)
        assert len(tree) == min(nodes, 1 + sum(10**level for level in range(1, depth + 1)))
        assert tree.depths.max() <= depth
    assert grow([[0.5, 0.0, 0.0], [0.25, 0.1, 0.0]], nodes, 6).paths == ((), (0,), (0, 0), (0, 1))
    assert len(grow([[0.0] * 10], nodes, 6)) == 1


def test_where_the_tree_is_hidden() -> None:
    tree = DraftTree(((), (0,), (1,), (0, 0), (0, 1), (0, 1, 0)))
    assert tree.depths.tolist() == [0, 1, 1, 2, 2, 3]
    assert tree.ranks.tolist() == [0, 0, 1, 0, 1, 0]
    seen = [row.nonzero().flatten().tolist() for row in ~tree.hidden]
    assert seen == [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 1, 4, 5]]


def test_the_longest_way_wins_then_the_likeliest_then_the_first() -> None:
    tree = DraftTree(((), (0,), (1,), (2,), (0, 0), (1, 0), (2, 0), (1, 0, 0)))
    tokens = [10, 11, 12, 20, 21, 22, 31]
    scores = np.full(40, -5.0)

    def ways(choices: dict[int, list[int]], tolerance: int) -> tuple[list[int], int]:
        asked = []

        def choose(node: int, before: list[int], count: int) -> Choice:
            ids = choices.get(node, [0] * tolerance)[:count]
            asked.append((node, before))
            return Choice(ids, scores)

        kept = accept(Draft(tree, tokens), choose, tolerance)
        last = kept.nodes[-1] if kept.nodes else 0
        assert (last, [tokens[node - 1] for node in kept.nodes]) in asked
        return kept.nodes, kept.next_id

    every = {0: [7, 10, 11, 12], 1: [20, 8, 8, 8], 2: [6, 6, 6, 21], 3: [22, 5, 5, 5], 5: [9, 9, 9, 9]}
    assert ways({0: [7]}, 1) == ([], 7)
    assert ways({0: [12], 3: [5]}, 1) == ([3], 5)
    assert ways({**every, 5: [9, 9, 9, 31], 7: [4]}, 4) == ([2, 5, 7], 4)
    assert ways(every, 4) == ([1, 4], 0)
    scores[22] = -1.0
    assert ways(every, 4) == ([3, 6], 0)
    assert ways(every, 3) == ([1, 4], 0)


def test_clone_with_drafts_in_the_state() -> None:
    model = make(eos=-50.0)
    drafts = drafter(model)
    expected, _ = utterance(model, (), drafts, seed=2, max_step_tokens=4)
    decoder = InterleavedDecoder(model, DecodeOptions(seed=2, max_step_tokens=4), drafter=drafts)
    for token in TEXT:
        decoder.push(token)
    decoder.finish()
    blocks = [decoder.step().tokens.tolist() for _ in range(12)]
    copy = InterleavedDecoder(model, DecodeOptions(seed=2, max_step_tokens=4), decoder.state.clone(), drafter=drafts)
    speak(decoder)
    assert blocks + speak(copy) == expected


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Weights of a model and of six draft heads."""
    model = make(eos=-50.0)
    checkpoint.save(tmp_path / "model", model, CONFIG)
    checkpoint.save(tmp_path / "heads", drafter(model).heads, SHAPE)
    return tmp_path / "model", tmp_path / "heads"


def chosen(folders: tuple[Path, Path], **knobs: object) -> TtsConfig:
    model, heads = folders
    values = {"model": str(model), "heads": str(heads), **knobs}
    return TtsConfig(backend="interleaved", interleaved=InterleavedTtsConfig(**values), seed=4)


def test_the_assistant_runs_on_it(folders: tuple[Path, Path]) -> None:
    spoken = {}
    for heads, tolerance in (("none", 1), (str(folders[1]), 1), (str(folders[1]), 4)):
        made, _ = tts._text_to_token(chosen(folders, heads=heads, tolerance=tolerance, num_heads=6, nodes=96), "cpu")
        decoder = made.begin(1.0, None)
        for token in TEXT:
            decoder.push(token)
        decoder.finish()
        spoken[heads == "none", tolerance] = speak(decoder), decoder.state.num_passes
    assert spoken[True, 1][0] == spoken[False, 1][0]
    assert spoken[True, 1][1] > spoken[False, 1][1] > spoken[False, 4][1]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_heads": 7}, "num_heads 7: there are 6"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"nodes": -1}, "nodes -1"),
        ({"tolerance": 0}, "tolerance 0"),
    ],
)
def test_knobs_out_of_range_are_named(folders: tuple[Path, Path], knobs: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tts\.interleaved: [^\n]*{message}[^\n]*$"):
        tts._text_to_token(chosen(folders, **knobs), "cpu")


def test_foreign_heads_are_named(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heads = folders[1] / "config.json"
    values = json.loads(heads.read_text())
    for changes, message in (
        ({"window": 3}, "missing window"),
        ({"accuracies": ACCURACIES[:4]}, "accuracies of 4 draft heads, there are 6"),
        ({"accuracies": ["high"] * 6}, "lists of numbers"),
        ({"dim": 64}, "misshapen"),
    ):
        heads.write_text(json.dumps({**values, **changes}))
        with pytest.raises(CheckpointError, match=message):
            DraftHeads.load(folders[1])
    other = DraftHeads(dataclasses.replace(SHAPE, dim=64))
    with pytest.raises(CheckpointError, match="width 64"):
        InterleavedDecoder(make(), drafter=Drafter(other))
    with pytest.raises(SynthesisError, match="0 draft heads"):
        Drafter(DraftHeads(dataclasses.replace(SHAPE, accuracies=())))
    monkeypatch.setattr(tts, "ASSETS", tmp_path)
    with pytest.raises(CheckpointError, match=r"^[^\n]*`python launch.py train small vadusa`[^\n]*$"):
        tts._text_to_token(chosen(folders, heads="bundled"), "cpu")


def test_without_a_size_the_tree_is_one_that_pays_on_the_device():
    heads = DraftHeads(SHAPE).eval()
    assert Drafter(heads).num_nodes == usual_nodes(torch.device("cpu")) == 16
    assert usual_nodes(torch.device("cuda", 1)) == 64
    assert Drafter(heads, num_nodes=96).num_nodes == 96
