"""Evidence: what is written is read back, and what is broken is named."""
from __future__ import annotations

import gzip
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from perf.measure import evidence, machine
from perf.measure.evidence import Evidence, Writer, load, machines
from perf.system.files import open_bytes, seal
from perf.tests import repositories
from perf.workloads.workload import Workload

repository = repositories.repository

RECORDS = Path(__file__).parents[1] / "records"
WORKLOAD = Workload("attention", "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
ROW = Evidence(WORKLOAD, "ok", samples=(1e-3, 1.1e-3), median=1.05e-3, iqr=1e-4, rounds=2, iterations=1,
               clock="perf_counter, 1 threads", peak_bytes=10, error=1e-7, bound=1e-6, flops=5, bytes=6,
               machine=machine.identity(), revision="abc")


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "deep" / "evidence.jsonl"
    writer = Writer(path)
    skipped = Evidence(WORKLOAD, "skipped", reason="no GPU")
    for row in (ROW, skipped):
        writer.append(row)
    assert load(path) == [ROW, skipped]


def test_each_line_is_on_disk_at_once(tmp_path):
    path = tmp_path / "evidence.jsonl"
    writer = Writer(path)
    assert not path.exists()
    for count in (1, 2, 3):
        writer.append(ROW)
        assert len(load(path)) == count


def test_a_run_starts_with_its_machine(tmp_path):
    path = tmp_path / "evidence.jsonl"
    Writer(path).append(ROW)
    Writer(path).append(ROW)
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["machine", "evidence", "machine", "evidence"]
    assert machines(path)[ROW.machine]["torch"] == machine.fingerprint()["torch"]


@pytest.mark.parametrize("line", ['{"kind": "evid', "[]", "{}", '{"kind": "evidence"}', "7",
                                  json.dumps(ROW.record() | {"schema": 99}), "[" * 100000,
                                  seal(ROW.record()).replace("0.00105", "0.00106"), '{"kind": "machine"}'])
def test_a_corrupt_line_is_named(tmp_path, line):
    path = tmp_path / "evidence.jsonl"
    Writer(path).append(ROW)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"evidence.jsonl:3: not evidence: .*; delete the line"):
        load(path)


def test_several_corrupt_lines_are_one_sentence(tmp_path):
    path = tmp_path / "evidence.jsonl"
    Writer(path).append(ROW)
    path.write_bytes(path.read_bytes() + b"\xff\n{}\n7\n")
    with pytest.raises(ValueError, match=":3: not evidence: not text; delete the line, and lines 4, 5,") as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [1, 2, 500, -1, "zeros"])
def test_a_power_cut_costs_the_last_row(tmp_path, cut):
    """Whatever is left of its last line, the rows before it are read, and the next run goes on behind them."""
    path = tmp_path / "evidence.jsonl"
    Writer(path).append(ROW)
    whole = path.read_bytes()
    line = seal(replace(ROW, revision="lost").record()).encode()
    path.write_bytes(whole + (bytes(400) if cut == "zeros" else line[:cut]))
    with pytest.warns(UserWarning, match="evidence.jsonl: its last line was cut off"):
        assert load(path) == [ROW]
    with pytest.warns(UserWarning, match="its last line was cut off"):
        Writer(path).append(replace(ROW, revision="next"))
    assert [row.revision for row in load(path)] == ["abc", "next"]


def test_a_line_that_lacks_only_its_end_is_a_line(tmp_path):
    path = tmp_path / "evidence.jsonl"
    Writer(path).append(ROW)
    path.write_bytes(path.read_bytes()[:-1])
    assert load(path) == [ROW]
    Writer(path).append(ROW)
    assert load(path) == [ROW, ROW]


def test_two_runs_may_write_to_one_file(tmp_path):
    """Lines are larger than a pipe's or a buffer's, so that they would mix if nothing kept them apart."""
    path = tmp_path / "evidence.jsonl"

    def run(name: str) -> None:
        writer = Writer(path)
        for _ in range(20):
            writer.append(replace(ROW, revision=name, samples=(1e-3,) * 10_000))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, "abcd"))
    assert Counter(row.revision for row in load(path)) == dict.fromkeys("abcd", 20)


def test_records_that_are_cut_are_one_line(tmp_path):
    path = tmp_path / "evidence.jsonl.gz"
    path.write_bytes(gzip.compress(seal(ROW.record()).encode() + b"\n")[:-9])
    with pytest.raises(ValueError, match=r"evidence.jsonl.gz: not evidence: Compressed file ended"):
        load(path)


def test_outcomes_are_five():
    with pytest.raises(ValueError, match="unknown outcome 'fast'; choose from ok, wrong, skipped, failed, invalid"):
        Evidence(WORKLOAD, "fast")


def test_the_machine_s_id_changes_with_it():
    result = machine.fingerprint()
    assert machine.identity({**result, "torch": "0"}) != machine.identity(result) == machine.identity()
    assert len(machine.identity()) == 12
    assert json.loads(json.dumps(result)) == result


def test_a_revision_needs_git(repository, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(repository.root)
    commit = repository.commit("1", "first")
    assert machine.revision.__wrapped__() == commit
    (repository.root / "attention/__init__.py").write_text("changed")
    assert machine.revision.__wrapped__() == f"{commit}+dirty"
    monkeypatch.chdir(tmp_path_factory.mktemp("nowhere"))
    assert machine.revision.__wrapped__() is None


def test_evidence_from_before_there_were_quantised_models_is_read():
    record = json.loads(json.dumps(ROW.record()))
    del record["workload"]["quantization"], record["workload"]["compiled"], record["quality"]
    record["schema"] = 2
    assert Evidence.from_dict(record) == replace(ROW, schema=2)


def kept() -> list[Path]:
    """Reads the evidence among the records; the first line tells the machine and the schema."""
    firsts = {}
    for path in RECORDS.glob("*/*.jsonl.gz"):
        with open_bytes(path) as file:
            firsts[path] = json.loads(file.readline())
    return sorted(path for path, first in firsts.items() if first.get("kind") == "machine" and "schema" in first)


@pytest.mark.parametrize("path", kept(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_records_of_the_readme_are_read(path):
    rows = load(path)
    assert rows
    assert not any(row.workload.treatment for row in rows if row.schema < 3)


def test_the_schema_before_is_still_read():
    """Its records lack the fields that came later; a record of this schema may lack none."""
    record = json.loads(json.dumps(ROW.record()))
    later = ("interval", "counters", "kernels", "state", "floor")
    old = {name: value for name, value in record.items() if name not in later} | {"schema": 1}
    assert Evidence.from_dict(old).median == ROW.median
    assert Evidence.from_dict(old).counters == {}
    with pytest.raises(KeyError):
        Evidence.from_dict({**old, "schema": evidence.SCHEMA})
