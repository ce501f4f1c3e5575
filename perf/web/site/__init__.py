"""Writes the site of the history: a front page, asv's pages beside it, and no request that leaves the host.

    python -m perf site                      # .asv/results and .perf/nights -> .site
    python -m http.server -d .site           # or any static server, under any path

What can't be shown is one line each, on the page and on the terminal; the rest is published.
"""
from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MARK = "perf-site.txt"  # in every folder that this wrote, and may write again
MARKED = "Written by python -m perf site, which replaces this folder.\n"


def build(config: dict[str, Any], root: Path, results: Path, nights: Path, out: Path) -> tuple[list[str], bool]:
    """Writes the site into `out`, all at once; tells what couldn't be shown, and whether asv's pages are there.

    `config` is asv.conf.json's content, `root` where it stands.
    """
    from perf.web.site import front

    _ours(out)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch, "site")
        site.mkdir()
        try:
            if find_spec("asv") is None:
                raise ValueError('asv is not installed, so its graphs are left out; pip install -e ".[site]"')
            from perf.web.site import asv_pages

            left_out = asv_pages.publish(config, root, results, site / "asv", Path(scratch))
            problems += [f"{path}: left out: {reason}" for path, reason in left_out.items()]
        except ValueError as error:
            problems.append(str(error))
            shutil.rmtree(site / "asv", ignore_errors=True)
        content = front.gather(config, root, results, nights, site / "asv", problems)
        (site / "index.html").write_text(front.page(content), encoding="utf-8", errors="replace")
        (site / MARK).write_text(MARKED, encoding="utf-8")
        _replace(out, site)
    return list(content.problems), bool(content.graphs)


def _replace(out: Path, site: Path) -> None:
    """Puts the site in the place of the one before. Raises ValueError, in one line, where it can't; that one stays."""
    new = out.with_name(f".{out.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(site, new)
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    except OSError as error:  # copytree's own kind lists every file
        reason = error.strerror or str(error.args[0][0][2]).partition(": '")[0].partition("] ")[2]
        raise ValueError(f"{out}: can't be written: {reason}; what was there stays") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _ours(out: Path) -> None:
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: holds something else; name a new folder, or an empty one")
