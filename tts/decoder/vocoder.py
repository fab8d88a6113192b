"""HiFT vocoder: mel spectrogram to samples through an F0 predictor, a harmonic-plus-noise source and an ISTFT head.

The parameter names and the maths are those of the public CosyVoice2 vocoder. Two ways to stream:
- causal weights (ours): every convolution looks left only, but for `lookahead_frames` in the first layer of both nets.
  Each layer keeps its last inputs, so a frame is computed once and any chunking gives the whole-sequence answer.
- public weights look both ways: a window with left and right context is decoded anew per chunk. F0, phase and noise of
  the frames that stay in the window are carried on, so that the answer is the whole-sequence one too.

Shape letters: B batch, M mel bins, T mel frames, C channels, K STFT frames, N samples, H harmonics.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from tts import checkpoint
from tts.base import CheckpointError
from tts.decoder.source import HarmonicSource, ShortFourier, draw_noise
from tts.decoder.vocoder_layers import CausalState, Conv, ResBlock, Upsample, extend
from tts.modules.graphs import Capture, CudaCapture, Graphs, Nothing
from tts.precision import computing

LOUDEST = math.log(100.0)  # of an ISTFT magnitude; limited before exp, whose overflow has no gradient


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Shape of a vocoder; the defaults are the public CosyVoice2 one."""

    mel_bins: int = 80
    base_channels: int = 512
    f0_channels: int = 512
    num_harmonics: int = 8  # above the fundamental
    sample_rate: int = 24_000
    sine_amplitude: float = 0.1
    noise_std: float = 0.003  # while voiced; a third of the sines' amplitude otherwise
    voiced_threshold_hz: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernels: tuple[int, ...] = (16, 11, 7)
    istft_size: int = 16
    istft_hop: int = 4
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_resblock_kernels: tuple[int, ...] = (7, 7, 11)  # one per stage
    source_resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leaky_slope: float = 0.1
    audio_limit: float = 0.99
    causal: bool = False
    lookahead_frames: int = 0  # mel frames, causal weights only
    mel_mean: float = 0.0  # (mel - mel_mean) / mel_scale enters the nets
    mel_scale: float = 1.0
    f0_scale_hz: float = 1.0  # F0 of one unit of the predictor's output
    phase_scale: float = 1.0  # largest phase of the output spectrum, radians

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "VocoderConfig":
        """Make a config from `config.json`. Raises CheckpointError on an unknown name."""
        unknown = values.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise CheckpointError(
                f"the vocoder's config.json has unknown entries: {', '.join(sorted(unknown))}. "
                "It belongs to another model or to a newer version of this program."
            )
        return cls(**{name: _as_tuple(value) for name, value in values.items()})

    @property
    def frame(self) -> int:
        """Samples per mel frame."""
        total = self.istft_hop
        for rate in self.upsample_rates:
            total *= rate
        return total


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


@dataclass
class WindowState:
    """Where a stream of non-causal weights stands: a window of frames and what belongs to them."""

    mel_BMT: torch.Tensor  # received frames, from `left_context` before the first one not yet spoken
    f0_BT: torch.Tensor  # Hz; the settled frames of the window (they saw all of the predictor's context)
    noise_BNH: torch.Tensor
    phase_B: torch.Tensor  # phase at the window's start, cycles, float64
    generator: torch.Generator
    seed: int
    left_context: int
    right_context: int
    spoken: int  # frames of the window that were already returned
    first: bool  # the window begins where the utterance does

    def reset_(self) -> None:
        """Begin a new utterance in place."""
        self.mel_BMT, self.f0_BT = self.mel_BMT[..., :0], self.f0_BT[:, :0]
        self.noise_BNH = self.noise_BNH[:, :0]
        self.phase_B.zero_()
        self.generator.manual_seed(self.seed)
        self.spoken, self.first = 0, True

    def clone(self) -> "WindowState":
        """Return an independent copy."""
        return copy.deepcopy(self)


VocoderState = CausalState | WindowState


class F0Predictor(nn.Module):
    """F0 in Hz per mel frame; below the source's threshold the frame is unvoiced."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width, causal = config.f0_channels, config.causal
        first = Conv(
            config.mel_bins,
            width,
            2 * config.lookahead_frames + 1 if causal else 3,
            causal=causal,
            lookahead=config.lookahead_frames,
        )
        layers: list[nn.Module] = [first, nn.ELU()]
        for _ in range(4):
            layers += [Conv(width, width, 3, causal=causal), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 1)
        self.scale_hz = config.f0_scale_hz

    def forward(self, mel_BMT: torch.Tensor, state: CausalState | None = None) -> torch.Tensor:
        """Normalised mel -> F0 (B, T) in Hz; with a state, only of frames whose look-ahead is there."""
        hidden = mel_BMT
        for index, layer in enumerate(self.condnet):
            hidden = layer(hidden, state) if isinstance(layer, Conv) else layer(hidden)
            if index == 0 and state is not None:
                hidden = hidden[..., state.skip :]
        return self.classifier(hidden.transpose(1, 2))[..., 0].float().abs() * self.scale_hz


class Vocoder(nn.Module):
    """Mel (B, 80, T) at 50 Hz to samples (B, 480 T) at 24 kHz.

    Causal weights answer 12 samples (half a millisecond) late: that is what makes the STFT pair causal.
    """

    HALF: ClassVar = ("ups", "source_downs", "source_resblocks", "resblocks")
    FULL: ClassVar = ()

    def __init__(self, config: VocoderConfig, *, weight_norm: bool = False) -> None:
        """`weight_norm`: keep magnitudes and directions apart, as the public files and their training do."""
        super().__init__()
        self.config, causal = config, config.causal
        self.m_source = HarmonicSource(
            config.num_harmonics,
            config.sample_rate,
            config.frame,
            config.sine_amplitude,
            config.noise_std,
            config.voiced_threshold_hz,
        )
        stages = len(config.upsample_rates)
        width = [config.base_channels // 2**i for i in range(stages + 1)]
        features = config.istft_size + 2
        self.conv_pre = Conv(config.mel_bins, width[0], 7, causal=causal, lookahead=config.lookahead_frames)
        self.ups = nn.ModuleList(
            Upsample(width[i], width[i + 1], kernel, rate, causal=causal)
            for i, (kernel, rate) in enumerate(zip(config.upsample_kernels, config.upsample_rates, strict=True))
        )
        self.source_downs = nn.ModuleList()
        step = 1
        downs: list[nn.Module] = []
        for i in reversed(range(stages)):  # the source's STFT has the last stage's rate
            downs.insert(0, Conv(features, width[i + 1], 2 * step if step > 1 else 1, stride=step, causal=causal))
            step *= config.upsample_rates[i]
        self.source_downs.extend(downs)
        self.source_resblocks = nn.ModuleList(
            ResBlock(channels, kernel, dilations, causal=causal)
            for channels, kernel, dilations in zip(
                width[1:], config.source_resblock_kernels, config.source_resblock_dilations, strict=True
            )
        )
        self.resblocks = nn.ModuleList(
            ResBlock(channels, kernel, dilations, causal=causal)
            for channels in width[1:]
            for kernel, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True)
        )
        self.conv_post = Conv(width[-1], features, 7, causal=causal)
        self.f0_predictor = F0Predictor(config)
        self.fourier = ShortFourier(config.istft_size, config.istft_hop)
        self._streaming = [m for m in self.modules() if isinstance(m, (Conv, Upsample))]
        for slot, layer in enumerate(self._streaming):
            layer.slot = slot
        self.graphs: Graphs | None = None
        if weight_norm:
            self._add_weight_norm()

    @classmethod
    def from_state(cls, config: VocoderConfig, state: dict[str, torch.Tensor], source: Path | str) -> "Vocoder":
        """Make a vocoder for inference from weights with or without weight norm. Raises CheckpointError."""
        state = checkpoint.public_names(state, source)
        vocoder = cls(config, weight_norm=any(".parametrizations." in name for name in state))
        checkpoint.load_into(vocoder, state, source)
        return vocoder.fuse().eval().requires_grad_(False)

    @classmethod
    def load(cls, directory: Path) -> "Vocoder":
        """Read a weights folder. Raises CheckpointError."""
        config = VocoderConfig.from_values(checkpoint.read_config(directory))
        return cls.from_state(config, checkpoint.read_state(directory), directory)

    def _add_weight_norm(self) -> None:
        for name, layer in self.named_modules():
            if isinstance(layer, (Conv, Upsample)) and not name.startswith("source_downs"):
                weight_norm(layer)

    def fuse(self) -> "Vocoder":
        """Multiply weight norm out, for inference; nothing happens when there is none."""
        for layer in self._streaming:
            if parametrize.is_parametrized(layer):
                parametrize.remove_parametrizations(layer, "weight")
        return self

    def pack(self) -> "Vocoder":
        """Lay the weights out anew where a CPU computes in float32; in place, for inference only."""
        weight = self._up_weight
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            for layer in self._streaming:
                layer.pack()
        return self

    def initial_state(
        self, batch: int = 1, *, seed: int = 0, left_context: int = 19, right_context: int = 18
    ) -> VocoderState:
        """State of a new stream. The contexts (mel frames) serve non-causal weights; 19 and 18 make them exact."""
        like = self.conv_post.bias
        assert like is not None
        generator = torch.Generator().manual_seed(seed)
        phase_B = torch.zeros(batch, dtype=torch.float64, device=like.device)
        config = self.config
        if not config.causal:
            return WindowState(
                mel_BMT=like.new_zeros(batch, config.mel_bins, 0),
                f0_BT=like.new_zeros(batch, 0),
                noise_BNH=like.new_zeros(batch, 0, config.num_harmonics + 1),
                phase_B=phase_B,
                generator=generator,
                seed=seed,
                left_context=left_context,
                right_context=right_context,
                spoken=0,
                first=True,
            )
        overlap = config.istft_size - config.istft_hop
        return CausalState(
            past=[like.new_zeros(batch, layer.in_channels, layer.history) for layer in self._streaming],
            source_past_BN=like.new_zeros(batch, overlap),
            tail_BN=like.new_zeros(batch, overlap),
            phase_B=phase_B,
            generator=generator,
            seed=seed,
            skip=config.lookahead_frames,
            lookahead=config.lookahead_frames,
        )

    def predict_f0(self, mel_BMT: torch.Tensor) -> torch.Tensor:
        """F0 (B, T) in Hz of a whole mel spectrogram."""
        return self.f0_predictor(self._normalise(mel_BMT))

    def forward(
        self, mel_BMT: torch.Tensor, *, f0_BT: torch.Tensor | None = None, noise_BNH: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Decode a whole mel spectrogram to samples (B, 480 T).

        `f0_BT` (Hz) replaces the predicted one; `noise_BNH` (unit Gaussian, (B, 480 T, 9)) the source's seeded noise.
        """
        f0_BT = self.predict_f0(mel_BMT) if f0_BT is None else f0_BT
        if noise_BNH is None:
            noise_BNH = self._noise(torch.Generator().manual_seed(0), f0_BT)
        zero_B = torch.zeros(len(f0_BT), dtype=torch.float64, device=f0_BT.device)
        return self.decode(mel_BMT, self.source(f0_BT, noise_BNH, zero_B))

    def stream(self, mel_BMT: torch.Tensor, state: VocoderState, last: bool = False) -> torch.Tensor:
        """Decode the next mel frames (any number, none too); returns the samples (B, N) that are final now.

        Together they equal `forward` of the whole. `last`: no frames follow, all that is held back is returned.
        """
        if isinstance(state, CausalState):
            return self._stream_causal(mel_BMT, state, last)
        return self._stream_window(mel_BMT, state, last)

    def use_graphs(
        self, state: VocoderState, num_frames: Sequence[int], capture: Callable[[], Capture] = CudaCapture
    ) -> None:
        """Record what comes of a stream of mel pieces, and run it by these recordings from now on, in this thread.

        The stream begins with `state`; `num_frames` of its pieces, the last of which repeats. Others are computed without.
        """
        function = self._filter_chunk if isinstance(state, CausalState) else self._decode_window
        self.graphs = self.graphs or Graphs(function, "vocoder", capture=capture)
        state, usual = state.clone(), num_frames[-1]
        kept = state.lookahead if isinstance(state, CausalState) else state.left_context + state.right_context
        with self.graphs.learning(), torch.inference_mode():
            for count in (*num_frames, *[usual] * (1 + kept // usual)):  # until what is kept has its largest size
                self.stream(self.conv_post.weight.new_zeros(len(state.phase_B), self.config.mel_bins, count), state)

    def _run(self, function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], state: Any) -> torch.Tensor:
        """The function's result, by a graph where there is one."""
        return function(*inputs, state) if self.graphs is None else self.graphs(inputs, state)

    def source(
        self, f0_BT: torch.Tensor, noise_BNH: torch.Tensor, phase_B: torch.Tensor, *, first: bool = True
    ) -> torch.Tensor:
        """Source samples (B, 480 T); `phase_B` is the phase before them, `first` says that the utterance begins."""
        if self.config.causal:
            phase_BTN = self.m_source.step_phase(f0_BT, phase_B)
        else:
            phase_BTN = self.m_source.centred_phase(f0_BT, phase_B, first)
        return self.m_source(f0_BT, phase_BTN, noise_BNH)

    def decode(self, mel_BMT: torch.Tensor, source_BN: torch.Tensor) -> torch.Tensor:
        """Mel (B, 80, T) and source samples (B, 480 T) to samples (B, 480 T), whole sequence."""
        fourier, size = self.fourier, self.config.istft_size
        hidden_BCT = self.conv_pre(self._normalise(mel_BMT))
        if self.config.causal:
            padded = functional.pad(source_BN, (size - self.config.istft_hop, 0))
            samples_BN = fourier.synthesise(self._filter(hidden_BCT, fourier.analyse(padded)))
            samples_BN = samples_BN[:, : source_BN.shape[1]] / fourier.steady_power
        else:
            padded = functional.pad(source_BN[:, None], (size // 2, size // 2), mode="reflect")[:, 0]
            spectrum_BFK = self._filter(hidden_BCT, fourier.analyse(padded))
            samples_BN = fourier.synthesise(spectrum_BFK) / fourier.power(spectrum_BFK.shape[2]).clamp_min(1e-8)
            samples_BN = samples_BN[:, size // 2 : -size // 2]
        return samples_BN.clamp(-self.config.audio_limit, self.config.audio_limit)

    def _normalise(self, mel_BMT: torch.Tensor) -> torch.Tensor:
        return (mel_BMT - self.config.mel_mean) / self.config.mel_scale

    def _noise(self, generator: torch.Generator, f0_BT: torch.Tensor) -> torch.Tensor:
        batch, frames = f0_BT.shape
        return draw_noise(generator, batch, frames, self.config.frame, self.config.num_harmonics + 1).to(f0_BT.device)

    @property
    def _up_weight(self) -> torch.Tensor:
        """A matrix that `lower` lowers."""
        weight = self.ups[0].weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def _filter(self, x: torch.Tensor, source_BFK: torch.Tensor, state: CausalState | None = None) -> torch.Tensor:
        """`conv_pre`'s output (B, C, T) and the source's STFT to the output's STFT (B, 18, K)."""
        per_stage = len(self.config.resblock_kernels)
        with computing(self._up_weight):
            for i, up in enumerate(self.ups):
                x = up(functional.leaky_relu(x, self.config.leaky_slope), state)
                if i + 1 == len(self.ups) and not self.config.causal:
                    x = functional.pad(x, (1, 0), mode="reflect")
                x = x.float() + self.source_resblocks[i](self.source_downs[i](source_BFK, state).float(), state)
                blocks = self.resblocks[i * per_stage : (i + 1) * per_stage]
                x = sum(block(x, state) for block in blocks) / per_stage
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 phases would be a noise floor of -48 dB
            out = self.conv_post(functional.leaky_relu(x.float()), state)
        size, phase = out.chunk(2, dim=1)
        size, phase = size.clamp(max=LOUDEST).exp(), torch.sin(phase) * self.config.phase_scale
        return torch.cat([size * torch.cos(phase), size * torch.sin(phase)], dim=1)

    def _stream_causal(self, mel_BMT: torch.Tensor, state: CausalState, last: bool) -> torch.Tensor:
        normal = self._normalise(mel_BMT)
        if last:
            normal = functional.pad(normal, (0, state.lookahead))
        batch, new = len(normal), normal.shape[2]
        ready = max(0, new - state.skip)
        samples_BN = self._run(
            self._filter_chunk, (normal, self._noise(state.generator, normal.new_zeros(batch, ready))), state
        )
        state.skip = max(0, state.skip - new)
        return samples_BN

    def _filter_chunk(self, normal_BMT: torch.Tensor, noise_BNH: torch.Tensor, state: CausalState) -> torch.Tensor:
        """Normalised mel and the source's noise of the frames whose look-ahead is there, to their samples (B, N)."""
        f0_BT = self.f0_predictor(normal_BMT, state)
        hidden_BCT = self.conv_pre(normal_BMT, state)[..., state.skip :]
        if not f0_BT.shape[1]:
            return normal_BMT.new_zeros(len(normal_BMT), 0)
        source_BN = self.source(f0_BT, noise_BNH, state.phase_B)
        state.phase_B.copy_(self.m_source.advance(f0_BT, state.phase_B)[:, -1] % 1.0)
        source_BFK = self.fourier.analyse(extend(state.source_past_BN, source_BN))
        joined_BN = self.fourier.synthesise(self._filter(hidden_BCT, source_BFK, state))
        overlap = state.tail_BN.shape[1]
        joined_BN[:, :overlap] += state.tail_BN
        state.tail_BN.copy_(joined_BN[:, -overlap:])
        limit = self.config.audio_limit
        return (joined_BN[:, :-overlap] / self.fourier.steady_power).clamp(-limit, limit)

    def _decode_window(self, mel_BMT: torch.Tensor, source_BN: torch.Tensor, _nothing: Nothing) -> torch.Tensor:
        return self.decode(mel_BMT, source_BN)

    def _stream_window(self, mel_BMT: torch.Tensor, state: WindowState, last: bool) -> torch.Tensor:
        frame = self.config.frame
        state.mel_BMT = torch.cat([state.mel_BMT, mel_BMT], dim=2)
        received = state.mel_BMT.shape[2]
        end = received if last else max(state.spoken, received - state.right_context)
        if end == state.spoken:
            return mel_BMT.new_zeros(len(mel_BMT), 0)
        predicted_BT = self.predict_f0(state.mel_BMT)
        settled = state.f0_BT.shape[1]
        f0_BT = torch.cat([state.f0_BT, predicted_BT[:, settled:]], dim=1)
        missing = f0_BT.shape[1] - state.noise_BNH.shape[1] // frame
        state.noise_BNH = torch.cat([state.noise_BNH, self._noise(state.generator, f0_BT[:, :missing])], dim=1)
        source_BN = self.source(f0_BT, state.noise_BNH, state.phase_B, first=state.first)
        samples_BN = self._run(self._decode_window, (state.mel_BMT, source_BN), Nothing())
        samples_BN = samples_BN[:, state.spoken * frame : end * frame]
        drop = max(0, end - state.left_context)
        if drop:
            state.phase_B = self.m_source.advance(f0_BT[:, :drop], state.phase_B)[:, -1] % 1.0
            state.first = False
        state.mel_BMT, state.noise_BNH = state.mel_BMT[..., drop:], state.noise_BNH[:, drop * frame :]
        state.f0_BT, state.spoken = f0_BT[:, drop:end], end - drop
        return samples_BN
