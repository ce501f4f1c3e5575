"""The README keeps its word: its example is run as it stands, its commands and its table exist."""
from __future__ import annotations

import configparser
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from perf.measure.evidence import Evidence, load
from perf.studies import results

ROOT = Path(__file__).parents[2]
SCALE = "scale * q"
EXAMPLE = "## Add a variant"


@pytest.fixture(scope="module")
def readme() -> str:
    path = ROOT / "README.md"
    if not path.exists():
        pytest.fail(f"{path} is missing; it is part of the project", pytrace=False)
    return path.read_text(encoding="utf-8")


def between(text: str, start: str, end: str) -> str:
    """Returns what stands between the first `start` and the `end` after it."""
    _, found, rest = text.partition(start)
    inside, closed, _ = rest.partition(end)
    assert found, f"README.md has no {start!r}"
    assert closed, f"README.md has no {end!r} after {start!r}"
    return inside


def section(readme: str, heading: str) -> str:
    return between(readme + "\n## ", f"\n{heading}\n", "\n## ")


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python in the root of the project, with `path` on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, [path, ROOT]))),
                   "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTEST_ADDOPTS": "--perf-unfit=keep"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=120, check=False)


class Example:
    """Is the section's Python block, saved in a folder, and its commands."""

    def __init__(self, readme: str, folder: Path, *, scale: str = SCALE) -> None:
        said = section(readme, EXAMPLE)
        self.commands = [shlex.split(command.replace("\\\n", " ")) for command in
                         re.findall(r"^```sh\n(.+?)^```", said, re.DOTALL | re.MULTILINE)]
        block = between(said, "```python\n", "```")
        assert block.count(SCALE) == 1
        name = self.commands[0][self.commands[0].index("-p") + 1]
        assert f"`{name}.py`" in said
        (folder / f"{name}.py").write_text(block.replace(SCALE, scale), encoding="utf-8")
        self.folder = folder

    def run(self, command: int, *more: str) -> subprocess.CompletedProcess[str]:
        """Runs what the command's tox environment runs, with the Python that runs the tests."""
        words = self.commands[command]
        assert words[:3] == ["tox", "run", "-e"]
        assert words[4] == "--"
        tox = configparser.ConfigParser(interpolation=None)
        tox.read(ROOT / "tox.ini")
        python, *fixed = tox[f"testenv:{words[3]}"]["commands"].replace("{posargs}", "").split()
        assert python == "python"
        return run(*fixed, *words[5:], "-p", "no:cacheprovider", *more, path=self.folder)

    def measure(self) -> tuple[subprocess.CompletedProcess[str], list[Evidence]]:
        """Runs the first command; returns what it prints, and the evidence of the new backend."""
        evidence = self.folder / "evidence.jsonl"
        done = self.run(0, "--perf-device=cpu", f"--perf-evidence={evidence}")
        return done, [row for row in load(evidence) if row.workload.backend == "einsum"]


def rows_of(done: subprocess.CompletedProcess[str], backend: str) -> list[list[str]]:
    """Returns the words of a backend's lines in the table."""
    return [words for words in map(str.split, done.stdout.splitlines()) if words[:2] == [backend, "512"]]


def test_the_example_is_right_and_measured_and_in_the_table(readme, tmp_path):
    done, evidence = Example(readme, tmp_path).measure()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row.workload.causal for row in evidence} == {True, False}
    for row in evidence:
        assert row.outcome == "ok"
        assert (row.error or math.inf) <= (row.bound or 0)
        assert 0 < (row.median or 0) < 1
    lines = rows_of(done, "einsum")
    assert len(lines) == len(evidence) == len(rows_of(done, "eager"))
    assert all(re.fullmatch(r"(us|ms|s)!?", words[4]) for words in lines)


@pytest.mark.slow
def test_the_example_with_a_wrong_scale_fails_and_shows_no_time(readme, tmp_path):
    done, evidence = Example(readme, tmp_path, scale=f"2 * {SCALE}").measure()
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "softmax:einsum is numerically wrong: out" in done.stdout
    assert {row.outcome for row in evidence} == {"wrong"}
    assert not any(row.samples or row.median for row in evidence)
    lines = rows_of(done, "einsum")
    assert len(lines) == len(evidence)
    assert all(words[3] == "WRONG" and len(words) == 6 for words in lines)  # backend, n, b, WRONG, error, allowed


@pytest.mark.slow
def test_the_example_passes_the_property_tests(readme, tmp_path):
    done = Example(readme, tmp_path).run(1)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 10


def test_a_newcomer_reads_it_in_one_sitting(readme):
    assert len(readme.splitlines()) <= 150
    assert len(readme.encode()) <= 8 * 1024
    assert max(map(len, readme.splitlines())) <= 130


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_link_of_a_page_leads_to_a_file(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}, which is not there"


STUDIES = ("000a", "000b", "001a", "001b", "002", "003")  # what must be runnable of each
STATUS = re.compile(r"no|\[(done|a part)\]\(\.\./perf/records/\S+\).*")  # nothing is done without a record


def test_every_row_of_the_studies_has_a_status_and_the_readme_says_the_pages_head(readme):
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    rows = {line.split()[1]: [cell.strip() for cell in line.split(" | ")] for line in page.splitlines()
            if line.startswith("| 00")}
    assert tuple(rows) == STUDIES
    for name, (_, cpu, gpu, missing) in rows.items():
        assert STATUS.fullmatch(cpu), f"{name}: {cpu}"
        assert STATUS.fullmatch(gpu), f"{name}: {gpu}"
        assert ": " in missing, f"{name} does not say why it lacks {missing}"
    assert page.split("\n\n")[1] in " ".join(readme.replace("[", "").replace("](docs/studies.md)", "").split())


def test_the_page_of_results_is_made_from_the_records():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == results.page(), "python -m perf.studies.results > docs/results.md"


def test_the_commands_are_environments_of_tox(readme):
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "tox.ini")
    known = {name.removeprefix("testenv:") for name in config.sections() if name.startswith("testenv:")}
    known |= set(re.split(r"[\s,]+", config.get("tox", "env_list", fallback="")))
    heading = next((line for line in readme.splitlines() if re.match(r"## .*\btwo commands\b", line, re.I)), None)
    assert heading, "README.md has no section on its two commands"
    commands = re.findall(r"tox run -e ([\w,.-]+)", section(readme, heading))
    assert len(set(commands)) >= 2, "the section names fewer than two of tox's environments"
    assert {name for names in commands for name in names.split(",")} <= known
