"""A local index: wheels of `stubkernel`, which is torch's own attention, and a variant softmax:stub that runs it."""
from __future__ import annotations

import zipfile
from pathlib import Path

CELL = "softmax:stub-forward-causal-b1-h8-kv8-n512-m512-d64-fp32"
KERNEL = """
import time
import torch.nn.functional as F

def attend(q, k, v, *, scale, causal):
    began = time.process_time()
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    until = began + {time} * (time.process_time() - began)
    while time.process_time() < until:
        pass
    return out{more}
"""
VARIANT = """
import attention
from attention.backends.base import Backend

class Stub(Backend):
    name = "stub"

    def attend(self):
        import stubkernel
        return stubkernel.attend

@attention.register("softmax", backends=[Stub()])
def softmax(attend, q, k, v, *, causal, scale, key_mask):
    return attend(q, k, v, scale=scale, causal=causal)
"""


def wheel(folder: Path, version: str, *, time: float = 1.0, more: str = "", requires: str = "") -> None:
    """Writes a release. Its kernel takes `time` as long as torch's; `more` follows the result; `requires` is what it
    depends on."""
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    info = f"stubkernel-{version}.dist-info"
    with zipfile.ZipFile(folder / f"stubkernel-{version}-py3-none-any.whl", "w") as file:
        file.writestr("stubkernel.py", KERNEL.format(time=time, more=more))
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: stubkernel\nVersion: {version}\n{needs}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def index(folder: Path, slower: int, broken: int) -> None:
    """Writes 16 releases: from 1.`slower` on they take 5 % more time, and 1.`broken` doesn't install."""
    folder.mkdir()
    for i in range(16):
        wheel(folder, f"1.{i}", time=1.05 if i >= slower else 1.0, requires="no-such-package" if i == broken else "")


def variant(folder: Path) -> Path:
    """Writes the variant as an installed package has it; the folder goes onto the path."""
    info = folder / "stubvariant-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "stubvariant.py").write_text(VARIANT)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stubvariant\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[attention_perf.variants]\nstub = stubvariant\n")
    return folder
