"""One GPU for three models, tested where there is none: the plan, the devices, the default configuration."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app import assemble, cli, configuration, doctor
from app.gpu_plan import Plan, plan, plan_for, speech_cache_gib
from app.needs import needs
from configs import device
from configs.loader import DEFAULTS, load
from configs.schema import ConfigError
from llm.base import ChatModelError
from llm.folder import BUNDLED_FOLDER
from llm.vllm_engine import _arguments
from tests.public_folder import FLOW, LM, SPEAKER, TOKENIZER, VOCODER
from tts.decoder.flow import FlowDecoder
from tts.decoder.source import ShortFourier
from tts.decoder.vocoder import Vocoder
from tts.features import fbank_16k, log_mel_16k
from tts.interleaved.model import InterleavedLm
from tts.interleaved.state import InterleavedState
from tts.speaker import SpeakerEncoder
from tts.stream import primed
from tts.tokenizer import SpeechTokenizer

GPU = DEFAULTS / "gpu.yaml"
MODELS = {"asr": 0.9, "tts": 3.0, "llm": 7.5, "speech_cache": 8.5}


def test_a_large_gpu_gives_the_language_model_what_it_can_use() -> None:
    made = plan(139.0, **MODELS)
    assert made.fits
    assert made.parts["language model's cache"] == 3.0
    assert made.llm_share == pytest.approx((7.5 + 2.0 + 3.0) / 139.0)


def test_a_smaller_gpu_takes_it_from_the_cache() -> None:
    made = plan(26.0, **MODELS)
    assert made.fits
    assert made.needed == pytest.approx(26.0)
    assert 0.5 < made.parts["language model's cache"] < 3.0
    rest = sum(size for name, size in made.parts.items() if not name.startswith("language model"))
    assert made.llm_share * 26.0 + rest <= 26.0 + 1e-9


def test_what_does_not_fit_is_said() -> None:
    made = plan(12.0, **MODELS)
    assert not made.fits
    assert made.parts["language model's cache"] == 0.5
    assert f"{made.needed - 12.0:.1f} too much" in made.lines()[1]
    assert Plan(total=0.0, parts={"CUDA": 1.0}).fits is False


def test_the_decoders_cache_is_that_of_the_public_model() -> None:
    """56 layers, keys and values of 512 numbers, ten steps, two guidance rows: 4.59 MB per mel frame of 40 s."""
    size = speech_cache_gib(layers=56, width=512, num_flow_steps=10, guided=True, conversations=1)
    assert size * 2**30 == pytest.approx(4.59e6 * 2000, rel=1e-3)
    few = speech_cache_gib(layers=56, width=512, num_flow_steps=2, guided=False, conversations=3)
    assert few == pytest.approx(size * 3 / 10)


def test_a_child_process_needs_a_cuda_context_of_its_own() -> None:
    own, child = (plan_for(load(GPU, [f"llm.vllm_process={process}"]), 80.0) for process in ("own", "child"))
    assert child.parts["CUDA"] == 2 * own.parts["CUDA"] > 0
    assert child.parts["language model"] == own.parts["language model"]


def test_the_plan_of_a_configuration_counts_what_is_published_where_nothing_lies_here() -> None:
    public, small = plan_for(load(GPU), 80.0), plan_for(load(DEFAULTS / "tiny.yaml"), 80.0)
    assert public.parts["language model"] == pytest.approx(8.06e9 / 2**30 + 2.0)
    assert small.parts["language model"] == pytest.approx(2.0, abs=0.05)
    assert small.parts["voice's cache"] < 0.3 < public.parts["voice's cache"]


def test_the_share_reaches_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(GPU, ["llm.model=bundled"])
    monkeypatch.setattr("llm.has_vllm", lambda: True)
    monkeypatch.setattr(assemble, "total_gib", lambda _: 80.0)
    shared = assemble._sharing_gpu(config, config, 1)
    assert shared.llm.gpu_share == pytest.approx(plan_for(config, 80.0).llm_share)
    chosen = replace(config, llm=replace(config.llm, gpu_share=0.4))
    assert assemble._sharing_gpu(chosen, chosen, 1).llm.gpu_share == 0.4
    monkeypatch.setattr(assemble, "total_gib", lambda _: 8.0)
    with pytest.raises(ChatModelError, match=r"the GPU is too small for this configuration: .* too much"):
        assemble._sharing_gpu(config, config, 1)
    monkeypatch.setattr(assemble, "total_gib", lambda _: None)
    assert assemble._sharing_gpu(config, config, 1) == config


def test_the_conversations_at_once_reach_the_plan_and_the_engine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, built = load(GPU, ["llm.model=bundled", "runtime.tts_workers=1"]), []
    monkeypatch.setattr("llm.has_vllm", lambda: True)
    monkeypatch.setattr("llm.build", lambda llm, runtime, conversations: built.append((llm.gpu_share, conversations)))
    monkeypatch.setattr(assemble, "total_gib", lambda _: 24.0)
    monkeypatch.setattr(assemble, "build_recognizer", lambda _: None)
    monkeypatch.setattr(assemble, "build_synthesizer", lambda _: None)
    for conversations in (1, 3):
        assemble.Assistant.build(config, lambda text: None, conversations)
    assert built == [(plan_for(config, 24.0, conversations).llm_share, conversations) for conversations in (1, 3)]
    assert built[0][0] > built[1][0]
    assert not caplog.text
    assemble.Assistant.build(config, lambda text: None, 8)
    fitting = max(count for count in range(1, 9) if plan_for(config, 24.0, count).fits)
    assert built[2] == (plan_for(config, 24.0, fitting).llm_share, 8)
    assert f"planned for {fitting} of 8 conversations" in caplog.text


def test_vllm_takes_two_requests_of_each_conversation_and_keeps_what_they_share() -> None:
    arguments = [_arguments(BUNDLED_FOLDER, "cpu", 512, 0.0, conversations) for conversations in (1, 5)]
    assert [values["max_num_seqs"] for values in arguments] == [2, 10]
    assert all(values["enable_prefix_caching"] is True for values in arguments)


def test_doctor_plans_for_one_conversation_and_for_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "gpu", lambda: "a GPU")
    monkeypatch.setattr(doctor, "total_gib", lambda _: 24.0)
    config = load(GPU, ["web.max_sessions=6"])
    found = {finding.title: finding for finding in doctor.gpu_memory(config)}
    for conversations, held in ((1, ""), (6, " of 6 conversations at once")):
        made = plan_for(config, 24.0, conversations)
        assert found[f"plan{held}"].value == made.lines()[0]
        assert found[f"sum{held}"].good == made.fits == (conversations == 1)
    assert "web.max_sessions" in found["sum of 6 conversations at once"].hint
    assert not found["sum of 6 conversations at once"].needed
    alone = doctor.gpu_memory(load(GPU, ["web.max_sessions=1"]))
    assert [finding.title for finding in alone] == ["plan", "sum"]


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:", "mps", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="choose auto, cpu, cuda or cuda:N"):
        device.resolve(name)


@pytest.mark.parametrize(("chosen", "wanted"), [("one", {"asr": None, "tts": None}), ("own", {"asr": 0, "tts": -1})])
def test_the_voice_goes_first_where_threads_have_cuda_streams_of_their_own(
    chosen: str, wanted: dict[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    priorities: dict[str, int | None] = {}

    def kept(name: str, priority: int | None = None, *, num_threads: int = 1) -> None:
        priorities[name] = priority

    monkeypatch.setattr(assemble, "Worker", kept)
    for part in ("recognizer", "chat", "synthesizer"):
        monkeypatch.setattr(assemble, f"build_{part}", lambda *_: object())
    assemble.Assistant.build(load(DEFAULTS / "tiny.yaml", [f"runtime.cuda_streams={chosen}"]), lambda text: None)
    assert priorities == wanted


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [device.resolve(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        device.resolve("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device.resolve(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(ConfigError, match=r"sees 2 GPU\(s\)"):
        device.resolve("cuda:2")


@pytest.mark.parametrize("command", [["ask"], ["say", "hi"], ["transcribe", "app/assets/question.wav"]])
def test_a_missing_gpu_is_one_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = [] if command[0] == "transcribe" else ["--out", str(tmp_path / "out.wav")]
    assert cli.main([*command, *out, "--set", "runtime.device=cuda"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_the_default_configuration_is_the_gpus_only_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = [False]
    monkeypatch.setattr(configuration, "has_gpu", lambda: driver[0])
    monkeypatch.setattr("app.configuration.everything_there", lambda config: config == load(GPU))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert configuration.default_config().name == "tiny.yaml"
    driver[0] = True
    assert configuration.default_config().name == "gpu.yaml"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert configuration.default_config().name == "tiny.yaml"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("app.configuration.everything_there", lambda config: False)
    assert configuration.default_config().name == "tiny.yaml"


def test_weights_are_those_for_the_gpu_where_one_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.weights.has_gpu", lambda: True)
    assert cli.main(["weights", "list"]) == 1
    assert "llm.model=Qwen/Qwen3-4B-Instruct-2507  MISSING (8.06 GB to fetch)" in capsys.readouterr().out
    assert cli.main(["weights", "list", "--config", str(DEFAULTS / "tiny.yaml")]) == 0


def test_doctor_says_what_the_gpu_configuration_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["doctor", "--config", str(GPU)]) == 1
    out = capsys.readouterr().out
    for words in (
        "MISSING GPU: none",
        "llm.model: run `launch.py weights get` with this configuration (8.06 GB)",
        "plan: CUDA",
        "needed: a GPU with about",
    ):
        assert words in out
    hinted = sum(f"{need.key}: run `launch.py weights get`" in out for need in needs(load(GPU)))
    assert hinted == 7


@pytest.mark.parametrize("content", [None, "", "NVRM version: NVIDIA UNIX 570.1\nGCC version: 12\n"])
def test_doctor_tells_of_the_nvidia_driver(
    content: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "version"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(doctor, "_DRIVER", file)
    cli.main(["doctor", "--config", str(DEFAULTS / "tiny.yaml"), "--set", "runtime.device=cuda"])
    line, hint = capsys.readouterr().out.partition("NVIDIA driver: ")[2].splitlines()[:2]
    if content:
        assert line == "NVIDIA UNIX 570.1"
    else:
        assert (line, hint.strip()) == ("none", "install the driver of your GPU")
    cli.main(["doctor", "--config", str(DEFAULTS / "tiny.yaml"), "--set", "runtime.device=cpu"])
    assert "NVIDIA driver" not in capsys.readouterr().out


def _flow(place: str) -> torch.Tensor:
    flow = FlowDecoder(FLOW).eval().to(place)
    tokens = torch.zeros(1, 60, dtype=torch.long, device=place)
    speaker, mel = torch.zeros(1, 192, device=place), torch.zeros(1, 80, 120, device=place)
    return flow.step(tokens, flow.start(speaker, tokens, mel, num_flow_steps=2).clone())


def _vocoder(place: str, **changed: Any) -> torch.Tensor:
    vocoder = Vocoder(replace(VOCODER, **changed)).eval().to(place)
    return vocoder.stream(torch.zeros(1, 80, 50, device=place), primed(vocoder, 0).clone(), last=True)


def _interleaved(place: str) -> torch.Tensor:
    model = InterleavedLm(LM).eval().to(place)
    state = InterleavedState.create(LM, like=model.llm_embedding.weight)
    model(model.embed(torch.tensor([[1, 2, 3]], device=place)), state)
    return model(model.embed(torch.tensor([[1]], device=place)), state)


def _tokenizer(place: str) -> torch.Tensor:
    return SpeechTokenizer(TOKENIZER).eval().to(place)(log_mel_16k(torch.zeros(1, 16_000, device=place)))


def _speaker(place: str) -> torch.Tensor:
    return SpeakerEncoder(SPEAKER).eval().to(place)(fbank_16k(torch.zeros(16_000, device=place))[None])


@pytest.mark.parametrize(
    "run",
    [
        _flow,
        _vocoder,
        lambda place: _vocoder(place, causal=True, lookahead_frames=1),
        _interleaved,
        _tokenizer,
        _speaker,
    ],
    ids=["flow", "vocoder", "causal vocoder", "interleaved", "tokenizer", "speaker"],
)
@torch.inference_mode()
def test_everything_stays_on_the_models_device(
    run: Callable[[str], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's device without memory refuses a tensor of another device, as a GPU does."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no such device
    monkeypatch.setattr(ShortFourier, "steady_power", 1.0)  # reads a number, of which there are none here
    assert run("meta").device.type == "meta"
