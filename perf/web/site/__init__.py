"""The site of the history: a front page of our own, asv's pages beside it, and no request that leaves the host.

    python -m perf site                      # .asv/results and .perf/nights -> .site
    python -m http.server -d .site           # or any static server, under any path

What can't be shown is one line each, on the page and on the terminal; the rest is published.
"""
from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.commands.arguments import Parser

RESULTS, NIGHTS, OUT = Path(".asv/results"), Path(".perf/nights"), Path(".site")
MARK = "perf-site.txt"  # in every folder that this wrote, and may write again
MARKED = "Written by python -m perf site, which replaces this folder.\n"


def main(arguments: Sequence[str]) -> int:
    """Publishes; 1 if there is a history and asv's pages of it are missing.

    Raises ValueError, in one line, for a missing configuration, or a folder that isn't ours to write.
    """
    parser = Parser(prog="python -m perf site", description="the history as web pages that load nothing from elsewhere")
    parser.add_argument("--results", type=Path, help="asv's results (default: the results_dir of asv.conf.json)")
    parser.add_argument("--nights", type=Path, default=NIGHTS, help=f"the nights' records (default: {NIGHTS})")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder to write (default: {OUT})")
    chosen = parser.parse_args(arguments)
    config = _config(Path("asv.conf.json"))
    results = chosen.results or Path(config.get("results_dir", RESULTS))
    problems, whole = build(config, Path.cwd(), results, chosen.nights, chosen.out)
    for problem in problems:
        print(f"python -m perf site: {problem}", file=sys.stderr)
    print(chosen.out / "index.html")
    return 0 if whole or not (results / "benchmarks.json").exists() else 1


def build(config: dict[str, Any], root: Path, results: Path, nights: Path, out: Path) -> tuple[list[str], bool]:
    """Writes the site into `out`, all at once; tells what couldn't be shown, and whether asv's pages are there.

    `config` is asv.conf.json's content, `root` where it stands.
    """
    from perf.web.site import asv_pages, contents, front

    _ours(out)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch, "site")
        site.mkdir()
        try:
            left_out = asv_pages.publish(config, root, results, site / "asv", Path(scratch))
            problems += [f"{path}: left out: {reason}" for path, reason in left_out.items()]
        except ValueError as error:
            problems.append(str(error))
            shutil.rmtree(site / "asv", ignore_errors=True)
        shown = contents.gather(config, root, results, nights, site / "asv", problems)
        (site / "index.html").write_text(front.page(shown), encoding="utf-8", errors="replace")
        (site / MARK).write_text(MARKED, encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(site, out)
    return list(shown.problems), bool(shown.graphs)


def _ours(out: Path) -> None:
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: holds something else; name a new folder, or an empty one")


def _config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"no {path} here; run it where that file stands") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
