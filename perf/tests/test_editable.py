"""An installed working tree lends nothing to another revision."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import attention
from perf import keep_apart
from perf.compare.side import Side

ROOT = Path(__file__).parents[2]

# As setuptools makes it: a module in a package that is installed is found whoever the package is by now.
HOOK = """
import sys
from importlib.machinery import PathFinder
MAPPING = {"attention": %r}
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        parent = name.rpartition(".")[0]
        return PathFinder.find_spec(name, path=[MAPPING[parent]]) if parent in MAPPING else None
sys.meta_path.append(Finder)
"""


def test_a_revision_gets_no_module_that_it_lacks(tmp_path):
    (tmp_path / "perf").symlink_to(ROOT / "perf")
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "__init__.py").write_text("")
    (tmp_path / "hook.py").write_text(HOOK % str(ROOT / "attention"))
    code = "import hook{}\nimport attention.testing"
    variables = Side(tmp_path, "a side").variables()
    lent, refused = (subprocess.run([sys.executable, "-c", code.format(more)], cwd=tmp_path, env=variables,
                                    capture_output=True, text=True, check=False) for more in ("", ", perf"))
    assert lent.returncode == 0, lent.stderr  # the trap
    assert refused.stderr.strip().endswith("ModuleNotFoundError: No module named 'attention.testing'")


def test_what_is_installed_here_or_is_another_s_stays(monkeypatch):
    hook = ModuleType("hook")
    here, elsewhere = str(Path(attention.__file__ or "").parent), "/somewhere"
    mapping = hook.MAPPING = {"attention": here, "models": elsewhere, "other": elsewhere}  # type: ignore[attr-defined]
    finder = type("Finder", (), {"__module__": "hook", "find_spec": staticmethod(lambda *found: None)})
    monkeypatch.setitem(sys.modules, "hook", hook)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    keep_apart()
    assert mapping == {"attention": here, "other": elsewhere}
