"""`python -m perf alert` against a GitHub on loopback, as fixtures."""
from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from urllib3.util import retry

from perf.__main__ import main
from perf.alerts.client import GitHub
from perf.compare.record import Comparison
from perf.tests.github_server import REPOSITORY, TOKEN, serve


@pytest.fixture
def github(monkeypatch):
    with serve() as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        yield server


@pytest.fixture
def alert(tmp_path, capsys, monkeypatch, github):
    """Tells a night; the exit code, what was printed, and what went to stderr."""
    preset(monkeypatch, between=0.0)
    slept(monkeypatch)
    owners, accepted = tmp_path / "owners.toml", tmp_path / "accepted.toml"

    def run(made: Comparison, *words: str):
        made.save(tmp_path / "night.json")
        code = main(["alert", str(tmp_path / "night.json"), *words, f"--folder={tmp_path / 'said'}", "--pause=0.01",
                     "--timeout=1", f"--owners={owners}", f"--accepted={accepted}"])
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        assert "Traceback" not in out + err
        return code, out, err

    return run


def slept(monkeypatch) -> list[float]:
    """Returns the waits, none of which takes time."""
    waits: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waits.append, time=time.time))
    return waits


def preset(monkeypatch, **values):
    """Returns other defaults of the client."""
    monkeypatch.setattr(GitHub.__init__, "__kwdefaults__", {**(GitHub.__init__.__kwdefaults__ or {}), **values})


def messages(folder: Path) -> dict[str, str]:
    """Returns the messages that lie in the folder, by file."""
    return {path.name: path.read_text(encoding="utf-8") for path in (folder / "said").iterdir()}
