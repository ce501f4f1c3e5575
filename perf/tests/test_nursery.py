"""Workers that are forked from a process that has imported torch: whose packages they import, what they inherit, how
they end. On a CPU here; what only a GPU shows is in the docs."""
from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch._dynamo.device_interface import caching_worker_device_properties

from perf.compare import nursery as nursery_module
from perf.compare import pairs
from perf.compare.nursery import Nursery
from perf.compare.pair import Pair
from perf.compare.process import Died, Process, variables
from perf.compare.side import ROOT, Side
from perf.tests.fake_sides import SMALL

pytestmark = pytest.mark.slow  # starts processes, which import torch

PREPARE = {"prepare": SMALL.__dict__, "check": True}
HERE = Side(ROOT, "the working tree")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery(ROOT, variables("base", HERE, "cpu"), probe=False) as made:
        yield made


def side(folder: Path, code: str) -> Side:
    """Returns a side whose attention/ runs `code`, and says in the import's error what it found."""
    (folder / "attention").mkdir(parents=True)
    (folder / "attention" / "__init__.py").write_text(f"{code}\nraise ImportError(found)\n")
    return Side(folder, "a side")


def finding(one: Side, made: Nursery | None) -> str:
    worker = Process("head", one, "cpu", made)
    try:
        return str(worker.ask(60.0, **PREPARE)["failed"]).removeprefix("ImportError: ")
    finally:
        worker.close()


def test_a_pair_of_forked_workers_measures_as_one_of_fresh_ones_does(nursery: Nursery) -> None:
    with Pair(HERE, HERE, "cpu", nursery=nursery) as pair:
        base, head = pair.prepare(SMALL)
        assert base == head
        assert base.counters["operators"] > 0
        assert abs(pair.log_ratio(SMALL, 8)) < 1
        pids = (pair.base.pid, pair.head.pid)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    nursery.learn([*pair.imports, "no.such.module"])
    with Pair(HERE, HERE, "cpu", nursery=nursery) as pair:
        pair.prepare(SMALL, check=False)
        pair.log_ratio(SMALL, 4)
        assert not pair.imports
    assert nursery.refused is None


def test_each_worker_imports_its_own_side_and_has_its_own_variables(nursery: Nursery, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERF_OF_THIS_TEST", "yes")
    code = "import os, sys; found = f'NAME {os.getcwd()} {os.environ.get(\"PERF_OF_THIS_TEST\")} {len(sys.argv)}'"
    for name in ("base", "head"):
        one = side(tmp_path / name, code.replace("NAME", name))
        assert finding(one, nursery) == f"{name} {one.folder} yes 2"


def test_threads_that_are_not_inherited_are_not_waited_for(nursery: Nursery, tmp_path: Path) -> None:
    """An OpenMP region, the pool of torch's operators and autograd's own thread, each begun after the fork."""
    folder = side(tmp_path, """
import threading, torch
torch.set_num_threads(2)
a = torch.randn(600, 600, requires_grad=True)
(a @ a).exp().sum().backward()
torch.randn(2_000_000).sort()
thread = threading.Thread(target=lambda: torch.randn(500, 500) @ torch.randn(500, 500)); thread.start(); thread.join()
found = f"{torch.get_num_threads()} threads {a.grad.isfinite().any()}"
""")
    assert finding(folder, nursery) == "2 threads True"


def test_a_fork_inherits_the_layout_of_memory_and_a_fresh_process_does_not(nursery: Nursery, tmp_path: Path) -> None:
    """Why workers on a CPU are started afresh: their times depend on where code and data lie."""
    folder = side(tmp_path, """
import torch
found = next(line.split("-")[0] for line in open("/proc/self/maps") if "libtorch_cpu" in line)
""")
    assert len({finding(folder, nursery) for _ in range(3)}) == 1
    assert len({finding(folder, None) for _ in range(3)}) == 3
    assert pairs.nursery("cpu") is None


def test_a_worker_that_dies_says_how(nursery: Nursery, tmp_path: Path) -> None:
    for code, how in (("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
                      ("import os, sys; print('so it goes', file=sys.stderr, flush=True); os._exit(3)",
                       "exit status 3): so it goes")):
        worker = Process("head", side(tmp_path / how[:4], code), "cpu", nursery)
        with pytest.raises(Died, match="its worker died") as death:
            worker.ask(60.0, **PREPARE)
        assert how in str(death.value)
        worker.kill()


def test_a_worker_that_hangs_is_killed_with_what_it_started(nursery: Nursery, tmp_path: Path) -> None:
    folder = side(tmp_path, "import subprocess; subprocess.Popen(['sleep', '100']).wait(); found = ''")
    worker = Process("head", folder, "cpu", nursery)
    with pytest.raises(Died, match="gave no answer"):
        worker.ask(3.0, **PREPARE)
    started = psutil.Process(worker.pid).children()
    worker.kill()
    assert started
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in started)


def test_what_would_spoil_a_fork_is_not_imported_again(tmp_path: Path) -> None:
    with Nursery(ROOT, variables("base", HERE, "cpu"), probe=False) as made:
        first = made._process.pid
        made.learn(["attention.masks"])
        assert made.refused is not None
        assert "attention/ of one side was imported before the fork" in made.refused
        assert made._process.pid != first
        made.learn(["models"])  # nothing more is learned
        assert finding(side(tmp_path, "found = 'its own'"), made) == "its own"


def test_an_import_that_asks_what_a_gpu_is_starts_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao asks so in two ways, and transformers imports it with GPT-2."""
    (tmp_path / "asking.py").write_text("""
import torch
from torch._dynamo.device_interface import CudaInterface
capable = [torch.cuda.get_device_capability(device) for device in (None, 1, 'cuda', 'cuda:1', torch.device('cuda', 1))]
worker = CudaInterface.Worker.get_device_properties()
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(nursery_module, "PROPERTIES", [{"major": 9, "minor": 0}, {"major": 10, "minor": 0}])
    before = torch.cuda.get_device_properties
    nursery_module._imported(["asking"], probe=False)
    asking = sys.modules.pop("asking")
    assert asking.capable == [(9, 0), (10, 0), (9, 0), (10, 0), (10, 0)]
    assert asking.worker.major == 9
    assert torch.cuda.get_device_properties is before
    assert "cuda" not in caching_worker_device_properties  # a worker asks for its own


def test_the_import_that_starts_the_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "starting.py").write_text("import torch\ntorch.cuda.is_initialized = lambda: True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(nursery_module, "OF_A_SIDE", ())
    monkeypatch.setattr(nursery_module, "_probe", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    answer = nursery_module._imported(["math", "cmath", "array", "starting"], probe=True)
    assert sys.modules.pop("starting")
    assert answer["spoiled"] == "a fork can't use the GPU (status 1) after importing starting"


def test_a_fork_that_hangs_on_the_gpu_is_no_fork_that_can_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery_module, "STARTING", 0.2)
    monkeypatch.setattr(nursery_module, "OF_A_SIDE", ())
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: time.sleep(60))
    assert "a fork can't use the GPU (status None)" in nursery_module._imported(["math"], probe=True)["spoiled"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_where_no_fork_can_use_the_gpu_that_is_one_line() -> None:
    before = psutil.Process().children()
    with pytest.raises(ValueError, match="workers can't be forked here: a fork can't use the GPU") as refusal:
        Nursery(ROOT, variables("base", HERE, "cuda"))
    assert "\n" not in str(refusal.value)
    assert set(psutil.Process().children()) <= set(before)  # it is gone, and was waited for


def test_it_goes_with_its_maker() -> None:
    code = ("import os; from perf.compare.nursery import Nursery; from pathlib import Path; "
            "made = Nursery(Path.cwd(), probe=False); print(made._process.pid, flush=True); os._exit(0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables("base", HERE, "cpu"),
                          capture_output=True, text=True, check=True)
    end = time.monotonic() + 10
    while (alive := _alive(int(done.stdout))) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
