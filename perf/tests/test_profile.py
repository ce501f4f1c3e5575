"""Profiles: one warm call and nothing else is traced, by torch here, by Nsight's tools through fakes of them."""
from __future__ import annotations

import contextlib
import gzip
import json
import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from perf.bench import profile as profiling
from perf.bench.profile import ARGUMENTS, check, find, main, profile
from perf.workloads.workload import Workload

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = Workload("attention", "softmax", "sdpa", "forward", True, 1, 2, 2, 64, 64, 16, "fp32")
NAME = "softmax_sdpa-forward-causal-b1-h2-kv2-n64-m64-d16-fp32"

# Writes its arguments down, runs the command in them where it is to, and saves a report as the real tool does.
TOOL = """#!{python}
import json, pathlib, subprocess, sys
arguments = sys.argv[1:]
start = arguments.index({python!r})
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(arguments))
pathlib.Path(arguments[start - 1] + {suffix!r}).write_text("a report")
sys.exit(subprocess.run(arguments[start:]).returncode if {run} else 0)
"""


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    """Leaves an empty folder on the PATH, and nothing elsewhere."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(profiling, "CUDA", str(tmp_path / "cuda"))
    monkeypatch.setattr(profiling, "INSTALLED", {"ncu": f"{tmp_path}/ncu-*", "nsys": f"{tmp_path}/nsys-*/bin"})
    return folder


def install(path: Path, text: str = "#!/bin/sh\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(("tool", "device", "ids", "said"), [
    ("perf", CPU, ["a"], "--perf-profile: unknown tool 'perf'; choose from torch, ncu, nsys"),
    ("torch", CPU, [], "--perf-profile torch: no row is selected; name one with -k or by its id"),
    ("torch", CPU, ["a", "b", "c"],
     "--perf-profile torch: 3 rows are selected; name one with -k or by its id, such as 'a'"),
    ("ncu", CPU, ["a"], "--perf-profile ncu: Nsight Compute looks at GPU kernels, and the device is cpu; "
                        "use --perf-profile torch"),
    ("nsys", CUDA, ["a"], "--perf-profile nsys: nsys is neither on the PATH nor in .* or .*; "
                          "install Nsight Systems or use --perf-profile torch"),
])
def test_what_can_t_be_is_refused_in_one_line(tool, device, ids, said):
    with pytest.raises(ValueError, match=f"^{said}$") as refused:
        check(tool, device, ids)
    assert "\n" not in str(refused.value)


def test_one_row_on_a_known_tool_is_not_refused(nothing_installed):
    install(nothing_installed / "ncu")
    for tool, device in (("torch", CPU), ("torch", CUDA), ("ncu", CUDA)):
        check(tool, device, ["a"])


def test_a_tool_is_found_beside_the_path(nothing_installed, tmp_path, monkeypatch):
    assert find("ncu") is None
    install(tmp_path / "ncu-2024.9.1" / "ncu")
    newest = install(tmp_path / "ncu-2024.10.0" / "ncu")
    assert find("ncu") == newest
    assert find("nsys") is None
    own = install(tmp_path / "nsys-2025.1" / "bin" / "nsys")
    assert find("nsys") == own
    cuda = install(tmp_path / "cuda" / "ncu")
    assert find("ncu") == cuda
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    home = install(tmp_path / "home" / "bin" / "ncu")
    assert find("ncu") == home
    on_path = install(nothing_installed / "ncu")
    assert find("ncu") == on_path


def test_torch_traces_one_call(tmp_path):
    path = profile(SMALL, "torch", CPU, folder=tmp_path / "profiles")
    assert path == tmp_path / "profiles" / f"{NAME}.json.gz"
    with gzip.open(path) as file:
        names = [event["name"] for event in json.load(file)["traceEvents"] if event.get("cat") == "cpu_op"]
    assert names.count("aten::scaled_dot_product_attention") == 1
    assert "aten::randn" not in names  # nor anything of its preparation


def test_a_workload_that_can_t_run_here_is_refused(tmp_path):
    with pytest.raises(ValueError, match="softmax:fa2") as refused:
        profile(replace(SMALL, backend="fa2"), "torch", CPU, folder=tmp_path)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("tool", "suffix", "run"), [("ncu", ".ncu-rep", True), ("nsys", ".nsys-rep", False)])
def test_a_tool_starts_this_module(tool, suffix, run, nothing_installed, tmp_path):
    """The child, where it is run, prepares the workload and calls it; on the CPU there is no range to open."""
    install(nothing_installed / tool, TOOL.format(python=sys.executable, suffix=suffix, run=run))
    path = tmp_path / f"{NAME}{suffix}"
    profiling._launch(SMALL, tool, CPU, path)
    assert path.read_text() == "a report"
    assert json.loads((nothing_installed / f"{tool}.json").read_text()) == [
        *ARGUMENTS[tool], str(tmp_path / NAME), sys.executable, "-m", "perf.bench.profile", "cpu",
        json.dumps(asdict(SMALL))]


def test_only_the_range_is_profiled_and_no_clock_is_locked():
    assert " ".join(ARGUMENTS["ncu"]).startswith("--profile-from-start off --clock-control none ")
    assert {"--capture-range=cudaProfilerApi", "--capture-range-end=stop"} <= set(ARGUMENTS["nsys"])


def test_what_the_child_refuses_is_said(nothing_installed, tmp_path, capsys):
    assert main(["cpu", json.dumps(asdict(replace(SMALL, backend="nothing")))]) == 1
    text = capsys.readouterr().out
    assert text.startswith("error: ")
    assert "nothing" in text
    report = tmp_path / f"{NAME}.ncu-rep"  # of a tool that saves one all the same
    install(nothing_installed / "ncu", f"#!/bin/sh\necho {shlex.quote(text)}\n: > {report}\nexit 1\n")
    with pytest.raises(ValueError, match=r"^--perf-profile ncu: no trace was saved: error: ") as refused:
        profile(SMALL, "ncu", CUDA, folder=tmp_path)
    assert text.strip() in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tool_that_saves_nothing_is_an_error_and_no_older_trace_passes_for_its(nothing_installed, tmp_path):
    denied = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission"
    install(nothing_installed / "ncu", f"#!/bin/sh\necho '==PROF== Connected'\necho '{denied}'\necho bye\n")
    older = tmp_path / f"{NAME}.ncu-rep"
    older.write_text("older")
    with pytest.raises(ValueError, match=f"^--perf-profile ncu: no trace was saved: {denied} "):
        profile(SMALL, "ncu", CUDA, folder=tmp_path)
    assert not older.exists()
    assert (tmp_path / f"{NAME}.log").read_text().splitlines() == ["==PROF== Connected", denied, "bye"]


@pytest.mark.parametrize(("output", "said"), [
    ("one\ntwo\n\n", "two"), ("", "no word of why"), ("no error here\nlast", "last"),
    ("==PROF== on\n==ERROR== ERR\nlast", "==ERROR== ERR"), ("error: it\n==ERROR== code 1", "error: it"),
    ('Traceback\n  raise AssertionError("it")\nAssertionError: it\nlast', "AssertionError: it"),
])
def test_the_line_that_tells_the_error_is_said(output, said):
    assert profiling.reason(output) == said


def test_the_range_holds_one_call_after_the_warm_up(monkeypatch):
    events: list[str] = []

    class Preparer:
        def __init__(self, device):
            pass

        def why_not(self, w):
            return None

        def prepare(self, w):
            events.append(f"prepare {w.id}")
            return SimpleNamespace(call=lambda: events.append("call"))

    @contextlib.contextmanager
    def opened():
        events.append("start")
        yield
        events.append("stop")

    monkeypatch.setattr(profiling, "Preparer", Preparer)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("synchronize"))
    monkeypatch.setattr(torch.cuda.profiler, "profile", opened)
    assert main(["cuda", json.dumps(asdict(SMALL))]) == 0
    once = ["call", "synchronize"]
    ready = [f"prepare {SMALL.id}", *once * profiling.WARM_UP, "start"]
    assert events == [*ready, *once, "stop"]
    events.clear()
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: events.append("mark"))
    assert main(["cuda", *2 * [json.dumps(asdict(SMALL))]]) == 0  # each of several begins with a mark
    assert events == 2 * [*ready, "mark", *once, "stop"]


def test_a_trace_s_name_is_a_file_s_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "_warm", lambda w, device: None)
    monkeypatch.setattr(profiling, "_trace", lambda call, device, path: path.write_text("trace"))
    path = profile(replace(SMALL, model="../an org/%p"), "torch", CPU, folder=tmp_path)
    assert path.parent == tmp_path
    assert path.name == f".._an_org__p-{NAME}.json.gz"
    assert os.listdir(tmp_path) == [path.name]
