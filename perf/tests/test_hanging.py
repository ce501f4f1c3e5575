"""--perf-case-timeout: a row that hangs is ended and says where, and the run goes on."""
from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from perf.measure.compiling import Ledger
from perf.run import hanging
from perf.run.hanging import Hung, limit
from perf.tests.test_run import ROOT, SMALL, WRONG, load, pytest_run


def spin():
    while True:
        pass


def catch_once():
    try:
        spin()
    except BaseException:
        spin()


@pytest.mark.parametrize("call", [spin, catch_once, lambda: time.sleep(60), threading.Event().wait],
                         ids=["spin", "catches", "sleep", "wait"])
def test_what_hangs_is_ended_and_the_line_is_named(call, monkeypatch):
    monkeypatch.setattr(hanging, "AGAIN", 0.1)
    began = time.monotonic()
    with pytest.raises(Hung, match=r"hung: ended after 0.1 s at .*\.py:\d+ in ") as hung, limit(0.1):
        call()
    assert time.monotonic() - began < 30
    assert "MainThread" in hung.value.stacks
    assert "test_what_hangs_is_ended" in hung.value.stacks


def test_an_import_ends_before_the_row(tmp_path, monkeypatch):
    """Half a module would stay in the process, and the rows after it would fail."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.4)\nvalue = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(hanging, "AGAIN", 0.1)

    def call():
        importlib.import_module("slow_to_import")
        spin()

    with pytest.raises(Hung, match="in spin"), limit(0.1):
        call()
    assert sys.modules["slow_to_import"].value == 1


def test_nothing_rings_later():
    before = signal.getsignal(signal.SIGALRM)
    with limit(0.05):
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


IN_C = """
import hashlib
from perf.run import hanging

hanging.GRACE = 0.2
with hanging.limit(0.1):
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # minutes, without a look at signals
"""


def test_what_cannot_be_interrupted_ends_the_process_with_its_stacks():
    done = subprocess.run([sys.executable, "-c", IN_C], cwd=ROOT, capture_output=True, text=True, timeout=240,
                          check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert 'File "<string>", line 7 in <module>' in done.stderr


@pytest.mark.parametrize(("before", "seconds"), [(None, 1800), (0.0, 600), (20.0, 600), (60.0, 1200)])
def test_how_long_is_waited_depends_on_what_the_row_took(before, seconds):
    assert hanging.patience(before) == seconds


def test_what_a_row_took_is_known_to_the_next_run(tmp_path):
    Ledger(tmp_path).add_row("a", 2.5)
    ledger = Ledger(tmp_path)
    assert ledger.rows == {"a": 2.5}
    ledger.path.write_text('{"schema": 1, "compiled": {}, "rows": [3]}')
    assert Ledger(tmp_path).rows == {}


HANGS = """

def hang(q, k, v, **options):
    while True:
        pass
"""


@pytest.mark.slow
def test_a_hanging_variant_costs_its_own_row(tmp_path):
    hangs = WRONG.replace("lambda q, k, v, **options: 1.01 * v", "hang") + HANGS
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text() + hangs)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (tmp_path / "test_it.py").write_text("import pytest\n\n\n@pytest.mark.workloads('attention')\n"
                                         "def test_it(measure):\n    measure()\n")
    done = pytest_run(tmp_path, "--benchmark-disable", *SMALL, "--perf-seqlens=32", "--perf-backends=eager,wrong,sdpa",
                      "--perf-case-timeout=15")
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    (row,) = load(tmp_path / ".perf" / "evidence.jsonl")
    assert (row.workload.backend, row.outcome) == ("wrong", "failed")
    assert row.reason is not None
    assert row.reason.startswith("hung: ended after 15 s at ")
    assert "conftest.py" in row.reason
    assert "in hang" in done.stdout.partition("Captured stderr call")[2]
