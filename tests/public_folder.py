"""CosyVoice 2's folder as it is published, with every file, but small and of random numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tts import public
from tts.decoder.config import EncoderConfig, EstimatorConfig, FlowConfig
from tts.decoder.flow import FlowDecoder
from tts.decoder.vocoder import Vocoder, VocoderConfig
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.model import InterleavedLm
from tts.speaker import SpeakerConfig, SpeakerEncoder
from tts.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from tts.tokenizer.model import _rotation

TEXT = Path(__file__).parents[1] / "tts" / "assets" / "tmt" / "tokenizer.json"
FLOW = FlowConfig(
    vocabulary_size=27,
    encoder=EncoderConfig(width=16, num_heads=2, ffn_width=16, num_blocks=1, num_up_blocks=1),
    estimator=EstimatorConfig(width=16, num_heads=2, head_width=8, num_transformers=1, num_mid_blocks=1, time_width=16),
)
VOCODER = VocoderConfig(base_channels=16, f0_channels=8)
LM = InterleavedConfig(
    text_vocab_size=2048, num_speech_tokens=27, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ff_dim=16
)
TOKENIZER = SpeechTokenizerConfig(width=16, num_heads=1, num_layers=1, fsmn_kernel=5, code_dims=3)
SPEAKER = SpeakerConfig(growth=4, bottleneck=2, init_channels=8, head_channels=4, block_layers=(1, 1, 1))


class Projection(nn.Module):
    def __init__(self, project_in: nn.Linear) -> None:
        super().__init__()
        self.project_in = project_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.9990000128746033 * torch.tanh(self.project_in(x))


class ExportedTokenizer(nn.Module):
    """The tokenizer with the module paths of the public file: no `encoder`, and a projection of another name."""

    def __init__(self, tokenizer: SpeechTokenizer) -> None:
        super().__init__()
        encoder = tokenizer.encoder
        self.conv1, self.conv2, self.blocks = encoder.conv1, encoder.conv2, encoder.blocks
        self.quantizer = Projection(tokenizer.quantizer._codebook.project_down)
        self.rotation = _rotation(50, tokenizer.config, torch.device("cpu"))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.conv2(nn.functional.gelu(self.conv1(mel)))).transpose(1, 2)
        for block in self.blocks:
            x = block(x, self.rotation, None)
        return self.quantizer(x)


def export(model: nn.Module, example: torch.Tensor, path: Path, *, folded: bool = True) -> Path:
    """The exporter that the public files were made with; it makes up names, and multiplies normalisations out."""
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(model, (example,), str(path), dynamo=False, training=mode, do_constant_folding=folded)
    return path


def write(folder: Path) -> Path:
    """Write the folder."""
    torch.manual_seed(0)
    torch.save(FlowDecoder(FLOW).state_dict(), folder / "flow.pt")
    torch.save(Vocoder(VOCODER, weight_norm=True).state_dict(), folder / "hift.pt")
    torch.save(InterleavedLm(LM).state_dict(), folder / "llm.pt")
    tokenizer, speaker = SpeechTokenizer(TOKENIZER).eval(), SpeakerEncoder(SPEAKER).eval()
    export(ExportedTokenizer(tokenizer), torch.zeros(1, 128, 200), folder / "speech_tokenizer_v2.onnx")
    export(speaker, torch.zeros(1, 250, 80), folder / "campplus.onnx")
    torch.save(speakers(), folder / "spk2info.pt")
    (folder / "config.json").write_text("{}")
    write_text(folder / public.TEXT_FOLDER)
    return folder


def speakers() -> dict[str, Any]:
    """A table as CosyVoice's tools write it: a speaker added from a recording, one of its server, one without prompt."""
    tokens, mel = torch.arange(60)[None] % 27, torch.full((1, 121, 80), -5.0)
    vector = torch.linspace(-1, 1, 192)[None]
    return {
        "anna": {
            "prompt_text": torch.zeros(1, 4, dtype=torch.int32),
            "flow_prompt_speech_token": tokens.int(),
            "prompt_speech_feat": mel,
            "flow_embedding": vector,
        },
        "bert": {"speech_token": tokens, "speech_feat": mel.half(), "embedding": vector},
        "clara": {"embedding": vector},
    }


def write_text(folder: Path) -> None:
    """The Qwen folder: the language model's shape, and its tokenizer as two files."""
    folder.mkdir(exist_ok=True)
    model = json.loads(TEXT.read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    values = {
        "vocab_size": LM.text_vocab_size,
        "hidden_size": LM.dim,
        "num_hidden_layers": LM.num_layers,
        "num_attention_heads": LM.num_heads,
        "num_key_value_heads": LM.num_kv_heads,
        "intermediate_size": LM.ff_dim,
        "rope_theta": LM.rope_base,
        "rms_norm_eps": LM.norm_eps,
    }
    (folder / "config.json").write_text(json.dumps(values))


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loaders take the small sizes for the public ones (that of the language model stands in its folder)."""
    for name, config in {"FLOW": FLOW, "VOCODER": VOCODER, "SPEECH_TOKENIZER": TOKENIZER, "SPEAKER": SPEAKER}.items():
        monkeypatch.setattr(public, name, replace(getattr(public, name), config=config))
