"""A folder of golden vectors: recorded inputs and outputs of the public models, the weights they were made with, sizes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tts.decoder.config import EncoderConfig, EstimatorConfig, FlowConfig
from tts.decoder.vocoder import VocoderConfig
from tts.interleaved.config import InterleavedConfig
from tts.speaker import SpeakerConfig
from tts.tokenizer import SpeechTokenizerConfig

EXACT = 0.0  # tolerance of what is counted or chosen
BUNDLED = Path(__file__).parents[1] / "assets" / "golden"


@dataclass
class Golden:
    """The bundled folder, or one named by `--golden`, of which any part may be absent: its tests are skipped."""

    folder: Path = BUNDLED
    given: bool = False
    errors: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)  # largest error, allowed

    def names(self, file: str) -> list[str]:
        """Names of the tensors of a file; none when the file is absent."""
        path = self.folder / f"{file}.safetensors"
        if not path.is_file():
            return []
        with safe_open(path, framework="pt") as opened:
            return list(opened.keys())

    def vectors(self, file: str) -> "Vectors":
        return Vectors(self, file, load_file(self._there(f"{file}.safetensors")))

    def weights(self, file: str) -> dict[str, Tensor]:
        """The weights as they are stored."""
        return load_file(self._there(f"{file}.safetensors"))

    def manifest(self, name: str) -> list[tuple[str, list[int]]]:
        """Names and shapes of a public file, in its order."""
        tensors = json.loads(self._there(f"manifest_{name}.json").read_text())["tensors"]
        return [(tensor["name"], tensor["shape"]) for tensor in tensors]

    def streams(self) -> dict[str, Any]:
        """Calls of each recorded stream; none when the file is absent."""
        path = self.folder / "stream_trace.json"
        traced = json.loads(path.read_text()) if path.is_file() else {}
        return {name: case for name, case in traced.items() if "calls" in case}

    def tolerance(self, kind: str) -> float:
        """What config.json allows for a kind of tensor."""
        return float(self._config("tolerances_suggested")[kind])

    def flow(self) -> FlowConfig:
        size = self._config("flow_reduced")
        encoder, estimator, matching = size["encoder"], size["estimator"], size["cfm"]
        return FlowConfig(
            vocabulary_size=size["vocab_size"],
            mel_bins=size["mel"],
            speaker_width=size["spk_embed_dim"],
            chunk_tokens=encoder["static_chunk_size"],
            lookahead_tokens=size["pre_lookahead_len"],
            num_flow_steps=matching["n_timesteps"],
            guidance=matching["inference_cfg_rate"],
            encoder=EncoderConfig(
                width=encoder["output_size"],
                num_heads=encoder["attention_heads"],
                ffn_width=encoder["linear_units"],
                num_blocks=encoder["num_blocks"],
                num_up_blocks=encoder["num_up_blocks"],
            ),
            estimator=EstimatorConfig(
                width=estimator["channels"][0],
                num_heads=estimator["num_heads"],
                head_width=estimator["attention_head_dim"],
                ffn_ratio=estimator["ff_mult"],
                num_transformers=estimator["n_blocks"],
                num_mid_blocks=estimator["num_mid_blocks"],
                time_width=estimator["time_embed_dim"],
            ),
        )

    def vocoder(self) -> VocoderConfig:
        size = self._config("hift_reduced")
        return VocoderConfig.from_values(
            {
                "mel_bins": size["in_channels"],
                "base_channels": size["base_channels"],
                "f0_channels": size["f0_cond_channels"],
                "num_harmonics": size["nb_harmonics"],
                "sample_rate": size["sampling_rate"],
                "sine_amplitude": size["nsf_alpha"],
                "noise_std": size["nsf_sigma"],
                "voiced_threshold_hz": size["nsf_voiced_threshold"],
                "upsample_rates": size["upsample_rates"],
                "upsample_kernels": size["upsample_kernel_sizes"],
                "istft_size": size["istft"]["n_fft"],
                "istft_hop": size["istft"]["hop_len"],
                "resblock_kernels": size["resblock_kernel_sizes"],
                "resblock_dilations": size["resblock_dilation_sizes"],
                "source_resblock_kernels": size["source_resblock_kernel_sizes"],
                "source_resblock_dilations": size["source_resblock_dilation_sizes"],
                "leaky_slope": size["lrelu_slope"],
                "audio_limit": size["audio_limit"],
            }
        )

    def interleaved(self) -> InterleavedConfig:
        size = self._config("llm_reduced")
        return InterleavedConfig(
            text_vocab_size=size["vocab_size"],
            num_speech_tokens=size["speech_token_size"],
            dim=size["hidden_size"],
            num_layers=size["num_hidden_layers"],
            num_heads=size["num_attention_heads"],
            num_kv_heads=size["num_key_value_heads"],
            ff_dim=size["intermediate_size"],
            rope_base=size["rope_theta"],
            norm_eps=size["rms_norm_eps"],
            text_chunk=size["mix_ratio"][0],
            speech_chunk=size["mix_ratio"][1],
        )

    def speech_tokenizer(self) -> SpeechTokenizerConfig:
        size = self._config("s3_v2_reduced")
        return SpeechTokenizerConfig(
            num_mels=size["n_mels"],
            width=size["n_audio_state"],
            num_heads=size["n_audio_head"],
            num_layers=size["n_audio_layer"],
            fsmn_kernel=size["fsmn_kernel"],
            code_dims=size["fsq_dims"],
            code_levels=size["levels"],
            norm_eps=size["attn_ln_eps"],
        )

    def speaker(self) -> SpeakerConfig:
        size = self._config("campplus_reduced")
        return SpeakerConfig(
            num_bins=size["feat_dim"],
            embedding_size=size["embedding_size"],
            growth=size["growth_rate"],
            bottleneck=size["bn_size"],
            init_channels=size["init_channels"],
            block_layers=tuple(size["blocks"]),
            block_dilations=tuple(size["dilations"]),
            kernel=size["kernel"],
        )

    def _config(self, section: str) -> dict[str, Any]:
        values = json.loads(self._there("config.json").read_text())
        if section not in values and self.given:
            pytest.skip(f"{section} is not in {self.folder / 'config.json'}")
        return dict(values[section])

    def _there(self, file: str) -> Path:
        path = self.folder / file
        if self.given and not path.is_file():
            pytest.skip(f"{file} is not in {self.folder}")
        return path


class Vectors(dict[str, Tensor]):
    """The tensors of one file. A test that asks for one that a given folder lacks is skipped."""

    def __init__(self, golden: Golden, file: str, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.golden, self.file = golden, file

    def __missing__(self, name: str) -> Tensor:
        if self.golden.given:
            pytest.skip(f"{name} is not in {self.file}.safetensors")
        raise KeyError(name)

    def close(self, name: str, ours: Tensor, tolerance: str | float) -> None:
        """Compare with the tensor `name` within a tolerance (a kind of config.json or a number); keep the largest error."""
        self.near(name, ours, self[name], tolerance)

    def near(self, name: str, ours: Tensor, theirs: Tensor, tolerance: str | float) -> None:
        """The same with a given reading of the tensor."""
        assert ours.shape == theirs.shape, f"{name} is {list(ours.shape)}, expected {list(theirs.shape)}"
        error = float((ours.double() - theirs.double()).abs().max())
        allowed = self.golden.tolerance(tolerance) if isinstance(tolerance, str) else tolerance
        before, _ = self.golden.errors.get((self.file, name), (0.0, 0.0))
        self.golden.errors[self.file, name] = max(error, before), allowed
        assert error <= allowed, f"{name} differs by {error:.2g}, allowed {allowed:g}"
