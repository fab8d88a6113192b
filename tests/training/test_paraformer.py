import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.paraformer import Paraformer
from asr.training.data import Recording, _frame_targets, batches, collate, example, fbank, hear, spellings, stack
from asr.training.paraformer import STREAMING_EVERY, ParaformerConfig, task
from asr.training.spelling import Units
from asr.training.windows import Chunking, encode, integrate
from asr.units import join, normalise, word_errors

WORDS = ["red", "green", "blue", "seven", "houses"]
CONFIG = ParaformerConfig(
    width=32, heads=2, encoder_layers=3, encoder_units=48, decoder_layers=1, decoder_units=32,
    batch_frames=1500, dropout=0.0, whole_share=0.0,
)  # fmt: skip


def recording(seed):
    """Four words, each a chord of its own."""
    rng = np.random.default_rng(seed)
    words, times, pieces, at = [], [], [np.zeros(1280)], 0.08
    for word in rng.choice(WORDS, 4):
        seconds = float(rng.uniform(0.2, 0.4))
        clock = np.arange(int(seconds * 16000)) / 16000
        pitch = 300 + 350 * WORDS.index(word)
        pieces.append(0.2 * np.sin(2 * np.pi * pitch * clock) + 0.1 * np.sin(2 * np.pi * 2.7 * pitch * clock))
        words.append(str(word))
        times.append((str(word), at, at + len(clock) / 16000))
        at += len(clock) / 16000
    samples = np.concatenate([*pieces, np.zeros(2000)]).astype(np.float32)
    return Recording(samples=samples, sample_rate=16000, text=" ".join(words).capitalize() + ".", words=times)


@pytest.fixture(scope="module")
def small_task():
    return task([recording(i) for i in range(24)], [recording(99), recording(98)], CONFIG)


@pytest.fixture(scope="module")
def folder(small_task, tmp_path_factory):
    out = tmp_path_factory.mktemp("paraformer")
    small_task.export(out)
    return out


def test_losses_fall_in_both_modes_and_batches_depend_on_the_step_alone(small_task):
    learner = task([recording(i) for i in range(24)], [recording(99)], CONFIG)
    torch.manual_seed(0)
    first, _ = learner.loss(1, 0.5)
    small_task.loss(0, 0.0)
    torch.manual_seed(0)  # as the training loop does at every step
    same, _ = small_task.loss(1, 0.5)
    torch.testing.assert_close(first, same)
    optimizer = torch.optim.AdamW(learner.module.parameters(), lr=3e-3)
    values = []
    for step in range(16):
        loss, parts = learner.loss(step, 0.5)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in learner.module.parameters())
        optimizer.step()
        values.append(loss.item())
        assert any(name.endswith("stream" if step % STREAMING_EVERY == 1 else "whole") for name in parts)
    assert np.mean(values[-4:]) < 0.85 * np.mean(values[:4])
    assert set(learner.evaluate()) == {"wer", "wer_streaming"}


def test_the_training_windows_are_exactly_what_funasr_streams(folder):
    model = Paraformer.load(str(folder), str(folder))
    streaming = model._streaming.model
    seen, encoded, decoded = [], [], []
    encoder, decoder = streaming.encoder.forward_chunk, streaming.decoder.forward_chunk

    def spy_encoder(features, lengths, cache=None, **options):
        seen.append(features.clone())
        out = encoder(features, lengths, cache=cache, **options)
        encoded.append(out[0].clone())
        return out

    def spy_decoder(memory, embeds, cache):
        decoded.append(decoder(memory, embeds, cache))
        return decoded[-1]

    streaming.encoder.forward_chunk, streaming.decoder.forward_chunk = spy_encoder, spy_decoder
    with torch.no_grad():
        streaming.predictor.cif_output.bias.fill_(-1.0)  # pieces at a natural rate
        stream = model.stream()
        samples = np.concatenate([recording(i).samples for i in range(3)])
        stream.push(samples)
        stream.finish()
        features = torch.cat(seen, 1).clone()
        out = encode(streaming, features, torch.tensor([features.shape[1]]), Chunking(), 1)
        torch.testing.assert_close(out.memory_BMD, torch.cat(encoded, 1), atol=1e-5, rtol=0)
        count = int(torch.floor(out.alphas_BP.sum() + streaming.predictor.tail_threshold))
        embeds = integrate(out.frames_BPD, out.alphas_BP, count)
        mask = out.layout.decoder_mask(out.alphas_BP, count)
        logits, _ = streaming.decoder(out.memory_BMD, out.memory_lengths_B, embeds, torch.tensor([count]), mask)
    assert count > 5
    torch.testing.assert_close(logits, torch.cat(decoded, 1), atol=1e-5, rtol=0)


def test_whole_encoding_and_integration_are_funasrs(folder):
    offline = Paraformer.load(str(folder), None)._offline.model
    features = torch.randn(2, 21, 560)
    lengths = torch.tensor([21, 21])
    with torch.no_grad():
        out = encode(offline, features.clone(), lengths, None, 1)
        expected, _ = offline.encode(features.clone(), lengths)
        torch.testing.assert_close(out.frames_BPD, expected, atol=1e-5, rtol=0)
        text = torch.randint(3, 20, (2, 6))
        embeds, count, scaled, _ = offline.predictor(expected, text, torch.ones(2, 1, 21))
        torch.testing.assert_close(out.alphas_BP.sum(1), count, atol=1e-4, rtol=0)
        mine = integrate(expected, scaled, 6)
        torch.testing.assert_close(mine[:, :5], embeds[:, :5], atol=1e-4, rtol=0)  # the 6th may round past its frame


def test_features_are_those_of_funasrs_front_end(folder):
    samples = recording(3).samples
    front = Paraformer.load(str(folder), None)._offline.kwargs["frontend"]
    expected, _ = front(torch.from_numpy(samples)[None], [len(samples)])
    mean_and_scale = front.cmvn
    mine = (stack(fbank(samples, 16000)) + mean_and_scale[0]) * mean_and_scale[1]
    torch.testing.assert_close(mine, expected[0], atol=1e-3, rtol=0)


def test_the_cif_fires_in_the_vowel_of_every_syllable(small_task):
    one = small_task._examples[0]
    batch = collate([[one]], None, np.random.default_rng(0))
    fired = batch.alphas_BF[0].nonzero()[:, 0]
    assert batch.alphas_BF[0, fired].tolist() == [1.0] * len(one.pieces_L)
    assert batch.frame_pieces_BF[0, fired].tolist() == one.pieces_L.tolist()
    assert (batch.frame_pieces_BF[0] >= 0).sum() == len(fired)
    assert np.abs(fired.numpy() * 0.06 - one.spans_L2.mean(1)).max() < 0.06


def test_pieces_closer_than_a_frame_keep_their_order_and_stay_inside():
    spans = np.array([[0.0, 0.01], [0.01, 0.02], [0.02, 0.03], [0.5, 0.51], [0.51, 0.52]], np.float32)
    alphas, pieces, _ = _frame_targets(9, spans, np.arange(5), np.zeros(54, np.int64))
    assert alphas.sum() == 5
    assert pieces[pieces >= 0].tolist() == [0, 1, 2, 3, 4]


def test_words_that_do_not_match_the_text_are_left_out():
    heard = hear(recording(1))
    units = Units(spellings([heard.recording]))
    assert example(heard, units) is not None
    wrong = type(heard)(
        heard.fbank_TM, Recording(samples=np.zeros(0), sample_rate=16000, text="other", words=heard.recording.words)
    )
    assert example(wrong, units) is None
    with pytest.raises(ValueError, match="no training recording"):
        task([Recording(samples=np.zeros(8000, np.float32), sample_rate=16000, text="a")], [], CONFIG)


SPOKEN = {
    "night": "n ay t", "knight": "n ay t", "know": "n ow", "thought": "th ao t", "box": "b aa k s", "ship": "sh ih p",
    "sing": "s ih ng", "king": "k ih ng", "singing": "s ih ng ih ng", "making": "m ey k ih ng", "light": "l ay t",
    "fish": "f ih sh", "no": "n ow", "in": "ih n", "it": "ih t", "tin": "t ih n", "don't": "d ow n t", "w": "d ah b ax l y uw",
}  # fmt: skip


@pytest.fixture(scope="module")
def units():
    return Units(Counter({(word, tuple(sounds.split())): 5 for word, sounds in SPOKEN.items()}))


def test_letters_are_aligned_to_the_phones_they_stand_for(units):
    def parts(word):
        return units._aligner.parts(word, tuple(SPOKEN[word].split()))

    assert parts("fish") == [("f", 1), ("i", 1), ("sh", 1)]
    assert parts("sing") == [("s", 1), ("i", 1), ("ng", 1)]
    assert ("x", 2) in parts("box")
    for word, sounds in SPOKEN.items():
        assert "".join(letters for letters, _ in parts(word)) == word
        assert sum(size for _, size in parts(word)) == len(sounds.split())


def test_every_syllable_has_one_vowel_and_together_they_spell_the_word(units):
    vowels = {"ay", "ow", "ao", "aa", "ih", "ey", "ah", "uw"}
    for word, sounds in SPOKEN.items():
        phones = tuple(sounds.split())
        syllables = units.encode(word, phones)
        assert join(units.tokens[s.id] for s in syllables) == word
        if word != "w":  # the name of a letter cannot be cut
            assert [phones[s.vowel] for s in syllables] == [p for p in phones if p in vowels]
    assert [s.letters for s in units.encode("making", tuple(SPOKEN["making"].split()))] == ["ma", "king"]


def test_unknown_syllables_are_marked_and_known_cuts_preferred(units):
    (syllable,) = units.encode("quay", ("k", "iy"))
    assert syllable.id == units.unknown
    assert [s.letters for s in units.encode("masing", ("m", "ey", "s", "ih", "ng"))] == ["ma", "sing"]
    assert [s.letters for s in units.encode("zebra")] in (["ze", "bra"], ["zeb", "ra"], ["zebr", "a"])


def test_text_is_normalised_and_scored():
    assert normalise("Well-known; it\u2019s 'Tom\u2019s' cat!") == "well known it's tom's cat"
    assert join(["he@@", "llo", "i", "a", "<unk>", "</s>", "你", "好"]) == "hello i a 你好"
    assert word_errors(["a", "b", "c"], ["a", "x", "c", "d"]) == 2


def test_every_utterance_comes_once_per_epoch():
    plan = batches([100] * 30, 1000, 0.3, seed=4)
    seen = []
    while len(seen) < 30:
        batch = next(plan)
        assert len(batch) * (max(100 * len(item) for item in batch)) <= 1000
        seen += [i for item in batch for i in item]
    assert sorted(seen) == list(range(30))


def test_the_exported_folder_holds_float16_and_no_pickle(folder):
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "MODEL_CARD.md", "am.mvn", "config.json", "config.yaml", "model.safetensors", "search.json", "tokens.json",
    }  # fmt: skip
    search = json.loads((folder / "search.json").read_text())
    tokens = json.loads((folder / "tokens.json").read_text())
    assert search["counts"][tokens.index("red")] > 0
    assert search["counts"][0] == 0
    assert json.loads((folder / "config.json").read_text())["streaming"]["chunk_size"] == [0, 8, 4]
    weights = load_file(folder / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert not any(name.startswith(("phones", "pieces")) for name in weights)


def test_exported_weights_are_trained_further_and_new_pieces_begin_at_random(small_task, folder, tmp_path):
    going_on = task([recording(i) for i in range(24)], [], CONFIG, start=folder)
    expected = small_task._module.model.state_dict()
    for name, value in going_on._module.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-3, rtol=1e-3)
    _, parts = going_on.loss(STREAMING_EVERY + 1, 0.0)
    assert "ce_stream" in parts  # from the first step
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "model.safetensors")
    tokens = json.loads((folder / "tokens.json").read_text())
    (tmp_path / "tokens.json").write_text(json.dumps([*tokens[:-2], "other", tokens[-1]]))
    shutil.copy(folder / "am.mvn", tmp_path)
    other = task([recording(i) for i in range(24)], [], CONFIG, start=tmp_path)._module.model.state_dict()
    added = (other["decoder.output_layer.bias"] - expected["decoder.output_layer.bias"]).round().tolist()
    assert added == [1.0] * (len(tokens) - 2) + [0.0, 1.0]
    with pytest.raises(ValueError, match="is not that of this recogniser"):
        task([recording(i) for i in range(24)], [], replace(CONFIG, width=48), start=folder)


def test_a_training_that_went_on_leaves_the_mean_of_before_and_after(small_task, folder, tmp_path):
    going_on = task([recording(i) for i in range(24)], [], CONFIG, start=folder)
    torch.testing.assert_close(going_on._module.mean, small_task._module.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(going_on._module.scale, small_task._module.scale, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for weight in going_on._module.model.parameters():
            weight += 2.0
    going_on.export(tmp_path / "further")
    before, mean = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "further"))
    for name, weight in going_on._module.model.named_parameters():
        assert weight.requires_grad
        torch.testing.assert_close(mean[name].float(), before[name].float() + 1.0, atol=4e-3, rtol=2e-3)
