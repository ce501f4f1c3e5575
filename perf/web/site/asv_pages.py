"""Publishes asv's pages of the history, made to work anywhere: what they load from CDNs comes with them, and what would
stop asv or clutter its pages is left out.

asv shows the whole product of a benchmark's axes, thousands of cells of which a run measures some dozens: the copy that
it gets has axes of the values at which something was measured.
"""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from asv.graph import Graph
from asv.machine import Machine
from asv.results import Results
from asv.util import load_json

from perf.history.merge import UNREADABLE, cells, result_files
from perf.history.results import cut
from perf.system import git
from perf.system.tools import ending, first_line, group_by, last_line
from perf.web.page.markup import Markup, join, tag
from perf.web.site import vendored

POLICY = ("default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'")
LINKS = ("https://github.com/airspeed-velocity/asv/",)  # that a reader may follow, and nothing loads
Cells = set[tuple[str, ...]]
COMMIT = "../index.html#commit-"  # where asv's links to a commit lead, unless asv.conf.json says


def publish(config: Mapping[str, Any], root: Path, results: Path, out: Path, scratch: Path) -> dict[Path, str]:
    """Writes asv's pages of `results` into `out`, by way of the folder `scratch`; tells what was left out, and why.

    `config` is asv.conf.json's content and `root` where it stands. Raises ValueError, in one line, if asv fails, or has
    a page that loads what `vendor/` doesn't hold.
    """
    link, repo = config.get("show_commit_url", "#"), config.get("repo", ".")
    here = (root / repo).resolve()
    left_out = stage(results, scratch / "results", here if here.exists() else root)
    conf = {**config, "results_dir": str(scratch / "results"), "html_dir": str(out), "plugins": [],
            "repo": str(here) if here.exists() else repo, "show_commit_url": COMMIT if link == "#" else link}
    (scratch / "asv.conf.json").write_text(json.dumps(conf), encoding="utf-8")
    process = subprocess.run([sys.executable, "-m", "asv", "publish", "--no-pull", "--config",
                              str(scratch / "asv.conf.json")], cwd=root, capture_output=True, text=True)
    if process.returncode:
        reason = last_line(process.stderr.strip() or process.stdout, ending(process.returncode))
        raise ValueError(f"asv publish failed, so its graphs are left out: {reason}")
    _drop_unmeasured(out)
    _tell_graphs(out)
    contain(out)
    return left_out


def stage(results: Path, to: Path, repository: Path) -> dict[Path, str]:
    """Copies to the folder `to` what asv can publish of `results`; tells which files it can't, and why.

    Raises ValueError, in one line, if nothing is left.
    """
    benchmarks = _benchmarks(results)
    commits = _commits(repository)
    left_out: dict[Path, str] = {}
    measured: dict[str, Cells] = {}
    for folder, paths in group_by(result_files(results), lambda path: path.parent).items():
        try:
            machine = load_json(str(folder / "machine.json"), Machine.api_version)["machine"]
        except UNREADABLE as error:
            left_out[folder / "machine.json"] = first_line(error)
            continue
        for path in paths:
            try:
                _add_measured(_read(path, machine, commits), benchmarks, measured)
            except UNREADABLE as error:
                left_out[path] = first_line(error)
                continue
            (to / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to / folder.name)
            shutil.copy(folder / "machine.json", to / folder.name)
    if not measured:
        raise ValueError(f"{results}: nothing that asv could draw; run asv run, or pytest perf/ --benchmark-only "
                         "--perf-history")
    pruned = {name: benchmarks[name] | {"params": cut(benchmarks[name]["params"], of_one)}
              for name, of_one in measured.items()}
    (to / "benchmarks.json").write_text(json.dumps({**pruned, "version": benchmarks["version"]}), encoding="utf-8")
    return left_out


def _benchmarks(results: Path) -> dict[str, Any]:
    path = results / "benchmarks.json"
    try:
        benchmarks = json.loads(path.read_text(encoding="utf-8"))
        version = benchmarks.pop("version")
        return {name: one for name, one in benchmarks.items() if one["params"]} | {"version": version}
    except OSError:
        raise ValueError(f"{results}: no history yet (no benchmarks.json); run asv run, or pytest perf/ "
                         "--benchmark-only --perf-history") from None
    except UNREADABLE as error:
        raise ValueError(f"{path}: not asv's list of benchmarks: {first_line(error)}; write it again by asv run "
                         "--bench just-discover") from None


def _commits(repository: Path) -> set[str]:
    try:
        return set(git.text(repository, "rev-list", "--all").split())
    except ValueError as error:
        raise ValueError(f"{repository}: git can't list its commits: {error}") from None


def _read(path: Path, machine: str, commits: Collection[str]) -> Results:
    results = Results.load(str(path), machine_name=machine)
    if results.commit_hash not in commits:
        raise ValueError(f"commit {results.commit_hash} is not in this repository; fetch it (git fetch --unshallow)")
    return results


def _add_measured(results: Results, benchmarks: Mapping[str, Any], measured: dict[str, Cells]) -> None:
    """Adds the cells that have a figure. All of a file or nothing: it may turn out to be broken."""
    known = {name: {cell for cell, (value, *_) in cells(results, name).items() if value is not None}
             for name in results.get_result_keys(benchmarks)}
    for name, of_one in known.items():
        if of_one:
            measured.setdefault(name, set()).update(of_one)


def _drop_unmeasured(out: Path) -> None:
    """Drops the lines of asv's list that have no figure: it has one for each cell of the product of the axes."""
    for path in out.glob("graphs/**/summary.json"):
        rows = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps([row for row in rows if row["last_value"] is not None]), encoding="utf-8")


def _tell_graphs(out: Path) -> None:
    """Names in "graphs" the places of each benchmark that have a graph. asv's page would ask for one at every place;
    `asv_page.js` asks for these only."""
    path = out / "index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    index["graphs"] = {name: [i for i, place in enumerate(index["graph_param_list"])
                              if Path(out, Graph.get_file_path(place, name) + ".json").exists()]
                       for name in index["benchmarks"]}
    path.write_text(json.dumps(index), encoding="utf-8")


def contain(out: Path) -> None:
    """Puts what asv's page loads from elsewhere beside it. Raises ValueError for what isn't known."""
    (out / "vendor").mkdir()
    for file in vendored.files():
        data = file.read()
        if file.name.endswith(".css"):  # Bootstrap's names icon fonts, which asv never shows
            data = re.sub(rb"@font-face\{[^}]*\}", b"", data)
        (out / "vendor" / file.name).write_bytes(data)
    for name in (vendored.LICENCES, "lock.toml"):
        shutil.copy(vendored.FOLDER / name, out / "vendor")
    for name in ("asv_page.css", "asv_page.js"):
        shutil.copy(Path(__file__).with_name(name), out)
    index = out / "index.html"
    index.write_text(rewrite(index.read_text(encoding="utf-8")), encoding="utf-8")
    (out / "error.html").unlink(missing_ok=True)  # it asks for the network, which nothing needs now
    for path in [*out.glob("*.html"), *out.glob("*.js"), *out.glob("*.css")]:
        for address in external(path.name, path.read_text(encoding="utf-8")):
            raise ValueError(f"asv's {path.name} loads {address}, which perf/web/site/vendor/lock.toml does not "
                             "name; add the npm package that has it")


def rewrite(html: str) -> str:
    """Returns asv's index.html with the files of `vendor/` in place of their addresses, a policy, a way back and a
    theme."""
    for file in vendored.files():
        local = f"vendor/{file.name}"
        html = re.sub(rf'<script src="{re.escape(file.replaces)}"[^>]*>', f'<script src="{local}">', html)
        html = re.sub(rf'<link rel="stylesheet" href="{re.escape(file.replaces)}"[^>]*>',
                      f'<link rel="stylesheet" href="{local}">', html)
    html = re.sub(r"<script[^>]*>\s*function js_load_failure\(\).*?</script>", "", html, flags=re.DOTALL)
    head = join([tag("meta", http_equiv="Content-Security-Policy", content=Markup(POLICY)),
                 tag("meta", name="viewport", content="width=device-width, initial-scale=1")])
    ours = ('<link href="asv_page.css" rel="stylesheet"/>\n    <script src="asv_page.js"></script>\n  </head>')
    back = join([tag("li", tag("a", "Overview", href="../index.html"))])
    html = html.replace("<html>", '<html lang="en">', 1).replace("<head>", f"<head>\n    {head}", 1)
    html = html.replace("</head>", ours, 1)
    return re.sub(r'(<li id="nav-li-" )', lambda match: f"{back}\n        {match[1]}", html, count=1)


def external(name: str, text: str) -> list[str]:
    """Lists the addresses on other hosts that a file of asv's page names, but for links that a reader may follow."""
    if name.endswith(".html"):
        parser = _Addresses()
        parser.feed(text)
        return [address for address in parser.addresses if address not in LINKS]
    return re.findall(r"https?://[^\s'\"<>)]+|(?<=url\()//[^)]+", text)


class _Addresses(HTMLParser):
    """Collects the attributes that are an address with a host."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for _, value in attributes if value and re.match(r"\s*(https?:)?//", value)]
