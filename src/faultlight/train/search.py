"""A search for settings: trials chosen by Optuna, each an ordinary run, compared on validation images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faultlight import rng
from faultlight.errors import InputError
from faultlight.files import read_json
from faultlight.runtime import lock
from faultlight.train.folder import RECORD
from faultlight.train.memory import load_splits
from faultlight.train.recipe import Recipe, load_recipe, parse_settings
from faultlight.train.run import train

STORAGE = "search.sqlite"


@dataclass(frozen=True)
class Range:
    """What one setting may be: a number between two ends, on a linear or logarithmic scale, or one of some values."""

    low: float | int = 0
    high: float | int = 0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Any, key: str) -> Any:
        """Return the value that Optuna chooses for a trial."""
        if self.choices:
            return trial.suggest_categorical(key, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, float(self.low), float(self.high), log=self.log)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
        folder: of the best trial's run.
        settings: that the trial chose, by dotted key.
        validation_accuracy: of its kept epoch; the best of many, so it flatters.
        test_accuracy: of that run, which was not looked at to choose it.
        trials: how many runs were finished.
        failed: how many were not, because the loss became NaN or the like.
    """

    folder: Path
    settings: dict[str, Any]
    validation_accuracy: float
    test_accuracy: float
    trials: int
    failed: int


def parse_space(words: Sequence[str]) -> dict[str, Range]:
    """Return the ranges that "optimiser.lr=log:1e-4..1e-1", "epochs=5..20" and "batch=64|128" name.

    Raises:
        InputError: a word that is none of these.
    """
    return {key: _range(key, text) for word in words for key, text in [_halves(word)]}


def search(
    spec: str,
    overrides: Mapping[str, Any],
    space: Mapping[str, Range],
    *,
    trials: int,
    out: Path,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
) -> Found:
    """Train a recipe with settings chosen by a tree-structured Parzen estimator, in OUT/trial-N each.

    Each trial's choice is a function of the recipe's seed, the trial's number and the trials before it, so a search
    that was killed and resumed makes the choices of an unbroken one.

    Source: Bergstra, Bardenet, Bengio and Kégl 2011, "Algorithms for Hyper-Parameter Optimization", section 4, as
    Optuna implements it.

    Args:
        spec: the recipe's name or file.
        overrides: settings by dotted key that are the same in all trials.
        space: those that are searched.
        trials: how many runs, those found on resuming included.
        out: the folder above those of the runs; the search's own records are in OUT/search.sqlite.
        resume: go on with the search in the folder.
        device: "cpu", "cuda" or "cuda:1".
        quiet: show no progress.

    Raises:
        InputError: Optuna is missing, the folder holds a search that is not to be resumed or another one, or no trial
            could be finished.
        KeyboardInterrupt: Ctrl-C was pressed; `resume` goes on.
    """
    optuna = _optuna()
    base = load_recipe(spec, overrides)
    for each in space:
        load_recipe(spec, {**overrides, each: _example(space[each])})
    with lock(out):
        study = _study(optuna, out, base, space, resume)
        data = load_splits(base.data, base.split_seed)

        def attempt(trial: Any) -> float:
            chosen = {key: each.suggest(trial, key) for key, each in space.items()}
            recipe = load_recipe(spec, {**overrides, **chosen})
            place = out / f"trial-{trial.number}"
            return train(recipe, out=place, data=data, resume=True, device=device, quiet=quiet).validation_accuracy

        for trial in _trials(optuna, study, trials, base.seed):
            _tell(study, trial, attempt, optuna.trial.TrialState.FAIL)
    return _best(optuna, study, out)


def _trials(optuna: Any, study: Any, total: int, seed: int) -> Iterator[Any]:
    """Yield those that a killed search left unfinished, then new ones, each with luck of its own."""
    known = study.get_trials(deepcopy=False)
    left = [each for each in known if each.state == optuna.trial.TrialState.RUNNING]
    for number in [*(each.number for each in left), *range(len(known), total)]:
        study.sampler = optuna.samplers.TPESampler(seed=rng.key(seed, "search", number) % 2**32)
        yield optuna.trial.Trial(study, known[number]._trial_id) if number < len(known) else study.ask()


def _tell(study: Any, trial: Any, attempt: Callable[[Any], float], failed: Any) -> None:
    try:
        value = attempt(trial)
    except InputError as error:
        # A learning rate that makes the loss NaN is an answer too.
        trial.set_user_attr("reason", str(error))
        study.tell(trial.number, state=failed)
    else:
        study.tell(trial.number, value)


def _study(optuna: Any, out: Path, base: Recipe, space: Mapping[str, Range], resume: bool) -> Any:
    path = out / STORAGE
    if path.exists() and not resume:
        raise InputError(f"the folder {out} already holds a search; give --resume, or another folder with --out.")
    asked = json.dumps({"recipe": base.model_dump(), "space": {key: asdict(each) for key, each in space.items()}})
    study = optuna.create_study(
        storage=f"sqlite:///{path.resolve()}", study_name="search", direction="maximize", load_if_exists=True
    )
    if study.user_attrs.get("asked", asked) != asked:
        raise InputError(f"the search in {out} was asked something else; ask for the same, or choose another --out.")
    study.set_user_attr("asked", asked)
    return study


def _best(optuna: Any, study: Any, out: Path) -> Found:
    trials = study.get_trials(deepcopy=False)
    done = [each for each in trials if each.state == optuna.trial.TrialState.COMPLETE]
    if not done:
        reason = trials[-1].user_attrs.get("reason", "") if trials else "none was asked for"
        raise InputError(f"no trial could be finished: {reason}")
    # Of equal trials the first, so that the answer does not depend on the storage.
    best = max(done, key=lambda each: (each.value, -each.number))
    folder = out / f"trial-{best.number}"
    test = float(read_json(folder / RECORD)["test_accuracy"])
    return Found(folder, dict(best.params), float(best.value), test, len(done), len(trials) - len(done))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError(
            "the package optuna is not installed; install it with pip install 'faultlight[search]'."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _halves(word: str) -> tuple[str, str]:
    key, equals, text = (part.strip() for part in word.partition("="))
    if not (key and equals and text):
        raise InputError(f"--search needs a key and a range, such as optimiser.lr=log:1e-4..1e-1, not {word!r}.")
    return key, text


def _range(key: str, text: str) -> Range:
    if "|" in text:
        return Range(choices=tuple(parse_settings([f"{key}={part}"])[key] for part in text.split("|")))
    low, dots, high = text.removeprefix("log:").partition("..")
    ends = [parse_settings([f"{key}={end}"])[key] for end in (low, high)]
    log = text.startswith("log:")
    if not dots or any(type(end) not in (int, float) for end in ends) or ends[0] > ends[1] or (log and ends[0] <= 0):
        raise InputError(
            f"the range {text!r} of {key} is none; write 0.1..0.9, log:1e-4..1e-1 with both ends above 0, or 64|128."
        )
    return Range(ends[0], ends[1], log)


def _example(each: Range) -> Any:
    if each.choices:
        return each.choices[0]
    return each.low if isinstance(each.low, int) and isinstance(each.high, int) else float(each.low)
