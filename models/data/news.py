"""Reads CNN/DailyMail articles and highlights (Hermann et al., arXiv 1506.03340) from JSON lines or parquet.

Each row has a text `article` and a text `highlights`, as in the Hugging Face data set of that name.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.data.wrong import wrong
from models.packages import needs

FIELDS = ("article", "highlights")


def read(path: str | Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Reads (article, highlights) of the first `limit` rows (by default all), as `docstrings.texts` takes them.

    Raises ValueError, which names file, line (in parquet the row) and what was expected there, FileNotFoundError, and
    ImportError for parquet without pyarrow.
    """
    path = Path(path)
    readers = {".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}
    if path.suffix not in readers:
        raise wrong(path, f"a file that ends in {', '.join(readers)}", path.suffix or "no suffix")
    rows: list[tuple[str, str]] = []
    for line, row in readers[path.suffix](path):
        if limit is not None and len(rows) == limit:
            break
        for field in FIELDS:
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise wrong(path, f"a text {field!r}", row.get(field, f"only {', '.join(row) or 'nothing'}"), line)
        rows.append((row["article"], row["highlights"]))
    if not rows and limit != 0:
        raise wrong(path, "rows with 'article' and 'highlights'", "none")
    return rows


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # bad UTF-8 too
                raise wrong(path, "one JSON object", f"{line[:40]!r} ({error})", number) from error
            if not isinstance(row, dict):
                raise wrong(path, "one JSON object", row, number)
            yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with needs("pyarrow", "to read parquet", "parquet"):
        import pyarrow
        from pyarrow import parquet
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise wrong(path, "a parquet file", str(error)) from error
    if missing := set(FIELDS) - set(file.schema_arrow.names):
        raise wrong(path, f"a column {min(missing)!r}", f"only {', '.join(file.schema_arrow.names)}")
    rows = (row for batch in file.iter_batches(1024, columns=list(FIELDS)) for row in batch.to_pylist())
    yield from enumerate(rows, 1)
