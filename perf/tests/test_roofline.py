"""The roofline: floors that are known, its shape, and the file that keeps the ceilings."""
from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perf.measure import machine, rates, roofline
from perf.measure.fitness import Watch
from perf.measure.roofline import Ceilings, Floor, ceilings, floor, least
from perf.workloads.workload import Workload

CPU = torch.device("cpu")
H200 = Ceilings(copy=4.3e12, matmul={"bf16": 790e12})  # as measured
WINDOW = Workload("attention", "sliding-window", "fa2", "forward", True, 1, 16, 16, 16384, 16384, 64, "bf16")
FULL = replace(WINDOW, function="softmax")

WINDOW_BYTES = 4 * 16 * 16384 * 64 * 2  # q, k, v and the output, in bf16
FULL_FLOPS = 4 * 16 * 64 * 16384 * 16385 // 2  # of the visible pairs
rates_of_a_machine = st.floats(1e3, 1e18)
shapes = st.sampled_from([WINDOW, FULL])


def known(w: Workload, ceilings: Ceilings) -> Floor:
    result = floor(w, ceilings)
    assert result is not None
    return result


def test_a_window_of_256_is_bound_by_its_bytes():
    result = known(WINDOW, H200)
    assert result == Floor(WINDOW_BYTES / 4.3e12, "bytes")
    assert round(1e3 * result.seconds, 3) == 0.031
    assert result.seconds / 0.125e-3 == pytest.approx(0.25, abs=2e-3)  # the best public kernel


def test_full_attention_is_bound_by_its_flops():
    assert known(FULL, H200) == Floor(FULL_FLOPS / 790e12, "FLOPs")


def test_what_is_not_known_sets_no_floor():
    model = replace(FULL, model="distilgpt2", heads=12, kv_heads=12)  # its bytes are not known
    assert known(model, H200).limit == "FLOPs"
    quantised = replace(model, model="tft-160", quantization="bnb-int8")
    assert quantised.bytes is None
    assert known(quantised, H200).limit == "FLOPs"
    assert known(FULL, Ceilings(4.3e12, {"fp32": 50e12})) == Floor(WINDOW_BYTES / 4.3e12, "bytes")


def test_a_tfts_floor_is_its_products_or_for_one_series_its_weights():
    series = Workload("tft-160", "softmax", "sdpa", "forward", True, 256, 4, 4, 24, 192, 40, "bf16")
    many, one = known(series, H200), known(replace(series, batch=1), H200)
    assert many.limit == "FLOPs"
    assert 50e-6 < many.seconds < 70e-6  # 186 MFLOP a series
    assert one.limit == "bytes"
    assert 0.5e-6 < one.seconds < 1e-6  # 1.2 million weights
    train = replace(series, phase="train-step")
    assert known(train, H200).seconds == pytest.approx(3 * many.seconds, rel=0.01)


def test_the_faster_format_that_torch_is_set_to_is_the_limit():
    result = Ceilings(1e12, {"fp32": 50e12, "fp32-tf32": 400e12, "bf16": 800e12})
    assert result.flops("fp32") == 400e12
    assert result.flops("fp16") is None


@given(rates_of_a_machine, rates_of_a_machine, st.floats(1, 1e3), st.floats(1, 1e3), shapes)
def test_a_better_machine_has_no_higher_floor(copy, matmul, more, faster, w):
    fast = known(w, Ceilings(copy * more, {"bf16": matmul * faster}))
    assert fast.seconds <= known(w, Ceilings(copy, {"bf16": matmul})).seconds


@given(rates_of_a_machine, rates_of_a_machine, shapes)
def test_at_the_floor_one_rate_is_at_its_ceiling_and_the_other_below(copy, matmul, w):
    result = known(w, Ceilings(copy, {"bf16": matmul}))
    reached = w.bytes / result.seconds / copy, w.flops / result.seconds / matmul
    assert max(reached) == pytest.approx(1, rel=1e-12)


@given(rates_of_a_machine, rates_of_a_machine, rates_of_a_machine, shapes)
def test_nothing_is_refused_that_the_fastest_dtype_allows(copy, half, full, w):
    """Nor what leaves out a half of the products."""
    refused = least(w, Ceilings(copy, {"bf16": half, "fp32": full}))
    assert refused is not None
    assert refused.limit == "FLOPs"
    assert refused.seconds == pytest.approx(w.flops / max(half, full) / 2)
    assert least(w, Ceilings(copy, {})) is None


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """Gives what is measured; a copy gives 1e10, the nth product n x 1e11."""
    log: list[str] = []

    def copy(device, clock):
        log.append("copy")
        return 1e10

    def matmul(device, label, clock):
        log.append(label)
        return len(log) * 1e11

    monkeypatch.setattr(rates, "copy", copy)
    monkeypatch.setattr(rates, "matmul", matmul)
    monkeypatch.setattr(roofline, "unfit", lambda states: None)
    return log


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def kept(folder: Path) -> Path:
    """Returns the one file in a folder."""
    path, = folder.iterdir()
    return path


@pytest.mark.usefixtures("quiet")
def test_nothing_is_measured_twice(measured, tmp_path):
    first = ceilings(CPU, ["fp32"], folder=tmp_path / "new")
    assert measured == ["copy", "fp32"]
    assert first == Ceilings(1e10, {"fp32": 2e11})
    assert ceilings(CPU, ["fp32", "fp32"], folder=tmp_path / "new") == first
    assert measured == ["copy", "fp32"]
    more = ceilings(CPU, ["bf16", "fp32"], folder=tmp_path / "new")
    assert measured == ["copy", "fp32", "bf16"]
    assert more == Ceilings(1e10, {"bf16": 3e11, "fp32": 2e11})
    assert ceilings(CPU, ["fp32"], folder=tmp_path / "new") == first  # what is asked for, not all that is kept
    assert kept(tmp_path / "new").name == f"ceilings-{machine.identity()}-cpu.json"


@pytest.mark.usefixtures("quiet")
def test_another_machine_and_another_gpu_have_files_of_their_own(measured, tmp_path, monkeypatch):
    ceilings(CPU, ["fp32"], folder=tmp_path)
    monkeypatch.setattr(machine, "identity", lambda: "0123456789ab")
    ceilings(CPU, ["fp32"], folder=tmp_path)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(roofline, "Watch", lambda device: Watch(CPU))  # there may be no GPU here
    for index in range(2):
        ceilings(torch.device("cuda", index), ["fp32"], folder=tmp_path)
    assert measured == ["copy", "fp32"] * 4
    assert {path.name for path in tmp_path.glob("*-0123456789ab-*")} == {
        f"ceilings-0123456789ab-{name}.json" for name in ("cpu", "cuda0", "cuda1")}


GOOD = {"schema": roofline.SCHEMA, "machine": "?", "copy": 1.0, "matmul": {"fp32": 1.0}}


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '"x"', "\xff",
    json.dumps({**GOOD, "machine": "another"}), json.dumps({**GOOD, "schema": roofline.SCHEMA + 1}),
    json.dumps({**GOOD, "copy": 0}), json.dumps({**GOOD, "copy": float("nan")}), json.dumps({**GOOD, "copy": "fast"}),
    json.dumps({**GOOD, "matmul": {"fp32": float("inf")}}), json.dumps({**GOOD, "matmul": [1.0]}),
    json.dumps({key: GOOD[key] for key in ("schema", "machine", "matmul")}),
])
def test_a_file_that_is_no_record_of_this_machine_is_measured_anew(text, measured, tmp_path):
    ceilings(CPU, ["fp32"], folder=tmp_path)
    kept(tmp_path).write_text(text.replace("?", machine.identity()), encoding="latin-1")
    with pytest.warns(UserWarning, match=r"doesn't hold this machine's ceilings \(.*\): measured anew") as warned:
        result = ceilings(CPU, ["fp32"], folder=tmp_path)
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert Path(warned[0].filename).name == "test_roofline.py"
    assert measured == ["copy", "fp32"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ceilings(CPU, ["fp32"], folder=tmp_path) == result
    assert len(measured) == 4


def test_the_record_that_the_others_differ_from_is_a_good_one(measured, tmp_path):
    ceilings(CPU, ["fp32"], folder=tmp_path)
    kept(tmp_path).write_text(json.dumps({**GOOD, "machine": machine.identity()}))
    assert ceilings(CPU, ["fp32"], folder=tmp_path) == Ceilings(1.0, {"fp32": 1.0})


def test_on_an_unfit_machine_nothing_is_kept(measured, tmp_path, monkeypatch):
    seen = []

    def unfit(states):
        seen.append((tuple(measured), states[-1].device))
        return "others are busy"

    monkeypatch.setattr(roofline, "unfit", unfit)
    with pytest.warns(UserWarning, match="may be too low, and are not kept: others are busy"):
        assert ceilings(CPU, ["fp32"], folder=tmp_path).copy == 1e10
    assert seen == [(("copy", "fp32"), "cpu")]  # it was watched all the while
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(measured, tmp_path, monkeypatch):
    ceilings(CPU, ["fp32"], folder=tmp_path)
    path, before = kept(tmp_path), kept(tmp_path).read_text()

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        ceilings(CPU, ["bf16"], folder=tmp_path)
    assert path.read_text() == before
