"""Builds the small classifier of the Long Range Arena study around each function of the registry that can stand in it.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import attention
from attention.registry import functions
from models import metrics
from models.data.arena import Task
from models.figures import Figure

WIDTH, HEADS, LAYERS = 64, 2, 2
LEARNING_RATE, CLIP = 3e-3, 1.0
BASE, UNIFORM = "softmax", "uniform weights"  # what others are compared with, and the control
# The first that can: what saves work before what does not; a CPU takes seconds for many short Fourier transforms.
BACKENDS = {"cpu": ("chunked", "scan", "sdpa", "eager", "fft"), "cuda": ("chunked", "fft", "scan", "sdpa", "eager")}
APART = {"decode": "it is for one query", "varlen": "it has no form without the lengths of a batch",
         "kv-quantised": "it has no gradient"}


@dataclass(frozen=True)
class Candidate:
    """Is a variant with its options; None has the same weight for all keys."""

    variant: str | None
    options: dict[str, Any] = field(default_factory=dict)


def options(n: int) -> dict[str, dict[str, Any]]:
    """Gives options for `n` tokens by function: a part of the keys, where the defaults would be all of them or more."""
    part, block = max(n // 8, 4), max(n // 16, 4)
    return {"sliding-window": {"window": part + 1}, "block-sparse": {"block": block}, "document": {"length": n // 4},
            "hard-attention": {"top": part}, "linformer": {"rank": n // 4}, "nystrom": {"landmarks": part},
            "performer": {"features": 64}, "low-rank": {"rank": 8}, "low-rank-linear": {"rank": 8},
            "recurrent-memory": {"segment": n // 4}, "reformer": {"chunk": block}, "sinkhorn": {"block": block}}


def candidates(n: int, device: torch.device) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Gives each function that can be trained on `n` tokens, on the first backend that can, the control too; and for
    each of the others the reason."""
    able, reasons = {}, dict(APART)
    for name in (name for name in functions() if name not in APART):
        chosen, answers = options(n).get(name, {}), []
        for backend in BACKENDS[device.type]:
            variant = f"{name}:{backend}"
            if variant not in attention.names(name):
                continue
            answers.append(attention.why_not(variant, device=device, dtype=torch.float32, heads=HEADS,
                                             head_dim=WIDTH // HEADS, n=n, grad=True, **chosen))
            if answers[-1] is None:
                able[name] = Candidate(variant, chosen)
                break
        else:
            reasons[name] = next(filter(None, answers), "no backend of its own can be trained here")
    return {**able, UNIFORM: Candidate(None)}, reasons


class Layer(nn.Module):
    """A transformer layer (B, N, WIDTH) -> (B, N, WIDTH), normalised first; without `attend` keys weigh alike."""

    def __init__(self) -> None:
        super().__init__()
        self.attend: nn.Module | None = None
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the layer."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        out_BHND = self.attend(q, k, v) if self.attend is not None else v.mean(2, keepdim=True).expand_as(v)
        x = x + self.out(out_BHND.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Classifier(nn.Module):
    """Gives logits (B, classes) of tokens (B, N), or of pairs of texts (B, 2, N), each of which is read on its own.

    Padding is a token like others, since not every function has a mask; the mean over tokens that gives the answer
    leaves it out.
    """

    def __init__(self, candidate: Candidate, task: Task, n: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Embedding(task.vocabulary, WIDTH)
            self.positions = nn.Parameter(torch.randn(n, WIDTH))
            self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
            self.both = nn.Sequential(nn.Linear(4 * WIDTH, WIDTH), nn.GELU()) if task.pairs else None
            self.head = nn.Linear(WIDTH, task.classes)
            for layer in self.layers if candidate.variant else ():  # last, since some draw weights of their own
                layer.attend = attention.create(candidate.variant or "", heads=HEADS, head_dim=WIDTH // HEADS,
                                                seq_len=n, **candidate.options)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Computes the logits."""
        if self.both is None:
            return self.head(self.read(tokens))
        first, second = self.read(tokens.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        return self.head(self.both(torch.cat([first, second, first * second, first - second], -1)))

    def read(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        """Computes what stands for each text, (B, WIDTH)."""
        keep_BN1 = (tokens_BN != 0).unsqueeze(-1)
        x = self.norm(self.layers(self.embedding(tokens_BN) + self.positions))
        return (x * keep_BN1).sum(1) / keep_BN1.sum(1)


def trainer(model: nn.Module, tokens: torch.Tensor, labels_I: torch.Tensor, batch: int) -> Callable[[], None]:
    """Makes the call that takes the next training step, on the next items; once used up they come again."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    batches = list(zip(tokens.split(batch), labels_I.split(batch), strict=True))
    done = 0

    def step() -> None:
        nonlocal done
        tokens, labels = batches[done % len(batches)]
        done += 1
        loss = functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step


def right(model: nn.Module, tokens: torch.Tensor, labels_I: torch.Tensor) -> Figure:
    """Computes the accuracy in points."""
    with torch.no_grad():
        logits = torch.cat([model.eval()(some) for some in tokens.split(64)])
    return Figure("accuracy", "points", "higher", metrics.hits(logits.cpu().numpy(), labels_I.cpu().numpy()))
