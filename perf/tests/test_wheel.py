"""The wheel holds all that runs: whoever installs it measures without a clone."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
OUTSIDE = {"tests", "records", "__pycache__"}
FILES = [path.relative_to(ROOT) for package in ("attention", "models", "perf") for path in (ROOT / package).rglob("*")
         if path.is_file() and not OUTSIDE & {*path.relative_to(ROOT).parts}]


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in FILES if path.suffix == ".py"}
    assert len(folders) > 20
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_every_other_file_is_data_of_a_package():
    data = {path.relative_to(ROOT) for package, patterns in DATA.items() for pattern in patterns
            for path in (ROOT / package.replace(".", "/")).glob(pattern)}
    assert len(data) > 10
    assert {path for path in FILES if path.suffix != ".py"} == data


@pytest.mark.slow
def test_the_wheel_measures_outside_of_the_clone(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"  # a build leaves its own folders beside what it builds
    for name in ("pyproject.toml", "README.md", "LICENSE", *map(str, FILES)):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "installed"), str(wheel)], check=True)
    run = subprocess.run([sys.executable, "-P", "-m", "pytest", "--pyargs", "perf.test_attention", "--benchmark-only",
                          "--perf-grid=quick", "--perf-functions=softmax", "--perf-backends=eager",
                          "--perf-seqlens=512", "--perf-unfit=keep"],
                         env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")}, cwd=tmp_path,
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
