"""`python -m perf fastest`: what it prints, what it measures, what it refuses."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import attention
from attention import fastest
from perf.__main__ import main
from perf.commands import fastest as command
from perf.measure import machine
from perf.measure.evidence import Evidence, Writer
from perf.workloads.workload import Workload


def evidence(backend: str, seconds: float) -> Evidence:
    w = Workload("attention", "softmax", backend, "forward", True, 1, 2, 2, 64, 64, 16, "fp32")
    return Evidence(w, "ok", samples=(seconds,), median=seconds, machine=machine.identity())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives an evidence file of this machine, the only records there are."""
    monkeypatch.setattr(command, "RECORDS", tmp_path / "none")
    monkeypatch.setenv(fastest.RECORDS, str(tmp_path / "evidence.jsonl"))
    return tmp_path / "evidence.jsonl"


ASK = ["fastest", "softmax", "--n", "64", "--head-dim", "16", "--phase", "forward", "--device", "cpu"]


def test_it_ranks_by_the_records_and_its_line_builds_the_first(file: Path, capsys: pytest.CaptureFixture[str],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(file)
    for row in (evidence("eager", 0.002), evidence("sdpa", 0.001)):
        writer.append(row)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("it measures what the records hold"))
    assert main(ASK) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:3]] == [["softmax:sdpa", "1", "ms", "1.00x"],
                                                     ["softmax:eager", "2", "ms", "2.00x"]]
    module = eval(lines[-1], {"attention": attention, "torch": torch})
    assert (module.name, module.heads, module.causal) == ("softmax:sdpa", 2, True)


@pytest.mark.parametrize("arguments", [[], ["--measure"]], ids=["no records", "asked to"])
def test_it_measures_here(arguments: list[str], file: Path, monkeypatch: pytest.MonkeyPatch,
                          capsys: pytest.CaptureFixture[str]) -> None:
    if arguments:
        Writer(file).append(evidence("eager", 0.002))
    commands = []

    def run(words: list[str]) -> subprocess.CompletedProcess:
        commands.append(words)
        Writer(file).append(evidence("tiled", 0.001))
        return subprocess.CompletedProcess(words, 1)  # some rows fail, others count

    monkeypatch.setattr(subprocess, "run", run)
    assert main(ASK + arguments) == 0
    assert len(commands) == 1
    assert {"--perf-functions=softmax", "--perf-seqlens=64", f"--perf-evidence={file}"} <= set(commands[0])
    assert 'attention.create("softmax:tiled"' in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "part"), [
    (["fastest", "sofmax", "--n", "64"], "did you mean 'softmax'?"), (["fastest", "softmax"], "--n"),
    (["fastest", "softmax", "--n", "0"], "at least 1"),
    (["fastest", "softmax", "--n", "8", "--phase", "decode"], "decode")])
def test_what_it_refuses_is_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert part in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("returncode", [4, 1])
def test_a_measurement_without_rows_is_one_line(returncode: int, file: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(subprocess, "run", lambda words: subprocess.CompletedProcess(words, returncode))
    assert main(ASK) == 2
    assert ("did not run" if returncode == 4 else "no backend could be measured") in capsys.readouterr().err
