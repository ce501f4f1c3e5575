"""Text from outside: every reader reads it or refuses it, and none leads to a file elsewhere, a shell or a pickle."""
from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from perf.history import branch
from perf.history.results import write
from perf.system import git
from perf.tests import hostile, repositories
from perf.tests.hostile import ELSEWHERE, fuzz, outcome, readers
from perf.tests.test_history import MACHINE, OK

repository = repositories.repository
READERS = readers()
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("inputs", [8, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_reader_reads_or_refuses(name, inputs):
    ends: Counter[str] = Counter()
    assert outcome(READERS[name], READERS[name].text) == "read"
    fuzz(READERS[name], inputs, ends)()
    assert ends["inputs"] >= inputs


@pytest.mark.parametrize("text", [b"[" * 100_000, b'["' + b"[" * 100_000 + b'"]\nowner = "a"'])
@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.refuses == ()])
def test_brackets_are_no_error_and_take_no_minutes(name, text):
    assert outcome(READERS[name], text) == "read"


@pytest.mark.parametrize("word", hostile.WORDS[:6])
def test_a_revision_is_no_option_and_no_path(repository, tmp_path, word):
    """`git show --output=FILE` would write a file."""
    repository.commit("1", "first")
    text = word.replace("\0", "")
    for ask in (git.author_and_subject, git.commits):
        with pytest.raises(ValueError, match=r"revision|object|argument"):
            ask(repository.root, text)
    written = write([replace(OK, revision=text)], tmp_path / "results", machines={"m": MACHINE}, root=repository.root)
    assert written.files == []
    assert "which is no commit's hash: not in the history" in written.notes[0]
    assert not ELSEWHERE.exists()


def test_a_link_in_the_history_s_branch_leads_nowhere(repository, tmp_path_factory):
    """A branch that others may push to can hold a link: pruning and merging stay within the results."""
    outside, root = tmp_path_factory.mktemp("outside"), repository.root
    (outside / "0-py.json").write_text("mine")
    repository.commit("1", "first")
    (root / "results").mkdir()
    (root / "results" / "machine").symlink_to(outside)
    repository.git("add", "results")
    repository.git("commit", "-qm", "linked")
    repository.git("update-ref", branch.REF, "HEAD")
    branch.prune(root, None, days=0, sample_days=0)
    branch.pull(root / "here", root, None)
    assert [path.name for path in outside.iterdir()] == ["0-py.json"]
    assert (outside / "0-py.json").read_text() == "mine"


def test_no_shell_and_no_pickle_reads_a_text():
    """The one shell is for a command that the project's own ini file gives."""
    sources = [path for room in ("attention", "models", "perf") for path in (ROOT / room).rglob("*.py")
               if "tests" not in path.parts]
    lines = [(path, line) for path in sources for line in path.read_text(encoding="utf-8").splitlines()]
    shells = {path.name for path, line in lines if re.search(r"shell=True|os\.(system|popen)\(", line)}
    assert shells == {"project.py"}
    assert not [line for _, line in lines if re.search(r"pickle\.load|joblib|yaml\.load\(|[^.\w](eval|exec)\(", line)]
    loads = [line for _, line in lines if "torch.load(" in line]
    assert loads
    assert all("weights_only=True" in line for line in loads)
