"""The search for words among the recogniser's pieces."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.base import RecognizerError
from asr.units import join
from asr.word_search import FILE, SearchConfig, TrigramModel, WordSearch, load_search

PIECES = ["<blank>", "<s>", "</s>", "a@@", "a", "b@@", "b", "<unk>"]
PROBABILITIES = {"a": -1.0, "b": -2.0, "ab": -1.5, "aab": -3.0, "</s>": -0.5}


class FewWords:
    """Four words; one after itself is unlikely."""

    words = frozenset(PROBABILITIES) - {"</s>"}

    def log_probability(self, word, before):
        return PROBABILITIES[word] - (2.0 if word == before[-1] else 0.0)


def total(search, scores, chosen):
    """The score of a whole sequence of pieces, None where one is skipped, from the definition."""
    config, model = search._config, search._model
    value, ids = 0.0, []
    for row, i in zip(scores, chosen, strict=True):
        value += config.skipped if i is None else float(row[i] - search._prior[i])
        ids += [] if i is None else [i]
    text = "".join(PIECES[i].removesuffix("@@") + ("" if PIECES[i].endswith("@@") else " ") for i in ids)
    whole, _, begun = text.rpartition(" ")
    before = ("<s>",)
    for word in whole.split():
        known = word in model.words
        value += config.weight * (model.log_probability(word, before) if known else config.unknown_word)
        value += config.word_bonus
        before = (*before, word)[-2:]
    value += config.weight * (config.unknown_word if begun else 0.0)
    return value + config.weight * model.log_probability("</s>", before)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.floats(-4, 0), min_size=8, max_size=8), min_size=1, max_size=4), st.booleans())
def test_a_wide_beam_finds_the_best_of_all_sequences(rows, with_counts):
    scores = torch.tensor(rows).log_softmax(1)
    config = SearchConfig(beam=1000, candidates=8, skipped=-2.0, unknown_word=-6.0)
    search = WordSearch(PIECES, FewWords(), config, [5, 0, 0, 100, 7, 30, 900, 0] if with_counts else None)
    score, ids = search.best(scores)
    best = max(total(search, scores, chosen) for chosen in itertools.product([None, 3, 4, 5, 6], repeat=len(rows)))
    assert score == pytest.approx(best, abs=1e-4)
    assert not {0, 1, 2, 7}.intersection(ids)


def test_pieces_that_make_no_word_give_way_to_likely_ones_that_do():
    scores = torch.full((2, 8), -9.0)
    scores[0, 5], scores[0, 3] = -0.5, -1.0  # b@@ is likelier than a@@
    scores[1, 6] = -0.1
    assert join(PIECES[i] for i in WordSearch(PIECES, FewWords()).best(scores)[1]) == "ab"
    sure = torch.full((2, 8), -30.0)
    sure[0, 5] = sure[1, 6] = -0.1  # the recogniser is sure: an unknown word is possible
    assert join(PIECES[i] for i in WordSearch(PIECES, FewWords(), SearchConfig(skipped=-50.0)).best(sure)[1]) == "bb"


def test_the_english_model_knows_words_and_what_follows_what():
    model = TrigramModel()
    assert {"the", "weather", "i'm"} <= model.words
    assert "wether(2)" not in model.words
    likely = model.log_probability("you", ("how", "are"))
    assert model.log_probability("garage", ("how", "are")) < likely < math.log(0.9)


def test_a_folder_without_search_has_none_and_a_damaged_one_is_told(tmp_path):
    assert load_search(tmp_path, PIECES) is None
    for values, message in (
        ({"language_model": "xx-yy"}, "xx-yy"),
        ({"language_model": "en-us", "wait": 1}, "unknown keys wait"),
        ({"language_model": "en-us", "counts": [1]}, "1 counts for 8 pieces"),
        ({}, "damaged"),
    ):
        (tmp_path / FILE).write_text(json.dumps(values))
        with pytest.raises(RecognizerError, match=message):
            load_search(tmp_path, PIECES)
