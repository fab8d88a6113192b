"""`bench analysis`: how the model is made to speak, what the ablations change, and a run on a corpus of two sentences."""

import json
import math
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from app import cli
from app.bench import analysis
from app.bench.ablations import ABLATIONS, held_out_losses, hide_later
from app.bench.analysis_page import page
from app.bench.spoken_settings import GROUPS, MASK, REFERENCE, Setting, faulty, speak
from app.small.voices import DEFAULT
from tts.tmt.config import TmtConfig
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.layout import IGNORED, Field, Role, packed, steady, visible
from tts.tmt.model import Tmt
from tts.training.tmt import TimedText, TmtExample, TmtTask, TmtTraining

SHAPE = TmtConfig(
    text_vocab_size=40, num_speech_tokens=60, num_duration_classes=9, dim=32, num_layers=2, num_heads=2, ff_dim=48
)
IDS = np.arange(12, dtype=np.int32)


def model(**changes):
    torch.manual_seed(0)
    made = Tmt(replace(SHAPE, max_lookahead=4, **changes)).eval().requires_grad_(False)
    for weight in made.parameters():  # so that scores differ clearly
        weight.mul_(6)
    return made


def utterance(durations, tokens):
    text = TimedText(IDS, np.asarray(durations, np.int16))
    return TmtExample(text, text, np.asarray(tokens, np.int16))


def greedy(tmt):
    """Durations and tokens of the plain decoder."""
    decoder = TmtDecoder(tmt, DecodeOptions(top_k=1))
    for token in IDS:
        decoder.push(int(token))
    decoder.finish()
    blocks = []
    while not decoder.done:
        blocks.append(decoder.step().tokens)
    return [len(block) for block in blocks], np.concatenate(blocks)


def some_speech(seed=0):
    rng = np.random.default_rng(seed)
    durations = rng.integers(0, 5, len(IDS))
    return utterance(durations, rng.integers(0, 60, durations.sum()))


def test_every_setting_has_its_row():
    names = [setting.name for setting in analysis.settings()]
    assert names[0] == REFERENCE.name
    assert len(names) == len(set(names)) == sum(len(group) for group in GROUPS.values()) - 3


def test_true_durations_are_spoken_exactly():
    tmt = model()
    durations, tokens = greedy(tmt)
    assert len(set(durations)) > 1
    assert (speak(tmt, some_speech(), Setting(name="greedy", top_k=1), 0) == tokens).all()
    given = Setting(name="true", true_durations=True)
    assert (speak(tmt, utterance(durations, tokens), given, 0) == tokens).all()
    other = some_speech()
    assert len(speak(tmt, other, given, 0)) == len(other.tokens)


def test_the_factor_stretches_the_speech():
    tmt = model()
    lengths = [
        len(speak(tmt, some_speech(), Setting(name="", top_k=1, factor=factor), 0)) for factor in (0.5, 1.0, 2.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_faults_stand_in_the_history_and_not_in_the_speech():
    tokens, rng = np.arange(1000) % 60, np.random.default_rng(0)
    assert SHAPE.speech_offset + MASK == SHAPE.mask_id
    masked = faulty(tokens, Setting(name="", faults=0.2, fault="masked"), 60, rng)
    assert 0.15 < (masked == MASK).mean() < 0.25
    assert (masked[masked != MASK] == tokens[masked != MASK]).all()
    random = faulty(tokens, Setting(name="", faults=0.2), 60, rng)
    assert 0.15 < (random != tokens).mean() < 0.25
    assert random.min() >= 0
    assert faulty(tokens, REFERENCE, 60, rng) is tokens
    tmt = model()
    clean, spoiled = (
        speak(tmt, some_speech(), Setting(name="", true_durations=True, faults=share, fault="masked"), 0)
        for share in (0.0, 1.0)
    )
    first = int(np.flatnonzero(some_speech().first.durations)[0])
    begins = int(some_speech().first.durations[: first + 1].sum())
    assert (clean[:begins] == spoiled[:begins]).all()
    assert (clean != spoiled).any()


def test_causal_blocks_train_and_decode_alike():
    tmt = model()
    plain = greedy(tmt)
    tmt.register_forward_pre_hook(hide_later)
    durations, tokens = greedy(tmt)
    assert not np.array_equal(plain[1], tokens)
    rows, speech, _ = packed(tmt.config, IDS, np.array(durations), tokens, steady(tmt.config, len(IDS), 1))
    given = torch.from_numpy(rows)[None]
    mask = visible(given, given, 0)
    hidden = tmt(given, mask)[0]
    assert (tmt.speech_head(hidden[speech != IGNORED]).argmax(-1).numpy() == tokens).all()
    narrowed = hide_later(tmt, (given, mask))[1][0]
    place = {
        index: np.flatnonzero((rows[Field.ROLE] == Role.MASKED) & (rows[Field.INDEX] == index)) for index in range(13)
    }
    block = max(place.values(), key=len)
    assert len(block) > 1
    assert torch.equal(narrowed[block][:, block], torch.ones(len(block), len(block)).tril().bool())
    assert mask[0][block][:, block].all()


@pytest.mark.parametrize("mask", ["prefix", "paper"])
def test_losses_count_every_step_once(mask):
    tmt = model(mask=mask)
    tmt.speech_head.weight.zero_()
    tmt.duration_head.weight.zero_()
    found = held_out_losses(tmt, [some_speech(), some_speech(1)])
    assert found["token_ce"] == pytest.approx(math.log(60), rel=1e-5)
    assert found["duration_ce"] == pytest.approx(math.log(9), rel=1e-5)
    assert found["duration_error"] == pytest.approx(
        np.mean([some_speech(seed).first.durations for seed in (0, 1)]), rel=1e-5
    )


def test_losses_are_those_of_the_trainer():
    speech = some_speech()
    task = TmtTask(SHAPE, [], [], [speech], TmtTraining(shared_parts=False))
    task.module.eval()
    with torch.no_grad():
        wanted = task.evaluate()
    found = held_out_losses(task.module.tmt, [speech])
    assert found == pytest.approx({name: wanted[name] for name in found}, rel=1e-4)
    worse = held_out_losses(task.module.tmt, [speech], Setting(name="", faults=1.0))
    assert worse["token_ce"] != pytest.approx(wanted["token_ce"], rel=1e-6)


def test_one_step_of_inference_is_trained_where_the_steps_are_not_parallel():
    speech = [some_speech(seed) for seed in range(4)]
    for parallel in (True, False):
        task = TmtTask(
            SHAPE,
            [],
            speech,
            speech,
            TmtTraining(shared_parts=False, parallel=parallel, joined=(1.0,), shown_share=0.0),
        )
        batch = task._train_batch(0, False)
        blocks = [
            len(set(rows[Field.INDEX][target != IGNORED].tolist()))
            for rows, target in zip(batch.rows, batch.speech_target, strict=True)
        ]
        assert max(blocks) > 1 if parallel else max(blocks) <= 1


def test_what_is_missing_is_told_in_one_line(tmp_path, capsys):
    for arguments, message in (
        (["--work", str(tmp_path)], "train small corpus tokens"),
        (["--sentences", "1"], "--sentences"),
        (["--steps", "-1"], "--steps"),
    ):
        assert cli.main(["bench", "analysis", "--report", str(tmp_path / "report"), *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    assert not (tmp_path / "report").exists()


def corpus(work):
    """Sets of the corpus with the same two sentences, and their speech tokens."""
    texts = ("The bus was late.", "We planted three trees.")
    samples = np.zeros(2 * 24_000, np.int16)
    for name in analysis.NEEDED:
        folder = work / "corpus" / name
        folder.mkdir(parents=True)
        samples.tofile(folder / "audio.i16")
        lines = []
        for number, text in enumerate(texts):
            words = [[word, 0.2 * at, 0.2 * at + 0.2] for at, word in enumerate(text.split())]
            line = {"id": f"{name}-{number}", "voice": DEFAULT, "offset": 24_000 * number, "num_samples": 24_000}
            lines.append(json.dumps({**line, "text": text, "words": words, "phones": []}))
        (folder / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "complete.json").write_text("{}", encoding="utf-8")
        np.savez(work / f"tokens_{name}.npz", tokens=np.arange(50), sizes=np.array([25, 25]))


class Listener:
    """Hears the first sentence always, and says how often it was asked."""

    def __init__(self, _):
        self.asked = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def tokens(self, tokens):
        assert len(tokens)
        return self.samples(tokens)

    def samples(self, _):
        self.asked += 1
        future = Future()
        future.set_result("the bus was late")
        return future


def test_a_run_and_how_it_goes_on(monkeypatch, tmp_path, capsys):
    listeners = []
    monkeypatch.setattr(analysis, "Listening", lambda config: listeners.append(Listener(config)) or listeners[-1])
    monkeypatch.setattr(
        analysis, "speak", lambda _, example, setting, __: example.tokens.repeat(round(10 * setting.factor))
    )
    plan = tmp_path / "train" / "analysis.yaml"
    plan.parent.mkdir()
    plan.write_text(
        "{dim: 32, num_layers: 1, num_heads: 2, ff_dim: 32, batch_positions: 512, "
        "loop: {steps: 9, learning_rate: 0.001, average_decay: 0.9}}",
        encoding="utf-8",
    )
    monkeypatch.setattr(analysis, "DEFAULTS", tmp_path)
    corpus(tmp_path)
    command = partial(cli.main, ["bench", "analysis", "--work", str(tmp_path), "--sentences", "2", "--steps", "2"])
    monkeypatch.setattr(analysis, "configuration", partial(_with_report, analysis.configuration, tmp_path / "report"))
    assert command() == 0
    assert capsys.readouterr().out.endswith((tmp_path / "report" / "report.md").read_text(encoding="utf-8"))
    values = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert list(values["spoken"]) == [analysis.RECORDED, analysis.DECODED, *(one.name for one in analysis.settings())]
    assert values["spoken"]["factor 0.8"]["length"] == pytest.approx(8)
    assert "at 0.8 speech is 0.80 times as long" in page(values)
    assert "(0.68, because the model goes on at the rate that it hears itself speak at) does not hold" in page(values)
    assert values["spoken"][analysis.RECORDED]["rate"] == pytest.approx(4 / 8)
    assert values["spoken"][analysis.RECORDED]["length"] == 1
    assert set(values["ablations"]) == {ablation.name for ablation in ABLATIONS}
    assert all(found["steps"] == 2 for found in values["ablations"].values())
    assert values["ablations"]["causal within a block"]["more_words"] == [0, 0, 0]
    assert command() == 0
    assert (listeners[0].asked > 0, listeners[1].asked) == (True, 0)

    causal = values["ablations"]["causal within a block"]
    for loss, more, verdict in (
        (9.0, [0.0, -0.1, 0.1], "holds here by the losses; words are within chance."),
        (9.0, [0.2, 0.1, 0.3], "holds here, by losses and by words."),
        (9.0, [-0.2, -0.3, -0.1], "holds here by the losses; by the words it does not hold."),
        (0.1, [-0.2, -0.3, -0.1], "does not hold here, by losses and by words."),
        (0.1, [0.2, 0.1, 0.3], "does not hold here by the losses; by the words it holds."),
    ):
        causal |= {"token_ce": loss, "more_words": more}
        assert f"should see each other both ways: {verdict}" in page(values)


def _with_report(configuration, folder, options):
    options.report = folder
    return configuration(options)
