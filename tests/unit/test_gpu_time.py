"""Seconds in which the GPU was at work."""

import time

import pytest
import torch

from app.bench.gpu_time import GpuTime, gpu_busy
from app.bench.metrics import Manners
from app.bench.simulate import parse
from app.bench.summary import Results, _effort


def test_busy_shares_add_up_to_seconds() -> None:
    told = []

    def now() -> float:
        told.append(0.25 * len(told))
        return told[-1]

    with GpuTime(lambda: 0.5, now) as gpu:
        while len(told) < 4:  # three samples at least
            time.sleep(0.01)
    assert len(told) >= 5  # the last one is taken at the end
    assert gpu.seconds == pytest.approx(0.5 * told[-1])


def test_without_a_gpu_there_is_nothing_to_tell(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with GpuTime(gpu_busy()) as gpu:
        pass
    assert gpu.seconds is None


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), RuntimeError("no permission")])
def test_a_driver_that_does_not_tell_is_no_error(monkeypatch, error) -> None:
    def utilization() -> int:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    assert gpu_busy() is None
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 40)
    busy = gpu_busy()
    assert busy is not None
    assert busy() == 0.4


def test_the_report_tells_gpu_seconds_where_they_were_measured() -> None:
    unasked = dict.fromkeys(Manners.__dataclass_fields__)
    spoken = Manners(**{**unasked, "variant": "a", "case": "b", "repeat": 0, "spoken_s": 4.0})
    rows = {}
    for gpu_s in ([], [0.5, 1.5]):
        results = Results(variant=None, manners=[spoken], cpu_s=[2.0], gpu_s=gpu_s)
        rows[len(gpu_s)] = {row.key: row.values["value"] for row in _effort(results, parse(None)) if row}
    assert rows == {0: {"cpu": 0.5}, 2: {"cpu": 0.5, "gpu": 0.5}}
