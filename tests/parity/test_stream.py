"""Flow and vocoder, called as the public streaming calls them, against a recording of it (reduced size, seeded weights)."""

from typing import Any

import pytest

from tests.parity.golden import Golden, Vectors
from tests.upstream_stream import UpstreamVocoder
from tts.decoder.flow import FlowDecoder
from tts.decoder.vocoder import Vocoder

MEL, SOURCE, SAMPLES = "flow_mel", "hift_source", "hift_wav"  # tolerances


@pytest.fixture(scope="module")
def golden(golden_folder: Golden) -> Vectors:
    return golden_folder.vectors("stream_io")


@pytest.fixture(scope="module")
def flow(golden_folder: Golden) -> FlowDecoder:
    model = FlowDecoder(golden_folder.flow()).eval()
    model.load_state_dict({k: v.float() for k, v in golden_folder.weights("flow_weights").items()})
    return model


@pytest.fixture(scope="module")
def vocoder(golden_folder: Golden) -> Vocoder:
    weights = {name: value.float() for name, value in golden_folder.weights("hift_weights").items()}
    return Vocoder.from_state(golden_folder.vocoder(), weights, "golden")


@pytest.fixture(scope="module")
def spoken(golden_folder: Golden) -> Vectors:
    return golden_folder.vectors("flow_io")


def test_calls(
    flow: FlowDecoder, vocoder: Vocoder, golden: Vectors, spoken: Vectors, recorded_stream: tuple[str, dict[str, Any]]
) -> None:
    name, case = recorded_stream
    prompted = case["prompt_tokens"]
    prompt_mel = spoken["pmel"][:, : 2 * prompted].transpose(1, 2)
    upstream = UpstreamVocoder(vocoder)
    done, total = 0, 0
    for i, call in enumerate(case["calls"]):
        # All speech so far, anew; the last call, and it alone, with attention over everything.
        mel = flow.generate(
            spoken["tok"][:, : call["n_tokens"]].long(),
            spoken["spk"],
            spoken["ptok"][:, :prompted].long(),
            prompt_mel,
            chunked=call["streaming"],
            final=call["finalize"],
        )
        assert mel.shape[2] == call["mel_frames_out"]
        samples = upstream.step(mel[..., done:] * 1.2 - 5.0, last=call["finalize"])  # as the recording changed the mel
        done, total = mel.shape[2], total + samples.shape[1]
        assert upstream.given_BMT is not None
        assert upstream.given_BMT.shape[2] == call["hift_in_frames"]
        assert samples.shape[1] == call["speech_samples_out"]
        golden.close(f"{name}.wav{i}", samples, SAMPLES)
        if f"{name}.hift_in_mel{i}" in golden:
            golden.close(f"{name}.hift_in_mel{i}", upstream.given_BMT, MEL)
            assert upstream.source_BN is not None
            golden.close(f"{name}.source_tail{i}", upstream.source_BN[:, None], SOURCE)
    assert total == case["total_samples"]
