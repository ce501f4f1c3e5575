"""`python -m perf`."""
from __future__ import annotations

import json
import sys

import pytest

from perf.__main__ import main
from perf.system.exit_codes import REFUSED


def test_the_machine_is_told(capsys):
    code = main(["machine"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert code == (1 if told["unfit"] else 0)  # another process may be at work here
    assert err == (f"unfit: {told['unfit']}\n" if told["unfit"] else "")
    assert told["torch"]
    assert told["cores"] >= 1
    assert len(told["id"]) == 12


def test_a_machine_without_the_device_is_one_line(capsys):
    assert main(["machine", "cuda:99"]) == 2
    assert capsys.readouterr().err.startswith("python -m perf machine: no device 'cuda:99' here; choose from ")


@pytest.mark.parametrize(("arguments", "said"), [(["dance"], "unknown command 'dance'"), ([], "no command given")])
def test_what_is_no_command_is_one_line(capsys, arguments, said):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"python -m perf: {said}; choose from machine")


def test_a_python_without_torch_is_one_line(monkeypatch, capsys):
    def lacking(_):
        """Runs as the command does in the Python of a shell, after tox installed everything elsewhere."""
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("perf.commands.machine.machine", lacking)
    assert main(["machine"]) == REFUSED
    err = capsys.readouterr().err
    assert err.startswith(f"python -m perf machine: {sys.executable} has no torch; call a Python that has it, as ")
    assert err.count("\n") == 1
