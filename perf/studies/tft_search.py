"""Searches batch, heads and learning rate of study 000's TFT by validation loss, then tests the best once.

    python -m perf.studies.tft_search --out search.jsonl --storage search.db --trials 12 --plots .

optuna keeps the trials in an SQLite file: a run that was stopped or killed goes on from there. Validation windows are
the end of the training part of each series. The test windows are looked at once, after all trials, by two models that
are trained anew on the whole training part: the best, and the preset with its own batch, heads and rate. All trials
have as many steps; one that is behind is pruned. The study tuned on its test data.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import models
from models.data import series, split
from models.packages import needs
from models.quality import Change, Figure, compare, evaluate
from models.recipes import recipe
from models.registry import Preset
from models.training import fit
from perf.studies.claims import table
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.tft_sizes import sizes

TESTED = "tested"


def validation(preset: Preset) -> tuple[series.Windows, series.Windows]:
    """Splits the training part of each series into windows to train on and later ones to choose by."""
    past = [replace(one, values=one.values[:end], known=one.known[:end]) for one in series.monthly()
            for end in [round(len(one.values) * (1 - series.HELD_OUT))]]
    return series.windows(past, context=preset.sizes["context"], horizon=preset.sizes["horizon"], season=series.MONTHS)


def plot(search: Any, folder: Path) -> None:
    """Draws the losses and the best of them over the trials that were not pruned, and how much each choice matters."""
    with needs("matplotlib", "for the plots", "search"):
        from optuna.visualization import matplotlib as drawings
    for name in ("optimization_history", "param_importances"):
        axes = getattr(drawings, f"plot_{name}")(search, target_name="validation loss")
        axes.set_title("", loc="left")
        axes.figure.set_size_inches(7, 3)
        axes.figure.savefig(folder / f"tft-search-{name.split('_')[1]}.png", dpi=100, bbox_inches="tight")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the trials and the test figure of the best; 1 if the search is not at its end."""
    options = parser("tft_search", __doc__)
    options.add_argument("--storage", type=Path, required=True, help="SQLite file of the trials, made or gone on with")
    options.add_argument("--trials", type=int, default=12, help="of all runs together (default: 12)")
    options.add_argument("--steps", type=int, default=300, help="of training, each (default: 300)")
    options.add_argument("--plots", type=Path, help="folder for two PNG: history, and importance of each choice")
    args = options.parse_args(arguments)
    with needs("optuna", "for the search", "search"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, steps = Study(args.device, args.out, 60 * args.minutes), 20 if args.tiny else args.steps
    preset = sizes("tiny" if args.tiny else "small", cuda=False).small
    search = optuna.create_study(
        storage=f"sqlite:///{args.storage.resolve()}", study_name=f"{preset.name}, {steps} steps", load_if_exists=True,
        direction="minimize", pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=steps // 3))
    data, later = validation(preset)

    def trained(chosen: dict[str, Any], train: Any, judge: Any, trial: Any = None) -> Figure:
        sized = preset.resized(heads=chosen["heads"])
        model = models.create(sized, attention="softmax:sdpa", device=study.device)

        def look(step: int, *_: float) -> None:
            trial.report(evaluate(model, sized, judge)["quantile_loss"].value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        how = replace(recipe(sized), steps=steps, batch=chosen["batch"], learning_rate=chosen["rate"])
        fit(model, sized, train, how, progress=look if trial else None)
        return evaluate(model, sized, judge)["quantile_loss"]

    def objective(trial: Any) -> float:
        return trained({"batch": trial.suggest_categorical("batch", (32, 64, 128)),
                        "heads": trial.suggest_categorical("heads", (1, 2, 4)),
                        "rate": trial.suggest_float("rate", 5e-4, 5e-3, log=True)}, data, later, trial).value

    def trials() -> list[Any]:
        return [trial for trial in search.get_trials(deepcopy=False) if trial.state.is_finished()]

    while len(trials()) < args.trials and study.left > 0 and TESTED not in search.user_attrs:
        search.optimize(objective, n_trials=1)
    lines = [{"trial": trial.number, **trial.params, "validation loss": trial.value, "": trial.state.name.lower()}
             for trial in trials()]
    study.write("trials", {"trials": lines})
    print(table(f"{preset.name}, {steps} steps; quantile loss on {len(later)} validation windows", lines))
    if TESTED not in search.user_attrs and len(lines) >= args.trials:
        own = {"batch": recipe(preset).batch, "heads": preset.heads, "rate": recipe(preset).learning_rate}
        parts = split(preset)
        change = compare(trained(own, *parts), trained(search.best_params, *parts))
        search.set_user_attr(TESTED, {"chosen": search.best_params, "change": asdict(change)})
    if tested := search.user_attrs.get(TESTED):
        study.write(TESTED, tested)
        chosen = ", ".join(f"{name} {value:.4g}" for name, value in tested["chosen"].items())
        print(f"tested once, {chosen} against the preset's own: {Change(**tested['change'])}")
    else:
        print(f"not tested: {len(lines)} of {args.trials} trials are done; go on with the same --storage")
    print(f"records: {study.out}")
    if args.plots and tested:
        plot(search, args.plots)
    return 0 if tested else 1


if __name__ == "__main__":
    raise SystemExit(main())
