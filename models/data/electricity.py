"""Reads UCI electricity (LD2011_2014.txt): kilowatts of 370 clients every 15 minutes, averaged by hour as the TFT's
authors do.

The file has semicolons, decimal commas and a first row of names; each row is a time and one number for each client. An
hour is the mean of the four quarters that end in it. Known ahead are the hour of the day and the day of the week, each
as sine and cosine, which suits `tft-160` (4 known variables, up to 369 series).
Source: Trindade, UCI Machine Learning Repository (2015), doi 10.24432/C58C86.
"""
from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from models.data.series import Series, Windows, windows
from models.data.wrong import wrong
from models.packages import needs

SEASON = 24
FORMAT = "%Y-%m-%d %H:%M:%S"


def read(path: str | Path, clients: int | None = None) -> tuple[Series, ...]:
    """Reads the hourly series of the first `clients` columns (by default all), each from its first hour of use on.

    Raises ValueError, which names file, line and what was expected there, FileNotFoundError, and ImportError without
    pandas.
    """
    path = Path(path)
    all_names = _names(path)
    names = all_names[:clients]
    with needs("pandas", "to read the electricity file"):
        import pandas
    try:
        table = pandas.read_csv(path, sep=";", decimal=",", header=0, index_col=0, parse_dates=True, date_format=FORMAT,
                                dtype=dict.fromkeys(all_names, np.float64))[names]
        clean = (isinstance(table.index, pandas.DatetimeIndex) and not table.index.hasnans and not table.empty
                 and bool(np.isfinite(table.to_numpy()).all()))
    except KeyError:
        raise wrong(path, "client names that differ, without quotes within", f"{len(all_names)} names", 1) from None
    except (ValueError, UnicodeDecodeError):  # pandas does not name the line
        clean = False
    if not clean:
        raise _first_wrong_row(path)
    if (steps := np.diff(table.index.to_numpy()).astype("timedelta64[s]")).size and len(odd := np.unique(steps)) > 1:
        row = int(np.argmax(steps != steps[0])) + 3  # plus the header and the row after the step
        raise wrong(path, "rows of equal steps in time", f"steps of {odd[0]} and {odd[-1]}", row)
    try:
        hourly = table.resample("1h", closed="right", label="left").mean()
    except (ValueError, AttributeError):  # pandas counts nanoseconds in 64 bits
        raise wrong(path, "times from 1678 to 2261", f"{table.index.min()} to {table.index.max()}") from None
    return tuple(_series(str(name), hourly[name]) for name in names)


def split(path: str | Path, *, context: int = 168, horizon: int = 24, clients: int | None = None,
          stride: int = 24) -> tuple[Windows, Windows]:
    """Gives training and held-out windows of the file; raises the errors of `read` and `series.windows`."""
    return windows(read(path, clients), context=context, horizon=horizon, season=SEASON, stride=stride)


def _series(name: str, hourly: object) -> Series:
    values, times = hourly.to_numpy(), hourly.index  # type: ignore[attr-defined]
    first = int(np.argmax(values > 0))  # before it there was no such client
    hour, day = 2 * np.pi * times.hour / 24, 2 * np.pi * times.dayofweek / 7
    known = np.stack([np.sin(hour), np.cos(hour), np.sin(day), np.cos(day)], axis=1)
    return Series(name, values[first:], known[first:])


def _names(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        header = lines.readline().rstrip("\r\n")
    names = [name.strip('"') for name in header.split(";")]
    if len(names) < 2 or names[0] or not all(names[1:]):
        raise wrong(path, 'a first row "";"MT_001";... of client names between semicolons', header, 1)
    return names[1:]


def _first_wrong_row(path: Path) -> ValueError:
    """Describes the error in the first bad row. It reads every row, so it is called only after pandas failed."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        width = len(lines.readline().split(";"))
        for number, line in enumerate(lines, 2):
            time, *values = line.rstrip("\r\n").split(";")
            if len(values) != width - 1:
                return wrong(path, f"a time and {width - 1} numbers between semicolons", f"{len(values)} numbers",
                             number)
            try:
                datetime.strptime(time.strip('"'), FORMAT)
            except ValueError:
                return wrong(path, 'a time like "2011-01-01 00:15:00"', time, number)
            for value in values:
                try:
                    if not np.isfinite(float(value.replace(",", "."))):
                        raise ValueError
                except ValueError:
                    return wrong(path, "a number with a decimal comma, like 3,17", value or "nothing", number)
    return wrong(path, "rows of a time and numbers", "none that can be read")
