"""Training: repeats, resumes exactly, keeps what it trained, refuses what is not its own."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import models
from models import checkpoints, data, folds, quality, recipes, trained, training
from models.data import digits
from models.tests import cases

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

SHORT = replace(recipes.recipe(models.get("vit-digits")), steps=12, batch=16)
TINY = models.get("vit-tiny").resized(dropout=0.1)


class Killed(Exception):
    pass


def run(**settings):
    return training.train(TINY, **{"how": SHORT, **settings})


def same(first, second):
    second = second.state_dict()
    return all(torch.equal(weight, second[name]) for name, weight in first.state_dict().items())


def kill_at(step):
    def progress(now, *_):
        if now >= step:
            raise Killed
    return progress


def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first = run()
    torch.rand(7)
    assert same(first, run())
    assert not same(first, run(seed=1))
    torch.set_rng_state(before)
    run()
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_and_augmentation_differ_from_step_to_step(monkeypatch):
    draws = []

    def loss(model, preset, inputs, *_):
        draws.append((inputs["pixel_values"].sum().item(), torch.rand(()).item()))
        return next(model.parameters()).sum()

    monkeypatch.setattr(training, "loss", loss)
    run(data=digits.load().take(torch.zeros(16, dtype=torch.long)))  # every item is the same image
    assert len({pixels for pixels, _ in draws}) == len({dropout for _, dropout in draws}) == 12


def test_killed_and_resumed_gives_bit_equal_weights(tmp_path):
    file = tmp_path / "run.pt"
    with pytest.raises(Killed):
        run(checkpoint=file, every=4, progress=kill_at(10))
    assert checkpoints.read(file, ("step",))["step"] == 8
    steps = []
    resumed = run(checkpoint=file, progress=lambda step, *_: steps.append(step))
    assert steps == [10, 12]
    assert same(resumed, run())
    assert same(resumed, run(checkpoint=file))  # done already: nothing is trained any more


@pytest.mark.slow
def test_a_process_killed_while_it_trains_is_resumed_exactly(tmp_path):
    code = ("import os, signal; from models.tests.test_training import run; "
            "run(checkpoint='run.pt', every=2, progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))")
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={
        **os.environ, "PYTHONPATH": str(Path(models.__file__).parents[1])})
    assert process.returncode == -9
    assert same(run(checkpoint=tmp_path / "run.pt"), run())


def test_a_checkpoint_of_another_training_is_refused_and_stays(tmp_path):
    file = tmp_path / "run.pt"
    run(checkpoint=file)
    before = file.read_bytes()
    for settings in ({"seed": 1}, {"how": replace(SHORT, learning_rate=1e-4)}, {"attention": "softmax:eager"}):
        with pytest.raises(ValueError, match=r"run\.pt: a checkpoint of another training \(.*delete this one") as error:
            run(checkpoint=file, **settings)
        assert "\n" not in str(error.value)
    assert file.read_bytes() == before


def test_a_checkpoint_that_can_not_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "run.pt"
    checkpoints.write(file, {"step": 1})

    def full(content, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.write(file, {"step": 2})
    assert checkpoints.read(file, ("step",)) == {"step": 1}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("damage", [lambda whole: whole[:len(whole) // 2], lambda _: b"", lambda _: b"text"],
                         ids=["truncated", "empty", "text"])
def test_a_damaged_checkpoint_is_refused_and_stays(tmp_path, damage):
    file = tmp_path / "run.pt"
    run(checkpoint=file)
    file.write_bytes(damage(file.read_bytes()))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"run\.pt: not a whole checkpoint \(.*delete it to start anew$") as error:
        run(checkpoint=file)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == before


def test_a_budget_of_seconds_ends_the_training_at_a_rate_of_nothing(monkeypatch):
    clock = iter(range(10_000))
    rates = []
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))

    def rate(self, done):
        rates.append(done)
        return 1e-3

    monkeypatch.setattr(recipes.Recipe, "rate", rate)
    run(how=replace(SHORT, steps=1000), seconds=20)
    assert 15 < len(rates) < 22
    assert rates == sorted(rates)
    assert rates[-1] >= 0.9


def test_the_rate_warms_up_and_goes_down_to_nothing():
    how = recipes.Recipe(steps=100, batch=1, learning_rate=2.0, warmup=0.2)
    rates = [how.rate(done / 100) for done in range(101)]
    assert max(rates) == rates[20] == 2.0
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[0] > 0
    assert rates[100] == 0


def test_only_what_wants_a_gradient_is_trained():
    model = models.create(TINY)
    for name, weight in model.named_parameters():
        weight.requires_grad_("classifier" in name)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    training.fit(model, TINY, digits.split(TINY)[0], SHORT)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_bfloat16_products_train_float32_weights():
    model = run(dtype=torch.bfloat16, attention="softmax:sdpa-flash")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not same(model, run(attention="softmax:sdpa-flash"))


@pytest.mark.parametrize(("call", "line"), [
    (lambda: training.train("vit-dgits"), "unknown model preset 'vit-dgits'; did you mean 'vit-digits'?"),
    (lambda: training.train("vit-digits", attention="softmax:fa2"), "vit-digits can't run on softmax:fa2"),
    (lambda: run(how=replace(SHORT, batch=2000)), "vit-tiny: 1437 items are fewer than one batch of 2000"),
])
def test_a_refusal_is_one_line(call, line):
    with pytest.raises(ValueError, match="^" + re.escape(line)) as error:
        call()
    assert "\n" not in str(error.value)


def test_out_of_fold_every_item_is_judged_once_by_a_model_that_has_not_seen_it(monkeypatch):
    trained_on, parts = [], []

    def train(preset, data, **settings):
        trained_on.append(data)
        return training.train(preset, data=data, **settings)

    monkeypatch.setattr(folds, "train", train)
    for model, held_out in folds.out_of_fold(TINY, 2, how=SHORT):
        train_set, test_set = ({image.numpy().tobytes() for image in part.images_NHW}
                               for part in (trained_on[-1], held_out))
        assert len(held_out) + len(trained_on[-1]) == 1797
        assert not train_set & test_set
        parts.append(quality.evaluate(model, TINY, held_out))
    assert len(quality.join(parts)["top1"].items) == 1797


def test_what_trains_a_large_vit_on_a_gpu_runs_on_a_small_one_here():
    """Folds, bfloat16 products, a fused kernel and a budget of seconds at once."""
    parts = []
    for model, held_out in folds.out_of_fold(TINY, 2, attention="softmax:sdpa-flash", dtype=torch.bfloat16,
                                             seconds=0.3):
        parts.append(quality.evaluate(model.bfloat16(), TINY, held_out))
    assert len(quality.join(parts)["top1"].items) == 1797


def test_a_vit_is_trained_alike_in_fewer_products():
    assert recipes.recipe(models.get("vit-l16")) == recipes.recipe(models.get("vit-l16-fused"))
    assert recipes.recipe(models.get("vit-l16")) != recipes.recipe(models.get("vit-b16"))


def test_trained_weights_are_kept_and_read_by_every_backend(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "vit-tiny", SHORT)
    first = trained.trained("vit-tiny", folder=tmp_path)
    monkeypatch.setattr(training, "train", None)  # not again
    again = trained.trained("vit-tiny", attention="softmax:eager", folder=tmp_path, dtype=torch.bfloat16)
    assert all(torch.equal(weight.bfloat16(), again.state_dict()[name]) for name, weight in first.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == [trained.path("vit-tiny", folder=tmp_path).name]


def test_what_determines_the_weights_names_their_file(tmp_path, monkeypatch):
    def name(**settings):
        return trained.path("vit-digits", **settings).name

    assert name().startswith("vit-digits-softmax-0-")
    others = [name(seed=1), name(attention="sliding-window:sdpa"),
              name(attention="sliding-window:sdpa", attention_options={"window": 3}), name()]
    monkeypatch.setitem(recipes.RECIPES, "vit-digits", SHORT)
    others.append(name())
    assert len(set(others)) == 5
    assert name(attention="softmax:eager") == name()


def test_a_training_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "vit-tiny", replace(SHORT, steps=104, batch=2))
    with pytest.raises(Killed):
        trained.trained("vit-tiny", folder=tmp_path, progress=kill_at(104))
    steps = []
    trained.trained("vit-tiny", folder=tmp_path, progress=lambda step, *_: steps.append(step))
    assert steps == [104]


@pytest.mark.slow
def test_digits_are_learned_to_97_points_with_room_to_fall(tmp_path):
    model = trained.trained("vit-digits", folder=tmp_path)
    assert quality.evaluate(model, "vit-digits")["top1"].value >= 97


@pytest.mark.slow
def test_gpt2_learns_far_more_than_how_often_a_token_is(tmp_path):
    train, held_out = data.split("gpt2-docstrings")
    model = trained.trained("gpt2-docstrings", folder=tmp_path)
    figures = quality.evaluate(model, "gpt2-docstrings", limit=100, generate=True)
    assert figures["loss"].value < cases.unigram_entropy(train, held_out) - 1.2
    assert figures["rouge1"].value > 2


@pytest.mark.slow
def test_the_tft_forecasts_better_than_the_last_season_repeated(tmp_path):
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    model = trained.trained("tft-monthly", folder=tmp_path)
    figures = quality.evaluate(model, "tft-monthly")
    naive = quality.seasonal_naive(data.split("tft-monthly")[1])
    assert figures["mase"].value < 0.8 * naive["mase"].value
    assert quality.compare(naive["mase"], figures["mase"]).verdict == "better"
