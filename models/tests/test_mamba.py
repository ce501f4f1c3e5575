"""Mamba gives what transformers' own gives with the same weights, and both ways is its sum with the reverse."""
from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.mamba.modeling_mamba import MambaMixer

from models.mamba import KERNEL, STATES, BothWays, Mamba


def theirs(width: int) -> MambaMixer:
    config = transformers.MambaConfig(hidden_size=width, state_size=STATES, conv_kernel=KERNEL, expand=1,
                                      time_step_rank=-(-width // 16), num_hidden_layers=1)
    return MambaMixer(config, layer_idx=0).eval()


@pytest.mark.parametrize("width", [16, 40])
def test_it_gives_what_transformers_mamba_gives(width):
    torch.manual_seed(0)
    ours, other, x = Mamba(width), theirs(width), torch.randn(3, 9, width)
    other.load_state_dict({name: weight + 0.1 * torch.randn_like(weight) for name, weight in ours.state_dict().items()})
    ours.load_state_dict(other.state_dict())
    expected = other(x)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(ours(x), expected, atol=1e-6, rtol=1e-5)
    ours(x).square().sum().backward()
    other(x).square().sum().backward()
    for (name, weight), (same, its) in zip(ours.named_parameters(), sorted(other.named_parameters(), key=lambda pair: [
            name for name, _ in ours.named_parameters()].index(pair[0])), strict=True):
        assert name == same
        torch.testing.assert_close(weight.grad, its.grad, atol=1e-5, rtol=1e-3)


def test_steps_start_within_their_range():
    step = torch.nn.functional.softplus(Mamba(512).dt_proj.bias)
    assert 0.9e-3 < step.min() < 2e-3
    assert 0.05 < step.max() < 0.101


def test_both_ways_reads_what_is_behind_too():
    torch.manual_seed(0)
    both, x = BothWays(16), torch.randn(1, 5, 16)
    changed = x.clone()
    changed[:, 3] += 1
    one, other = both(x)[0], both(changed)[0]
    assert (one != other).any(-1).all()
    onward = both.onward(x) != both.onward(changed)
    assert onward.any(-1)[0].tolist() == [False, False, False, True, True]
    torch.testing.assert_close(one - both.onward(x), both.back(x.flip(1)).flip(1))
