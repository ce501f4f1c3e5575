"""Sets the goals of quantised and compiled models beside what this run measured. It is for a GPU of 80 GB.

    python -m perf.studies.quantised_goals --out goals.jsonl                 # about 5 minutes
    python -m perf.studies.quantised_goals --out goals.jsonl --folds 2 --fold-seconds 60     # quality too
    python -m perf.studies.quantised_goals --out goals.jsonl --part quality --method ao-fp8-dynamic
    python -m perf.studies.quantised_goals --out tiny.jsonl --tiny --device cpu --folds 2    # the same code, no goal

Ratios are of one run. Times: `stopwatch` is a user's loop (call, wait), `graph` the device's time by CUDA-graph
replay from a cold L2. Every measurement is a line of the file, checked before it was timed; what fails is a line too.
"""
from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

import attention
import models
from perf.studies.claims import FAILS, judge
from perf.studies.contrast import Contrast
from perf.studies.measuring import Measurement, Study
from perf.studies.options import parser
from perf.studies.where_time_goes import Where, where
from perf.workloads.workload import Workload

BLOCKS = {"vit": "vit.layers", "gpt2": "transformer.h"}
FASTEST = ("ao-fp8-dynamic", "ao-int8-dynamic", "ao-int8-weight")  # of those that gain from a large batch
LEAST, SMALLEST, FASTER, POINTS, BLOCKS_SMALLER = 2.5, 0.51, 1.3, 0.5, 3.5


@dataclass(frozen=True)
class Models:
    """Names the presets that stand for ViT-L/16 and GPT-2, tokens of a short and a long prompt, the two batches."""

    vit: str = "vit-l16"
    fused: str = "vit-l16-fused"  # the same in fewer, larger products
    gpts: tuple[str, ...] = ("gpt2", "distilgpt2")
    short: int = 256
    long: int = 1024
    batch: int = 32
    half: str = "fp16"


TINY = Models("vit-tiny", "vit-tiny-fused", ("gpt2-tiny",), 16, 32, 4, "bf16")


def image(name: str, batch: int, dtype: str, quantization: str = "none", compiled: bool = False) -> Workload:
    """Gives a forward pass of the ViT."""
    preset = models.get(name)
    n = models.family(preset).tokens(preset)
    return Workload(name, "softmax", "sdpa", "forward", False, batch, preset.heads, preset.kv_heads, n, n,
                    preset.head_dim, dtype, quantization, compiled)


def text(m: Models, name: str, phase: str, n: int, compiled: bool = False) -> Workload:
    """Gives a prefill or a decoding step of a GPT."""
    preset = models.get(name)
    return Workload(name, "softmax", "sdpa", phase, True, 1, preset.heads, preset.kv_heads,
                    1 if phase == "decode" else n, n, preset.head_dim, m.half, compiled=compiled)


def pairs(m: Models) -> Iterator[tuple[str, Workload, Workload]]:
    """Lists what is compared at batch 1: eager and compiled."""
    yield "ViT", image(m.vit, 1, m.half), image(m.vit, 1, m.half, compiled=True)
    for name in m.gpts:
        for phase, n in (("prefill", m.short), ("decode", m.long - 1)):
            yield f"{name} {phase}", text(m, name, phase, n), text(m, name, phase, n, True)


def quantised(m: Models, method: str) -> Workload:
    """Gives the quantised ViT at the large batch."""
    return image(m.fused, m.batch, "bf16", method, True)


def unquantised(m: Models) -> list[Workload]:
    """Lists what it has to beat: the same in as few products, and as it is."""
    return [image(name, m.batch, "bf16", compiled=True) for name in (m.fused, m.vit)]


class Goals:
    """Measures the parts, each of which claims something."""

    def __init__(self, study: Study, m: Models) -> None:
        self.study, self.m = study, m
        self.claims: list[str] = []

    def claim(self, text: str, measured: str, shown: bool | None) -> None:
        """Adds a claim that is or is not `shown`, or (None) can't be told from this run."""
        self.claims.append(f"{judge(shown):9} {text}: {measured}")
        self.study.write("claim", {"claim": text, "measured": measured, "word": judge(shown)})

    def compiled(self, part: str) -> list[Workload]:
        """Lists all that a part compiles."""
        m = self.m
        return {"graphs": [new for _, _, new in pairs(m)],
                "blocks": [image(m.vit, batch, m.half, "bnb-nf4", True) for batch in (1, m.batch)],
                "fastest": [*unquantised(m), *(quantised(m, one) for one in FASTEST)],
                }.get(part, [])

    def graphs(self) -> None:
        """Measures torch.compile and a CUDA graph against eager half precision at batch 1."""
        for name, eager, compiled in pairs(self.m):
            with self.study.part(f"compiled {name}"):
                old, new = self.study.timed(eager), self.study.timed(compiled)
                contrast = Contrast(new, old)
                self.claim(f"{name}, {self.m.half}, batch 1: compile + CUDA graph >= {LEAST}x as fast as eager",
                           f"{contrast.speed_up:.2f}x by the stopwatch ({ms(old.eager)} -> {ms(new.best)}); "
                           f"{contrast.device_speed_up:.2f}x by the device's time ({ms(old.gpu)} -> {ms(new.gpu)}); "
                           f"the host launches the eager call in {ms(old.host)}; a CUDA graph alone gives "
                           f"{old.eager / old.best:.2f}x; {compile_seconds(new)}", contrast.at_least(LEAST))

    def blocks(self) -> None:
        """Measures NF4 against half precision on the blocks: how much smaller, how much slower."""
        for batch in (1, self.m.batch):
            with self.study.part(f"NF4 at batch {batch}"):
                plain = self.study.timed(image(self.m.vit, batch, self.m.half))
                slow = []
                for compiled in (False, True):
                    with self.study.part(f"bnb-nf4{' compiled' * compiled} at batch {batch}"):
                        contrast = Contrast(
                            self.study.timed(image(self.m.vit, batch, self.m.half, "bnb-nf4", compiled)), plain)
                        replayed = f", replayed {contrast.replayed_slowdown:.2f}x" if contrast.replayed_slowdown else ""
                        slow.append(f"{'compiled' if compiled else 'eager'} {contrast.slowdown:.2f}x the time by the "
                                    f"stopwatch, {contrast.device_slowdown:.2f}x by the device's{replayed}")
                self.claim(f"NF4 at batch {batch}: its slowdown against {self.m.half} eager is printed",
                           "; ".join(slow), bool(slow))
        for name in (self.m.vit, self.m.gpts[0]):
            for method in ("bnb-nf4", "bnb-nf4-dq"):
                with self.study.part(f"bytes of {method} in {name}"):
                    old, new = (self._block_bytes(name, quantization) for quantization in (None, method))
                    self.claim(f"{method} on the blocks of {name} >= {BLOCKS_SMALLER}x smaller than fp16",
                               f"{old / new:.2f}x ({old / 1e6:.1f} -> {new / 1e6:.1f} MB)", old / new >= BLOCKS_SMALLER)

    def _block_bytes(self, name: str, method: str | None) -> int:
        model = models.create(name, quantization=method, dtype=torch.float16, device=self.study.device)
        return models.quantization.model_bytes(model, BLOCKS[models.get(name).family])

    def fastest(self) -> str | None:
        """Measures the fastest quantised ViT at the large batch against bf16, both compiled; names its method."""
        with self.study.part("bf16 compiled"):
            fused, plain = (self.study.timed(w) for w in unquantised(self.m))
            contrasts: dict[str, Contrast] = {}
            for method in FASTEST:
                with self.study.part(f"{method} compiled"):
                    contrasts[method] = Contrast(self.study.timed(quantised(self.m, method)), plain)
            if not contrasts:
                raise ValueError("no method could be timed")
            best = max(contrasts, key=lambda method: contrasts[method].device_speed_up)
            won, new = contrasts[best], contrasts[best].new
            text = "; ".join(f"{method} {one.device_speed_up:.2f}x, {one.size:.3f} of its size, "
                             f"{compile_seconds(one.new)}" for method, one in contrasts.items())
            self.claim(f"the fastest quantised ViT at batch {self.m.batch} >= {FASTER}x as fast as bf16 compiled",
                       f"{best}: {won.device_speed_up:.2f}x ({ms(plain.gpu)} -> {ms(new.gpu)}, by {new.clock}; "
                       f"stopwatch {ms(plain.best)} -> {ms(new.best)}). All: {text}", won.at_least_by_device(FASTER))
            fewer = Contrast(new, fused)
            self.claim("and as bf16 compiled in as few products as it has",
                       f"{fewer.device_speed_up:.2f}x ({ms(fused.gpu)})", fewer.at_least_by_device(FASTER))
            self.claim(f"and at most {SMALLEST} of its size", f"{won.size:.3f}", won.size <= SMALLEST)
            return best
        return None

    def quality(self, method: str, folds: int, seconds: float) -> None:
        """Measures quality, paired and out-of-fold over all digits: bf16, and the same weights quantised."""
        from models.folds import out_of_fold
        from models.quality import compare, evaluate, join

        device, base, new = self.study.device, [], []
        with self.study.part(f"quality of {method}"):
            for model, held_out in out_of_fold(self.m.fused, folds, device=device, seconds=seconds,
                                               dtype=torch.bfloat16 if device.type == "cuda" else torch.float32):
                half = model.to(torch.bfloat16)
                base.append(evaluate(half, self.m.fused, held_out))
                models.quantization.quantize(half, method, dtype=torch.bfloat16)
                new.append(evaluate(half, self.m.fused, held_out))
                text = " -> ".join(f"{figures[-1]['top1'].value:.2f}" for figures in (base, new))
                print(f"  fold {len(base)} of {folds}: top1 {text}", flush=True)
                del model, half
                gc.collect()
            change = compare(join(base)["top1"], join(new)["top1"])
            self.study.write("quality", {"method": method, "folds": folds, "seconds": seconds, **asdict(change)})
            self.claim(f"quality within {POINTS} points of bf16, out-of-fold, the paired interval excluding -{POINTS}",
                       str(change), change.within(POINTS))

    def time_of_bitsandbytes(self) -> None:
        """Profiles what bitsandbytes spends its time on."""
        print("\nWhere the time goes:", flush=True)
        for batch in (1, self.m.batch):
            plain: Where | None = None
            for method in ("none", "bnb-int8", "bnb-nf4"):
                with self.study.part(f"where {method} spends its time at batch {batch}"):
                    subject = self.study.subject(image(self.m.vit, batch, self.m.half, method))
                    profile = where(subject.call, self.study.device)
                    self.study.write("where", {"method": method, "batch": batch, **profile.record()})
                    name = f"{self.m.vit}, batch {batch}, {self.m.half if method == 'none' else method}"
                    times = f" That is {profile.wall / plain.wall:.2f}x the time of {self.m.half}." if plain else ""
                    print(f"- {profile.text(name)}{times}", flush=True)
                    plain = plain or profile


def ms(seconds: float | None) -> str:
    """Writes milliseconds."""
    return "-" if seconds is None else f"{1e3 * seconds:.3f} ms"


def compile_seconds(t: Measurement) -> str:
    """Says how long compiling took."""
    texts = [f"{kind} {t.compiled[kind]:.0f} s" for kind in ("cold", "warm") if kind in t.compiled]
    return f"compiled in {' / '.join(texts) or 'no time'}"


def parts(goals: Goals, folds: int, seconds: float, only: Iterable[str], method: str | None) -> None:
    """Runs the named parts, or all, in the order that builds each model once."""
    steps: dict[str, Callable[[], Any]] = {
        "graphs": goals.graphs, "blocks": goals.blocks, "where": goals.time_of_bitsandbytes, "fastest": goals.fastest}
    chosen = list(only) or list(steps)
    if ahead := list(dict.fromkeys(w for name in chosen for w in goals.compiled(name))):
        with goals.study.part("compiling ahead"):
            goals.study.compile_ahead(ahead)
    for name, step in steps.items():
        if name in chosen:
            print(f"{name}: {(step.__doc__ or '').splitlines()[0]}", flush=True)
            with goals.study.part(name):
                result = step()
                method = method or (result if name == "fastest" else None)
    if folds or "quality" in chosen:
        goals.study.seconds = float("inf")
        usual = "ao-fp8-dynamic" if goals.study.device.type == "cuda" else "ao-int8-dynamic"
        goals.quality(method or usual, folds or 2, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what was measured, then each claim; 1 if one fails or a part could not be measured."""
    options = parser("quantised_goals", __doc__, ("graphs", "blocks", "where", "fastest", "quality"), minutes=8)
    options.add_argument("--method", help="whose quality is measured (default: the fastest's)")
    options.add_argument("--folds", type=int, default=0, help="models to train, to measure quality by (default: none)")
    options.add_argument("--fold-seconds", type=float, default=60.0, help="of training, each (default: 60)")
    args = options.parse_args(arguments)
    attention.names()
    study = Study(args.device, args.out, 60 * args.minutes)
    goals = Goals(study, TINY if args.tiny else Models())
    parts(goals, args.folds, args.fold_seconds, args.part, args.method)
    print("\nClaims:", *goals.claims, *(f"FAILED {part}" for part in study.failures), f"records: {args.out}", sep="\n")
    return 1 if study.failures or any(claim.startswith(FAILS) for claim in goals.claims) else 0


if __name__ == "__main__":
    raise SystemExit(main())
