"""Paraformer's encoder as streaming sees it, for all chunks of a batch at once.

FunASR streams in windows (`SANMEncoderChunkOpt.forward_chunk`): every chunk of C frames is encoded together with R
frames of look-ahead; its memory blocks see nothing outside the window; attention also reaches the last `look_back`
chunks. Two things differ from FunASR's own chunked training, and a model that has not met them does not stream well:
  - the stream begins with R all-zero frames (after the position encoding), so the first chunk holds R of them;
  - the CIF counts the C first frames of each window, and the whole window of the last one.
Everything here runs FunASR's own layers, so that what is trained is what streams (a test compares both).

Legend: B batch, F frames, N windows, W = C + R frames of a window, P = R + F frames of the padded stream, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """The streaming layout, in encoder frames of 60 ms."""

    chunk: int = 8
    lookahead: int = 4
    encoder_look_back: int = 4  # chunks the encoder's attention reaches back
    decoder_look_back: int = 1  # chunks the decoder's attention reaches back


@dataclass(frozen=True)
class Encoded:
    """Encoder output in the terms of the predictor and decoder; the whole-utterance case has one window."""

    frames_BPD: Tensor  # each frame of the stream once, as the CIF integrates it
    alphas_BP: Tensor  # unscaled CIF weights
    memory_BMD: Tensor  # what the decoder's attention sees: all windows back to back
    memory_lengths_B: Tensor
    middle_BPD: Tensor  # output of the encoder's middle layer
    lead: int  # zero frames before the first real one
    layout: "Layout | None"


class Layout:
    """Which frame sits in which window, and which windows see each other."""

    def __init__(self, lengths_B: Tensor, chunking: Chunking) -> None:
        self.chunking = chunking
        c, r = chunking.chunk, chunking.lookahead
        self.size = c + r
        self.num_windows_B = (lengths_B + c - 1) // c
        self.count = int(self.num_windows_B.max())
        num_frames = int(lengths_B.max())
        device = lengths_B.device
        window = torch.arange(self.count, device=device)
        self.source_NW = window[:, None] * c + torch.arange(self.size, device=device)[None]
        in_stream = self.source_NW[None] < (lengths_B + r)[:, None, None]
        self.valid_BNW = in_stream & (window[None, :, None] < self.num_windows_B[:, None, None])
        # Each stream frame is taken from the first window that has it in its chunk; the last window keeps its tail.
        stream = torch.arange(r + num_frames, device=device)
        self.owner_BP = torch.minimum(stream[None] // c, self.num_windows_B[:, None] - 1)
        self.flat_BP = self.owner_BP * self.size + (stream[None] - self.owner_BP * c)
        self.stream_valid_BP = stream[None] < (lengths_B + r)[:, None]
        self.flat_BP = self.flat_BP.clamp(max=self.count * self.size - 1)
        last = self.num_windows_B - 1
        self.memory_lengths_B = last * self.size + self.valid_BNW.sum(2).gather(1, last[:, None])[:, 0]

    def split(self, stream_BPD: Tensor) -> Tensor:
        """(B, P, D) -> (B, N, W, D), zero where there is no frame."""
        index = self.source_NW.clamp(max=stream_BPD.shape[1] - 1)
        return stream_BPD[:, index] * self.valid_BNW[..., None]

    def merge(self, windows_BNWD: Tensor) -> Tensor:
        """(B, N, W, D) -> (B, P, D): each frame of the stream once."""
        flat = windows_BNWD.flatten(1, 2)
        taken = flat.gather(1, self.flat_BP[..., None].expand(-1, -1, flat.shape[-1]))
        return taken * self.stream_valid_BP[..., None]

    def encoder_mask(self) -> Tensor:
        """(B, N*W, N*W): its own window, and the chunk part of the `encoder_look_back` windows before."""
        device = self.valid_BNW.device
        window = torch.arange(self.count, device=device).repeat_interleave(self.size)
        place = torch.arange(self.size, device=device).repeat(self.count)
        back = window[:, None] - window[None]
        near = (back > 0) & (back <= self.chunking.encoder_look_back) & (place[None] < self.chunking.chunk)
        sees = (back == 0) | near
        mask = sees[None] & self.valid_BNW.flatten(1)[:, None]
        return mask | torch.eye(len(window), dtype=torch.bool, device=device)  # no empty row: its gradient would be NaN

    def decoder_mask(self, alphas_BP: Tensor, num_pieces: int) -> Tensor:
        """(B, L, N*W): a piece sees the window it fires in and the tail of the last window in which a piece fired."""
        fired = torch.cumsum(alphas_BP.detach().double(), 1)
        number = torch.arange(1, num_pieces + 1, device=fired.device)
        frame = (fired[:, None] < number[None, :, None] - 1e-4).sum(2)
        owner = self.owner_BP.gather(1, frame.clamp(max=self.owner_BP.shape[1] - 1))
        # Streaming keeps the decoder's memory only of chunks in which a piece fired.
        changed = torch.cat([torch.zeros_like(owner[:, :1], dtype=torch.bool), owner[:, 1:] > owner[:, :-1]], 1)
        run = torch.cumsum(changed, 1)
        starts = torch.full((len(owner), num_pieces + 1), -1, device=owner.device)
        starts.scatter_(1, run + 1, owner)
        previous = starts.gather(1, run)
        device = self.valid_BNW.device
        window = torch.arange(self.count, device=device).repeat_interleave(self.size)
        place = torch.arange(self.size, device=device).repeat(self.count)
        kept = place >= self.size - self.chunking.chunk * self.chunking.decoder_look_back
        mask = (window == owner[..., None]) | ((window == previous[..., None]) & kept)
        mask = mask & self.valid_BNW.flatten(1)[:, None]
        mask[..., 0] |= ~mask.any(2)
        return mask[..., : int(self.memory_lengths_B.max())]


def encode(model: Any, features_BFM: Tensor, lengths_B: Tensor, chunking: Chunking | None, middle: int) -> Encoded:
    """Run Paraformer's encoder and CIF weights over normalised features, whole or in streaming windows.

    `middle` is the layer whose output is returned for the phone supervision.
    """
    encoder = model.encoder
    width = encoder.output_size()
    features = (
        encoder.embed(features_BFM * width**0.5) if chunking is None else _positions(encoder, features_BFM, width)
    )
    layers = [*encoder.encoders0, *encoder.encoders]
    if chunking is None:
        valid = torch.arange(features.shape[1], device=features.device)[None] < lengths_B[:, None]
        x, inner = features, features
        for i, layer in enumerate(layers):
            x = layer(x, valid[:, None])[0]
            inner = x if i == middle else inner
        x = encoder.after_norm(x) * valid[..., None]
        return Encoded(x, cif_weights(model.predictor, x) * valid, x, lengths_B, inner, 0, None)
    layout = Layout(lengths_B, chunking)
    real = (torch.arange(features.shape[1], device=features.device)[None] < lengths_B[:, None])[..., None]
    stream = nn.functional.pad(features * real, (0, 0, chunking.lookahead, 0))
    x = layout.split(stream)
    inner = x
    mask = layout.encoder_mask()
    for i, layer in enumerate(layers):
        x = _window_layer(layer, x, layout.valid_BNW, mask)
        inner = x if i == middle else inner
    x = encoder.after_norm(x) * layout.valid_BNW[..., None]
    alphas = cif_weights(model.predictor, x.flatten(0, 1)).unflatten(0, x.shape[:2])
    frames = layout.merge(x)
    merged = layout.merge(alphas[..., None])[..., 0]
    memory = x.flatten(1, 2)[:, : int(layout.memory_lengths_B.max())]
    return Encoded(frames, merged, memory, layout.memory_lengths_B, layout.merge(inner), chunking.lookahead, layout)


def _positions(encoder: Any, features_BFM: Tensor, width: int) -> Tensor:
    scaled = features_BFM * width**0.5
    positions = torch.arange(1, scaled.shape[1] + 1, device=scaled.device)[None]
    return scaled + encoder.embed.encode(positions, scaled.shape[2], scaled.dtype)


def _window_layer(layer: Any, x_BNWD: Tensor, valid_BNW: Tensor, mask: Tensor) -> Tensor:
    attention = layer.self_attn
    shape = x_BNWD.shape[:2]
    x = layer.norm1(x_BNWD)
    query, key, value, memory = attention.forward_qkv(x.flatten(1, 2))
    memory = memory.unflatten(1, x.shape[1:3]).flatten(0, 1)
    blocks = attention.forward_fsmn(memory, valid_BNW.flatten(0, 1)[:, None].to(memory.dtype)).unflatten(0, shape)
    scores = (query * attention.d_k**-0.5) @ key.transpose(-2, -1)
    mixed = attention.forward_attention(value, scores, mask).unflatten(1, x.shape[1:3]) + blocks
    out = layer.dropout(mixed)
    x = x_BNWD + out if layer.in_size == layer.size else out
    return x + layer.dropout(layer.feed_forward(layer.norm2(x)))


def cif_weights(predictor: Any, frames_BFD: Tensor) -> Tensor:
    """The predictor's weights before any scaling, (B, F) float32."""
    with torch.autocast(frames_BFD.device.type, enabled=False):
        hidden = torch.relu(predictor.cif_conv1d(predictor.pad(frames_BFD.float().transpose(1, 2))))
        return torch.sigmoid(predictor.cif_output(hidden.transpose(1, 2)))[..., 0]


def integrate(frames_BPD: Tensor, alphas_BP: Tensor, num_pieces: int) -> Tensor:
    """Continuous integrate-and-fire with threshold 1 as one matrix product, (B, L, D).

    Piece k takes from each frame the part of its weight that lies between k and k + 1 of the running sum.
    """
    after = torch.cumsum(alphas_BP, 1)
    before = after - alphas_BP
    k = torch.arange(num_pieces, dtype=after.dtype, device=after.device)[None, :, None]
    share = (torch.minimum(after[:, None], k + 1) - torch.maximum(before[:, None], k)).clamp(min=0)
    return share @ frames_BPD.to(share.dtype)
