"""Weights in the layouts of the public releases: read strictly, and only tensors."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import tts
from configs.schema import RuntimeConfig, TtsConfig
from tests.public_folder import FLOW, LM, SPEAKER, TOKENIZER, VOCODER
from tts import public
from tts.base import CheckpointError
from tts.decoder.config import FlowConfig
from tts.decoder.flow import FlowDecoder
from tts.decoder.vocoder import Vocoder, VocoderConfig
from tts.interleaved.model import TIED_HEAD, InterleavedLm
from tts.speaker import SpeakerEncoder
from tts.tokenizer import SpeechTokenizer

State = dict[str, Any]
PARTS: list[public.Part[Any, Any]] = [
    public.FLOW,
    public.VOCODER,
    public.INTERLEAVED,
    public.SPEECH_TOKENIZER,
    public.SPEAKER,
]


def seeded(make: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(0)
    return make().eval()


@pytest.fixture(scope="module")
def flow() -> FlowDecoder:
    return seeded(lambda: FlowDecoder(FLOW))


@pytest.fixture(scope="module")
def vocoder() -> Vocoder:
    """With weight norm, as it is published; magnitudes that are not those of the directions."""
    made: Vocoder = seeded(lambda: Vocoder(VOCODER, weight_norm=True))
    for name, weight in made.named_parameters():
        if name.endswith("original0"):
            weight.data.mul_(1.5)
    return made


def older(state: State) -> State:
    return {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in state.items()
    }


def prefixed(state: State) -> State:
    return {f"generator.{name}": value for name, value in state.items()}


def trained(state: State) -> State:
    """What GAN training and a trainer's counters leave in a file."""
    return {**prefixed(state), "discriminator.conv.weight": torch.zeros(3), "epoch": 7, "step": 4000}


def mel_of(flow: FlowDecoder) -> Tensor:
    tokens = torch.arange(12)[None]
    return flow.generate(tokens, torch.linspace(-1, 1, 192)[None], num_flow_steps=2)


def samples_of(vocoder: Vocoder) -> Tensor:
    mel = torch.linspace(-8, 1, 80 * 6).view(1, 80, 6)
    return vocoder.decode(mel, torch.linspace(-0.1, 0.1, 6 * 480)[None])


@pytest.mark.parametrize("written", [dict, prefixed, trained])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_flow(flow: FlowDecoder, tmp_path: Path, written: Callable[[State], State], legacy: bool) -> None:
    torch.save(written(flow.state_dict()), tmp_path / "flow.pt", _use_new_zipfile_serialization=not legacy)
    for path in (tmp_path, tmp_path / "flow.pt"):
        assert torch.equal(mel_of(public.load(public.FLOW, path, config=FLOW)), mel_of(flow))


@pytest.mark.parametrize("written", [dict, prefixed, trained])
@pytest.mark.parametrize("names", [dict, older], ids=["new", "old"])
@torch.no_grad()
def test_vocoder(
    vocoder: Vocoder, tmp_path: Path, written: Callable[[State], State], names: Callable[[State], State]
) -> None:
    torch.save(written(names(vocoder.state_dict())), tmp_path / "hift.pt")
    for path in (tmp_path, tmp_path / "hift.pt"):
        loaded = public.load(public.VOCODER, path, config=VOCODER)
        assert not any("parametrizations" in name for name in loaded.state_dict())
        torch.testing.assert_close(samples_of(loaded), samples_of(vocoder), atol=1e-6, rtol=0)


@pytest.mark.parametrize("written", [dict, prefixed])
@pytest.mark.parametrize("head", [True, False], ids=["tied_head", "no_head"])
def test_interleaved(tmp_path: Path, written: Callable[[State], State], head: bool) -> None:
    model = seeded(lambda: InterleavedLm(LM))
    state = {name: value for name, value in model.state_dict().items() if head or name != TIED_HEAD}
    torch.save(written(state), tmp_path / "llm.pt")
    ids = torch.tensor([[LM.sos, 3, 4, LM.task, LM.speech_offset + 5]])
    with torch.inference_mode():
        loaded = public.load(public.INTERLEAVED, tmp_path, config=LM)
        assert torch.equal(model(model.embed(ids)), loaded(loaded.embed(ids)))


@pytest.mark.parametrize("tables", [True, False])
def test_combined_file(flow: FlowDecoder, vocoder: Vocoder, tmp_path: Path, tables: bool) -> None:
    tokenizer, speaker = seeded(lambda: SpeechTokenizer(TOKENIZER)), seeded(lambda: SpeakerEncoder(SPEAKER))
    parts = {"flow.": flow, "mel2wav.": vocoder, "tokenizer.": tokenizer, "speaker_encoder.": speaker}
    state = {f"{prefix}{name}": value for prefix, model in parts.items() for name, value in model.state_dict().items()}
    if tables:
        state |= {"tokenizer._mel_filters": torch.zeros(128, 201), "tokenizer.window": torch.zeros(400)}
    save_file(state, tmp_path / public.COMBINED)
    assert torch.equal(mel_of(public.load(public.FLOW, tmp_path, config=FLOW)), mel_of(flow))
    with torch.no_grad():
        ours = samples_of(public.load(public.VOCODER, tmp_path, config=VOCODER))
        torch.testing.assert_close(ours, samples_of(vocoder), atol=1e-6, rtol=0)
        loaded = public.load(public.SPEECH_TOKENIZER, tmp_path, config=TOKENIZER)
        mel = torch.linspace(-1, 1, 128 * 40).view(1, 128, 40)
        assert torch.equal(loaded(mel), tokenizer(mel))
        fbank = torch.linspace(-1, 1, 80 * 30).sin().view(1, 30, 80)
        assert torch.equal(public.load(public.SPEAKER, tmp_path, config=SPEAKER)(fbank), speaker(fbank))
    save_file({**state, "flow.extra": torch.zeros(1), "stray": torch.zeros(2)}, tmp_path / public.COMBINED)
    with pytest.raises(CheckpointError, match=r"extra 2 \((stray \[2\], extra \[1\]|extra \[1\], stray \[2\])\)"):
        public.load(public.FLOW, tmp_path, config=FLOW)


def test_half_precision_becomes_float32(flow: FlowDecoder, tmp_path: Path) -> None:
    torch.save({name: value.bfloat16() for name, value in flow.state_dict().items()}, tmp_path / "flow.pt")
    assert {value.dtype for value in public.load(public.FLOW, tmp_path, config=FLOW).state_dict().values()} == {
        torch.float32
    }


def test_missing_extra_and_misshapen_are_named_with_their_shapes(flow: FlowDecoder, tmp_path: Path) -> None:
    state = dict(flow.state_dict())
    del state["encoder_proj.bias"]
    state["encoder_proj.gain"] = torch.zeros(2, 3)
    state["input_embedding.weight"] = torch.zeros(26, 16)
    torch.save(state, tmp_path / "flow.pt")
    with pytest.raises(CheckpointError) as caught:
        public.load(public.FLOW, tmp_path, config=FLOW)
    message = str(caught.value)
    assert str(tmp_path / "flow.pt") in message
    assert "missing 1 (encoder_proj.bias [80])" in message
    assert "extra 1 (encoder_proj.gain [2, 3])" in message
    assert "misshapen 1 (input_embedding.weight is [26, 16], expected [27, 16])" in message


def test_a_file_of_another_model_is_told_in_a_few_lines(vocoder: Vocoder, tmp_path: Path) -> None:
    torch.save(vocoder.state_dict(), tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match=r"does not fit FlowDecoder: missing .* extra ") as caught:
        public.load(public.FLOW, tmp_path, config=FLOW)
    assert len(str(caught.value)) < 1000


def test_one_tensor_under_two_names_is_refused(vocoder: Vocoder, tmp_path: Path) -> None:
    state = vocoder.state_dict()
    torch.save({**state, **older({"conv_pre.parametrizations.weight.original0": torch.ones(16, 1, 1)})}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="twice"):
        public.load(public.VOCODER, tmp_path / "x", config=VOCODER)


class Hostile:
    """Runs a command when it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, legacy: bool) -> None:
    victim = tmp_path / "victim"
    torch.save({"a": Hostile(victim)}, tmp_path / "flow.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"mkdir.* refused"):
        public.load(public.FLOW, tmp_path)
    (tmp_path / "flow.pt").write_bytes(pickle.dumps({"a": Hostile(victim)}))
    with pytest.raises(CheckpointError, match=r"not what torch\.save writes"):
        public.load(public.FLOW, tmp_path)
    assert not victim.exists()


def test_a_whole_pickled_module_is_refused(flow: FlowDecoder, tmp_path: Path) -> None:
    torch.save(flow.encoder_proj, tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.* refused"):
        public.load(public.FLOW, tmp_path)


@pytest.mark.parametrize("value", [[torch.zeros(1)], torch.zeros(2), {3: torch.zeros(1)}, {"state_dict": {}}])
def test_a_file_without_a_table_of_tensors_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match=r"not a (plain )?table of (named )?tensors"):
        public.load(public.FLOW, tmp_path)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(flow: FlowDecoder, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"flow.{suffix}"
    (torch.save if suffix == "pt" else save_file)(flow.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="fetch it again"):
        public.load(public.FLOW, path, config=FLOW)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_other_content_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"flow.{suffix}"
    path.write_text("<!doctype html><title>Sign in</title>")
    with pytest.raises(CheckpointError, match="fetch it again"):
        public.load(public.FLOW, path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        public.load(public.FLOW, path)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    for part in PARTS:
        with pytest.raises(CheckpointError, match="no weights in"):
            public.load(part, tmp_path)


def test_a_folder_of_our_own_wins_over_a_public_file_in_it(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "flow.pt")
    (tmp_path / "config.json").write_text("{}")  # CosyVoice 2's folder has such a file
    assert public.find(public.FLOW, tmp_path) == tmp_path / "flow.pt"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert public.find(public.FLOW, tmp_path) is None


@pytest.mark.parametrize("part", [public.FLOW, public.VOCODER, public.INTERLEAVED], ids=lambda part: part.file)
def test_check_wants_the_public_sizes(part: public.Part[Any, Any], tmp_path: Path) -> None:
    assert public.check(part, tmp_path) is None
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in part.make(part.config).state_dict().items()}
    # One shared number stands for every tensor, so that files of full size stay small.
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, tmp_path / part.file)
    assert public.check(part, tmp_path) == tmp_path / part.file
    last = list(shapes)[-1]
    torch.save({n: torch.zeros(1).expand(s) for n, s in shapes.items() if n != last}, tmp_path / part.file)
    with pytest.raises(CheckpointError, match=f"missing 1 \\({last}"):
        public.check(part, tmp_path)


def test_the_configuration_takes_public_files(flow: FlowDecoder, vocoder: Vocoder, tmp_path: Path) -> None:
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    torch.save(vocoder.state_dict(), tmp_path / "hift.pt")
    for chosen in (replace(TtsConfig(), flow=str(tmp_path)), replace(TtsConfig(), vocoder=str(tmp_path / "hift.pt"))):
        with pytest.raises(CheckpointError, match=r"(flow|hift)\.pt does not fit (FlowDecoder|Vocoder): .*misshapen"):
            tts.build(chosen, RuntimeConfig())


@torch.inference_mode()
def test_files_of_the_public_size_decode(tmp_path: Path) -> None:
    def write(model: nn.Module, file: Path) -> None:
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        numbers = 0.05 * torch.randn(
            max(shape.numel() for shape in shapes.values())
        )  # all tensors share them: small files
        torch.save({name: numbers[: shape.numel()].view(shape) for name, shape in shapes.items()}, file)

    torch.manual_seed(0)
    with torch.device("meta"):
        made = {public.FLOW: FlowDecoder(FlowConfig()), public.VOCODER: Vocoder(VocoderConfig(), weight_norm=True)}
    for part, model in made.items():
        write(model, tmp_path / part.file)
    config = TtsConfig(flow=str(tmp_path / "flow.pt"), vocoder=str(tmp_path / "hift.pt"))
    flow, vocoder = tts.load_flow(config, "cpu"), tts.load_vocoder(config, "cpu")
    sizes = [sum(value.numel() for value in model.state_dict().values()) for model in (flow, vocoder)]
    magnitudes = sum(
        value.numel() for name, value in made[public.VOCODER].state_dict().items() if name.endswith("original0")
    )
    assert sizes == [112_549_360, 20_821_295 - magnitudes]  # weight norm is multiplied out
    state = flow.start(torch.randn(1, 192), num_flow_steps=2)
    mel = flow.step(torch.randint(6561, (1, 28)), state)
    assert mel.shape == (1, 80, 50)
    samples = vocoder.stream(mel, vocoder.initial_state(), last=True)
    assert samples.shape == (1, 50 * 480)
    assert samples.isfinite().all()
    assert samples.std() > 0
