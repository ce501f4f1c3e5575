"""Publishes the history as web pages that load nothing from elsewhere.

    python -m perf site                      # .asv/results and .perf/nights -> .site
    python -m http.server -d .site           # or any static server, under any path

Exit codes: 0 published; 1 there is a history, and asv's pages of it are missing; 2 refused, in one line.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from perf.system.exit_codes import FAILED, OK

RESULTS, NIGHTS, OUT = Path(".asv/results"), Path(".perf/nights"), Path(".site")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, help="asv's results (default: the results_dir of asv.conf.json)")
    parser.add_argument("--nights", type=Path, default=NIGHTS, help=f"the nights' records (default: {NIGHTS})")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder to write (default: {OUT})")


def run(options: argparse.Namespace) -> int:
    from perf.web.site import build

    config = _config(Path("asv.conf.json"))
    results = options.results or Path(config.get("results_dir", RESULTS))
    problems, whole = build(config, Path.cwd(), results, options.nights, options.out)
    for problem in problems:
        print(f"python -m perf site: {problem}", file=sys.stderr)
    print(options.out / "index.html")
    return OK if whole or not (results / "benchmarks.json").exists() else FAILED


def _config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"no {path} here; run it where that file stands") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
