"""Training of a small Paraformer that serves both the offline and the streaming decoder of FunASR.

Four fifths of the steps encode whole utterances, one fifth the windows of streaming (`windows.py`), which cost twice.
The losses are Paraformer's (label-smoothed cross-entropy after the glancing sampler, length error; arXiv 2206.08317,
section 2) plus three that use the exact alignments of synthetic speech: CIF weights per frame, phones in a middle
layer, pieces at the output. The two extra classifiers are not shipped.
"""

import json
import logging
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from asr.base import SAMPLE_RATE
from asr.funasr_model import build_model
from asr.training.data import (
    NUM_MELS,
    PHONES,
    STACK,
    Augment,
    Batch,
    Heard,
    Recording,
    batches,
    collate,
    example,
    hear,
    noises,
    spellings,
)
from asr.training.spelling import Units
from asr.training.windows import Chunking, Encoded, encode, integrate
from asr.units import join, word_errors
from asr.word_search import EN_US, SearchConfig
from asr.word_search import FILE as SEARCH_FILE

log = logging.getLogger(__name__)

STREAMING_EVERY = 5  # steps
_BABBLE = 40  # recordings that the babble noise is made of


@dataclass(frozen=True, kw_only=True)
class ParaformerConfig:
    """Shape and recipe."""

    width: int = 208
    heads: int = 4
    encoder_layers: int = 8
    encoder_units: int = 640
    decoder_layers: int = 2
    decoder_units: int = 448
    least_common: int = 2  # how often a syllable must be spoken to be a piece
    dropout: float = 0.1  # of the decoder
    chunking: Chunking = field(default_factory=Chunking)
    batch_frames: int = 12_000  # fbank frames (10 ms) of a batch, padding included
    pair_share: float = 0.25  # share of utterances joined two by two
    whole_share: float = 0.3  # share of the training that sees whole utterances only
    guided_until: float = 0.8  # share of the training after which no utterance gets its true CIF weights any more
    sampling_ratio: float = 0.3
    label_smoothing: float = 0.1
    seed: int = 1


def funasr_config(config: ParaformerConfig) -> dict[str, object]:
    """FunASR's config.yaml of the streaming model."""
    chunking = config.chunking
    return {
        "model": "ParaformerStreaming",
        "model_conf": {
            "ctc_weight": 0.0,
            "lsm_weight": config.label_smoothing,
            "length_normalized_loss": True,
            "predictor_weight": 1.0,
            "predictor_bias": 0,
            "sampling_ratio": config.sampling_ratio,
        },
        "encoder": "SANMEncoderChunkOpt",
        "encoder_conf": {
            "output_size": config.width,
            "attention_heads": config.heads,
            "linear_units": config.encoder_units,
            "num_blocks": config.encoder_layers,
            # The augmentation regularises the encoder; dropout costs a quarter of a step for its random numbers.
            "dropout_rate": 0.0,
            "positional_dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
            "input_layer": "pe_online",
            "pos_enc_class": "SinusoidalPositionEncoder",
            "normalize_before": True,
            "kernel_size": 11,
            "sanm_shfit": 0,
            "selfattention_layer_type": "sanm",
            "chunk_size": [chunking.chunk + chunking.lookahead],
            "stride": [chunking.chunk],
            "pad_left": [0],
            "encoder_att_look_back_factor": [chunking.encoder_look_back],
            "decoder_att_look_back_factor": [chunking.decoder_look_back],
        },
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": {
            "attention_heads": config.heads,
            "linear_units": config.decoder_units,
            "num_blocks": config.decoder_layers,
            "dropout_rate": config.dropout,
            "positional_dropout_rate": config.dropout,
            "self_attention_dropout_rate": 0.0,
            "src_attention_dropout_rate": 0.0,
            "att_layer_num": config.decoder_layers,
            "kernel_size": 11,
            "sanm_shfit": 5,  # causal, as streaming needs it
        },
        "predictor": "CifPredictorV2",
        "predictor_conf": {
            "idim": config.width,
            "threshold": 1.0,
            "l_order": 1,
            "r_order": 1,
            "tail_threshold": 0.45,
        },
        "frontend": "WavFrontendOnline",
        "frontend_conf": {
            "fs": SAMPLE_RATE,
            "window": "hamming",
            "n_mels": NUM_MELS,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": STACK,
            "lfr_n": 6,
            "dither": 0.0,
        },
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": False},
    }


def write_mvn(path: Path, mean: np.ndarray, scale: np.ndarray) -> None:
    """FunASR's `am.mvn`: the shift and scale of the stacked features, in Kaldi's text form."""
    size = len(mean)
    rows = [" ".join(f"{v:.6f}" for v in values) for values in (-mean, scale)]
    lines = ["<Nnet>", f"<Splice> {size} {size}", "[ 0 ]"]
    for name, row in zip(("AddShift", "Rescale"), rows, strict=True):
        lines += [f"<{name}> {size} {size}", f"<LearnRateCoef> 0 [ {row} ]"]
    path.write_text("\n".join([*lines, "</Nnet>", ""]), encoding="utf-8")


def read_mvn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The mean and scale of the stacked features, float32 (560,) each, that `write_mvn` wrote."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("<LearnRateCoef>")]
    shift, scale = (np.array(line.partition("[")[2].rstrip(" ]").split(), np.float32) for line in lines)
    return -shift, scale


_CARD = """# Small Paraformer

FunASR's `Paraformer` (whole recordings) and `ParaformerStreaming` (chunks of 480 ms) from one set of weights:
{size:.1f} million parameters, float16, {pieces} English syllables in lower case.

- Data: {hours:.1f} h of synthetic speech of flite and espeak-ng voices, made by this repository, with exact alignments;
  noise, level, spectrum and vocal tract length are varied in training.
- Command: `python launch.py train small paraformer`
- Metrics: word error rate of the likeliest pieces on {held_out} held-out recordings without noise: {figures}
  (`python launch.py eval small` measures more).
- Words: `search.json` says how the final pass chooses whole words with pocketsphinx's English trigram model
  (`asr/word_search.py`); its weights were set on every fourth held-out recording.
- Limits: it has heard synthetic English only. Human speech, accents, far microphones and words outside everyday
  vocabulary are recognised badly; for those configure a public Paraformer (`asr.model`).
"""


class Trained(nn.Module):
    """FunASR's model and the two classifiers that only training needs."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, config: ParaformerConfig, num_pieces: int) -> None:
        super().__init__()
        self.model: Any = model
        self.phones = nn.Linear(config.width, 3 * len(PHONES))
        self.pieces = nn.Linear(config.width, num_pieces)
        self.register_buffer("mean", torch.zeros(NUM_MELS * STACK))
        self.register_buffer("scale", torch.ones(NUM_MELS * STACK))


class ParaformerTask:
    """A `Task` of the training loop."""

    name = "paraformer"

    def __init__(
        self,
        training: Iterable[Recording],
        held_out: Iterable[Recording],
        config: ParaformerConfig,
        *,
        start: Path | None = None,
        show_bar: bool = False,
    ) -> None:
        """Compute the features of all recordings (they are consumed one by one) and build the model.

        `start`: an exported folder whose weights are trained further; what the beginning of a training is spared
        (streaming, its own CIF weights) is not spared then. Raises ValueError when it has another shape.
        """
        self.config = config
        # A training that goes on draws other batches, noises and voices than the one before.
        self._seed = config.seed if start is None else zlib.crc32((start / "model.safetensors").read_bytes())
        rng = np.random.default_rng(self._seed)
        heard: list[Heard] = []
        speech: list[np.ndarray] = []
        for recording in tqdm(training, desc="features", disable=not show_bar):
            heard.append(hear(recording))
            if len(speech) < _BABBLE:
                speech.append(soxr.resample(recording.samples, recording.sample_rate, SAMPLE_RATE))
        self.units = Units(spellings(h.recording for h in heard), config.least_common)
        aligned = [e for e in (example(h, self.units) for h in heard) if e is not None]
        self._examples = [e for e in aligned if self.units.unknown not in e.pieces_L]
        if not self._examples:
            raise ValueError("no training recording has word times that match its text")
        self._counts = np.bincount(
            np.concatenate([e.pieces_L for e in self._examples]), minlength=len(self.units.tokens)
        )
        self._held_out = [e for e in (example(hear(r), self.units) for r in held_out) if e is not None]
        self._augment = Augment(noises(speech, 20.0, rng))
        self._plan = batches(
            [len(e.fbank_TM) for e in self._examples], config.batch_frames, config.pair_share, self._seed
        )
        self._batches: list[list[list[int]]] = []
        self._figures: dict[str, float] = {}
        torch.manual_seed(self._seed)
        self._module = Trained(build_model(funasr_config(config), self.units.tokens), config, len(self.units.tokens))
        self.module: nn.Module = self._module
        self._goes_on, self._before = start is not None, dict[str, Tensor]()
        if start is not None:
            self._begin_with(start)
        else:
            self._measure_features(rng)
        self._hours = sum(len(e.fbank_TM) for e in self._examples) / 360_000
        log.info("%d of %d recordings, %.2f h", len(self._examples), len(heard), self._hours)

    def _measure_features(self, rng: np.random.Generator) -> None:
        some = [
            [self._examples[i]] for i in rng.choice(len(self._examples), min(300, len(self._examples)), replace=False)
        ]
        batch = collate(some, self._augment, rng)
        valid = torch.arange(batch.features_BFM.shape[1])[None] < batch.lengths_B[:, None]
        frames = batch.features_BFM[valid].reshape(-1, NUM_MELS)
        self._module.mean.copy_(frames.mean(0).repeat(STACK))
        self._module.scale.copy_((1 / frames.std(0).clamp(min=0.1)).repeat(STACK))

    def _begin_with(self, folder: Path) -> None:
        """Take an exported folder's weights; pieces that it lacks keep their random ones."""
        state, own = load_file(folder / "model.safetensors"), self._module.model.state_dict()
        names = {piece: row for row, piece in enumerate(json.loads((folder / "tokens.json").read_text("utf-8")))}
        known = [(row, names[piece]) for row, piece in enumerate(self.units.tokens) if piece in names]
        rows, theirs = (torch.tensor(part) for part in zip(*known, strict=True))
        for name, value in own.items():
            given = state.pop(name, None)
            if given is not None and len(given) == len(names) and value.shape[1:] == given.shape[1:]:
                value[rows] = given[theirs].to(value.dtype)
            elif given is not None and given.shape == value.shape:
                value.copy_(given)
            else:
                raise ValueError(f"{folder}: {name} is not that of this recogniser, {list(value.shape)}")
        self._before = {name: value.clone() for name, value in own.items()}
        for place, values in zip((self._module.mean, self._module.scale), read_mvn(folder / "am.mvn"), strict=True):
            place.copy_(torch.from_numpy(values))
        if state:
            raise ValueError(f"{folder} holds more than this recogniser has: {', '.join(list(state)[:4])}")

    def loss(self, step: int, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Losses of the batch of `step`; every fifth sees the windows of streaming once the first words are learned."""
        while len(self._batches) <= step:
            self._batches.append(next(self._plan))
        progress = 1.0 if self._goes_on else progress
        rng = np.random.default_rng((self._seed, step))
        batch = collate([[self._examples[i] for i in item] for item in self._batches[step]], self._augment, rng)
        chunking = self.config.chunking if step % STREAMING_EVERY == 1 and progress >= self.config.whole_share else None
        device = self._module.mean.device
        batch = batch.to(device)
        with torch.autocast(device.type):
            total, parts = self._losses(batch, chunking, guided_share=max(0.0, 1 - progress / self.config.guided_until))
        return total, {f"{name}_{'stream' if chunking else 'whole'}": value for name, value in parts.items()}

    def _encode(self, features: Tensor, lengths: Tensor, chunking: Chunking | None) -> Encoded:
        middle = self.config.encoder_layers // 2
        normalised = (features - self._module.mean) * self._module.scale
        return encode(self._module.model, normalised, lengths, chunking, middle)

    def _losses(self, batch: Batch, chunking: Chunking | None, guided_share: float) -> tuple[Tensor, dict[str, float]]:
        model = self._module.model
        encoded = self._encode(batch.features_BFM, batch.lengths_B, chunking)
        pieces, counts = batch.pieces_BL, batch.piece_lengths_B
        # Encoder frames against the alignment.
        lead = encoded.lead
        target = functional.pad(batch.alphas_BF, (lead, 0))
        drift = (torch.cumsum(encoded.alphas_BP, 1) - torch.cumsum(target, 1)).abs()
        inside = torch.arange(target.shape[1], device=target.device)[None] < (batch.lengths_B + lead)[:, None]
        weights = _binary_cross_entropy(encoded.alphas_BP, target.clamp(max=1.0))
        cif = ((2.0 * weights + 0.2 * drift.clamp(max=2.0)) * inside).sum() / inside.sum()
        phone_logits = self._module.phones(encoded.middle_BPD[:, lead:]).unflatten(-1, (3, -1)).float()
        phones = functional.cross_entropy(phone_logits.flatten(0, 2), batch.frame_phones_BF3.flatten(), ignore_index=-1)
        middles = batch.frame_pieces_BF >= 0
        piece_logits = self._module.pieces(encoded.frames_BPD[:, lead:][middles]).float()
        frames = functional.cross_entropy(piece_logits, batch.frame_pieces_BF[middles])
        # Paraformer's own losses.
        length = model.criterion_pre(counts.float(), encoded.alphas_BP.sum(1))
        scaled = encoded.alphas_BP * (counts / encoded.alphas_BP.sum(1).clamp(min=1e-3))[:, None]
        # The decoder learns words long before the CIF finds their borders; until then many utterances use the true ones.
        guided = torch.rand(len(counts)).to(counts.device) < guided_share
        scaled = torch.where(guided[:, None], target, scaled)
        embeds = integrate(encoded.frames_BPD, scaled, pieces.shape[1])
        mask = encoded.layout.decoder_mask(scaled, pieces.shape[1]) if encoded.layout else None
        memory, memory_lengths = encoded.memory_BMD, encoded.memory_lengths_B
        mixed, first = model.sampler(memory, memory_lengths, pieces, counts, embeds, mask)
        logits, _ = model.decoder(memory, memory_lengths, mixed, counts, mask)
        decoded = model.criterion_att(logits.float(), pieces)
        known = pieces >= 0
        accuracy = (first.argmax(-1) == pieces)[known].float().mean()
        total = decoded + length + cif + phones + 0.5 * frames
        heard = batch.frame_phones_BF3 >= 0
        right = (phone_logits.argmax(-1) == batch.frame_phones_BF3)[heard].float().mean()
        parts = {
            "ce": decoded, "length": length, "cif": cif, "phones": phones, "frames": frames, "accuracy": accuracy,
            "phones_right": right, "drift": (drift * inside).sum() / inside.sum(),
        }  # fmt: skip
        return total, {name: float(value.detach()) for name, value in parts.items()}

    def evaluate(self) -> dict[str, float]:
        """Word error rate on the held-out recordings, whole and streaming."""
        chunking = self.config.chunking
        self._figures = {"wer": self._word_error_rate(None), "wer_streaming": self._word_error_rate(chunking)}
        return self._figures

    def _word_error_rate(self, chunking: Chunking | None) -> float:
        errors = words = 0
        for start in range(0, len(self._held_out), 24):
            examples = sorted(self._held_out[start : start + 24], key=lambda e: len(e.fbank_TM))
            batch = collate([[e] for e in examples], None, np.random.default_rng(0))
            for text, expected in zip(self._decode(batch, chunking), examples, strict=True):
                errors += word_errors(expected.text.split(), text.split())
                words += len(expected.text.split())
        return errors / max(words, 1)

    def _decode(self, batch: Batch, chunking: Chunking | None) -> list[str]:
        model = self._module.model
        encoded = self._encode(batch.features_BFM, batch.lengths_B, chunking)
        counts = torch.floor(encoded.alphas_BP.sum(1) + model.predictor.tail_threshold).long()
        most = max(int(counts.max()), 1)
        embeds = integrate(encoded.frames_BPD, encoded.alphas_BP, most)
        mask = encoded.layout.decoder_mask(encoded.alphas_BP, most) if encoded.layout else None
        logits, _ = model.decoder(encoded.memory_BMD, encoded.memory_lengths_B, embeds, counts, mask)
        ids = logits.argmax(-1)
        return [join(self.units.tokens[i] for i in row[:n].tolist()) for row, n in zip(ids, counts, strict=True)]

    def export(self, directory: Path) -> None:
        """Write a FunASR model directory with float16 safetensors in place of model.pt.

        Of a training that went on: the mean of the weights before and after, which errs less than either (M. Wortsman et
        al., arXiv 2203.05482).
        """
        directory.mkdir(parents=True, exist_ok=True)
        chunking = self.config.chunking
        description = {
            "kind": "paraformer",
            "sample_rate": SAMPLE_RATE,
            "streaming": {
                "chunk_size": [0, chunking.chunk, chunking.lookahead],
                "encoder_chunk_look_back": chunking.encoder_look_back,
                "decoder_chunk_look_back": chunking.decoder_look_back,
            },
            "training": asdict(self.config),
        }
        write_mvn(directory / "am.mvn", self._module.mean.numpy(), self._module.scale.numpy())
        (directory / "tokens.json").write_text(json.dumps(self.units.tokens, indent=0), encoding="utf-8")
        (directory / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        search = {"language_model": EN_US, **asdict(SearchConfig()), "counts": self._counts.tolist()}
        (directory / SEARCH_FILE).write_text(json.dumps(search) + "\n", encoding="utf-8")
        with (directory / "config.yaml").open("w", encoding="utf-8") as file:
            yaml.safe_dump(funasr_config(self.config), file, sort_keys=False)
        after = self._module.model.state_dict()
        state = {name: value.lerp(self._before.get(name, value), 0.5).half() for name, value in after.items()}
        save_file(state, directory / "model.safetensors")
        (directory / "MODEL_CARD.md").write_text(self._card(), encoding="utf-8")

    def _card(self) -> str:
        size = sum(p.numel() for p in self._module.model.parameters()) / 1e6
        held_out = len(self._held_out)
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self._figures.items()) or "not measured"
        return _CARD.format(
            size=size, hours=self._hours, pieces=len(self.units.tokens), held_out=held_out, figures=figures
        )


def _binary_cross_entropy(probability: Tensor, target: Tensor) -> Tensor:
    p = probability.clamp(1e-4, 1 - 1e-4)
    return -(target * p.log() + (1 - target) * (1 - p).log())


def task(
    training: Iterable[Recording],
    held_out: Iterable[Recording],
    config: ParaformerConfig,
    *,
    start: Path | None = None,
    show_bar: bool = False,
) -> ParaformerTask:
    """The task of `train small paraformer`."""
    return ParaformerTask(training, held_out, config, start=start, show_bar=show_bar)
