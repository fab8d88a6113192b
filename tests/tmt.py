"""A small temporal masked transformer, what it says as text arrives, and the full passes that each step must equal."""

import dataclasses

import numpy as np
import torch

from tts.tmt.config import TmtConfig
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.layout import Field, Role, one_step, visible
from tts.tmt.model import Tmt

CONFIG = TmtConfig(
    text_vocab_size=40,
    num_speech_tokens=27,
    num_duration_classes=8,
    dim=32,
    num_layers=3,
    num_heads=2,
    ff_dim=48,
    max_lookahead=32,
    index_slots=8,
    frame_embeddings=True,
)

TEXT = [int(i) for i in np.random.default_rng(3).integers(0, 40, 14)]


def make(**changes: object) -> Tmt:
    """A model with weights large enough that every visible position matters."""
    torch.manual_seed(0)
    model = Tmt(dataclasses.replace(CONFIG, **changes)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.35)
    return model


def stream(
    model: Tmt, text: list[int], lookahead: int, arrivals: list[int] | None = None, **options: object
) -> tuple[list[list[int]], TmtDecoder]:
    """Blocks of an utterance whose text arrives in portions of the given sizes (then all the rest)."""
    decoder = TmtDecoder(model, DecodeOptions(lookahead=lookahead, **options))
    blocks: list[list[int]] = []
    rest = list(text)
    for size in [*(arrivals or []), len(text)]:
        for token in rest[:size]:
            decoder.push(token)
        rest = rest[size:]
        if not rest:
            decoder.finish()
        while (block := decoder.step()) is not None:
            assert block.text_token == len(blocks)
            blocks.append(block.tokens.tolist())
    return blocks, decoder


def select(rows: np.ndarray, role: Role, index: int) -> np.ndarray:
    return np.flatnonzero((rows[Field.ROLE] == role) & (rows[Field.INDEX] == index))


class Recorded:
    """A decoded utterance, the logits of every step, and how much text had arrived for each."""

    def __init__(self, model: Tmt, text: list[int], lookahead: int, arrivals: list[int], seed: int) -> None:
        self.options = DecodeOptions(lookahead=lookahead, seed=seed)
        decoder = TmtDecoder(model, self.options)
        self.blocks: list[np.ndarray] = []
        self.arrived: list[int] = []  # E included
        self.speech: list[torch.Tensor] = []
        self.durations: list[torch.Tensor] = []
        heads = ((model.speech_head, self.speech), (model.duration_head, self.durations))
        hooks = [head.register_forward_hook(lambda *call, to=to: to.append(call[-1].clone())) for head, to in heads]
        rest, pushed = list(text), 0
        for size in [*arrivals, len(text)]:
            for token in rest[:size]:
                decoder.push(token)
            pushed += len(rest[:size])
            rest = rest[size:]
            if not rest:
                decoder.finish()
            while (block := decoder.step()) is not None:
                self.blocks.append(block.tokens)
                self.arrived.append(pushed + (not rest))
        assert decoder.done
        for hook in hooks:
            hook.remove()


def check_against_full_passes(model: Tmt, text: list[int], lookahead: int, spoken: Recorded) -> None:
    """Every step equals one pass over the training sequence of that step: logits, speech tokens, drawn durations."""
    config = model.config
    lengths = np.array([len(block) for block in spoken.blocks])
    tokens = np.concatenate(spoken.blocks).astype(np.int64)
    furthest = lookahead if config.mask == "prefix" else config.max_lookahead
    drawing = TmtDecoder(model, spoken.options)
    for step in range(len(text) + 1):
        number = max(step, 1)
        num_text = min(spoken.arrived[number - 1], number + furthest)
        rows, _, _ = one_step(config, np.array(text), lengths, tokens, lookahead, step, num_text=num_text)
        tensor = torch.from_numpy(rows)[None]
        hidden = model(tensor, visible(tensor, tensor, config.window))[0]
        if step and lengths[step - 1]:
            speech = model.speech_head(hidden[rows[Field.ROLE] == Role.MASKED])
            torch.testing.assert_close(spoken.speech[step - 1], speech, atol=1e-4, rtol=0)
            assert speech.argmax(-1).tolist() == spoken.blocks[step - 1].tolist()
        if step < len(text):
            duration = model.duration_head(hidden[-1])
            torch.testing.assert_close(spoken.durations[step], duration, atol=1e-4, rtol=0)
            assert drawing.draw_duration(duration)[0] == lengths[step]
