"""`python -m perf`."""
from __future__ import annotations

import json

import pytest

from perf.__main__ import main


def test_the_machine_is_told(capsys):
    assert main(["machine"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["torch"]
    assert told["cores"] >= 1
    assert len(told["id"]) == 12


@pytest.mark.parametrize(("arguments", "said"), [(["dance"], "unknown command 'dance'"), ([], "no command given")])
def test_what_is_no_command_is_one_line(capsys, arguments, said):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"python -m perf: {said}; choose from machine")
