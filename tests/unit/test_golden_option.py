"""`pytest tests/parity --golden DIR` runs on a folder of other sizes, with parts of it absent."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.parity.golden import BUNDLED, Golden
from tts.decoder.flow import FlowDecoder


def parity(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-rfs", "-p", "no:cacheprovider", "--golden", str(folder)]
    root = Path(__file__).parents[2]
    return subprocess.run(
        [*command, *(f"tests/parity/{test}" for test in tests)], cwd=root, capture_output=True, text=True, check=False
    )


def test_a_folder_of_other_sizes_prompts_and_lengths(tmp_path: Path) -> None:
    config = json.loads((BUNDLED / "config.json").read_text())
    config["flow_reduced"]["vocab_size"] = 81
    config["flow_reduced"]["encoder"] |= {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
    config["flow_reduced"]["estimator"]["channels"] = [16]
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    flow = FlowDecoder(Golden(tmp_path).flow()).eval()
    save_file(flow.state_dict(), tmp_path / "flow_weights.safetensors")
    tokens, prompt_tokens = torch.randint(0, 81, (1, 40)), torch.randint(0, 81, (1, 9))
    prompt_mel, speaker = torch.randn(1, 80, 18), torch.randn(1, 192)
    mel = flow.generate(tokens[:, :33], speaker, prompt_tokens[:, :7], prompt_mel[:, :, :14])
    vectors = {
        "tok": tokens,
        "ptok": prompt_tokens,
        "pmel": prompt_mel.transpose(1, 2).contiguous(),
        "spk": speaker,
        "mel_P7_N33_stream_fin": mel.contiguous(),
        "mel_P0_N20_full_fin": mel[:, :, :40].contiguous(),  # not what the model gives
    }
    save_file(vectors, tmp_path / "flow_io.safetensors")
    ran = parity(tmp_path, "test_flow.py", "test_vocoder.py")
    assert ran.returncode == 1, ran.stdout
    lines = ran.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert len(failed) == 1, ran.stdout
    assert "test_mel[mel_P0_N20_full_fin]" in failed[0]
    assert "mel_P0_N20_full_fin differs by" in ran.stdout
    table = {line.split()[1]: line for line in lines if line.startswith("flow_io ")}
    assert table.keys() == {"mel_P7_N33_stream_fin", "mel_P0_N20_full_fin"}
    assert table["mel_P0_N20_full_fin"].endswith("TOO FAR")
    assert float(table["mel_P7_N33_stream_fin"].split()[2]) < 1e-4
    for reason in ("hift_weights.safetensors", "manifest_flow.json", "est_x", "loss_t"):
        assert f"{reason} is not in" in ran.stdout


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    ran = parity(tmp_path, "test_speaker.py")
    assert ran.returncode == 4
    assert "there is no config.json" in ran.stderr + ran.stdout
