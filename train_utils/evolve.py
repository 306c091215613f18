"""Evolution of hyper-parameters: each trial is a short training with values mutated from those of the best before it.

    rows = read_trials(path)                                             # again after a stop: it goes on from there
    trial = mutate(rows, values, trial_generator(seed, len(rows)))       # the first trial takes the values as given
    append_trial(path, results_of_a_training_with(trial), trial)

The file evolve.csv holds a row per trial, in order: fitness, the results, the values. Its trials compare only if nothing else
differs between them: settings.json holds the flags that all of them have, see `check_settings`.
"""

import csv
import io
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from train_utils.errors import InputError

INF = math.inf
PARENTS = 5  # a trial's parent is one of the best so many
PROBABILITY, SPREAD = 0.9, 0.2  # of a value's mutation; of the factor's distance from 1

# What may change, and how far: {name: (gain of its mutation, lowest, highest)}
HYPER_PARAMETERS: dict[str, tuple[float, float, float]] = {
    "giou": (1, 0, INF),
    "xy": (1, 0, INF),
    "wh": (1, 0, INF),
    "cls": (1, 0, INF),
    "cls_pw": (1, 0, INF),
    "obj": (1, 0, INF),
    "obj_pw": (1, 0, INF),
    "iou_t": (1, 0, 0.7),
    "lr0": (1, 1e-5, 1e-2),
    "lrf": (0, -INF, INF),
    "momentum": (0.1, 0.6, 0.98),
    "weight_decay": (1, 0, 1e-3),
    "fl_gamma": (0, 0, INF),
    "hsv_h": (1, 0, 0.5),
    "hsv_s": (1, 0, 0.9),
    "hsv_v": (1, 0, 0.9),
    "degrees": (1, 0, 45),
    "translate": (1, 0, 0.9),
    "scale": (1, 0, 0.9),
    "shear": (1, 0, 10),
    "label_smoothing": (1, 0, 0.5),
    "mosaic": (1, 0, 1),
}

Trial = dict[str, float]


def fitness(results: Mapping[str, float]) -> float:
    """0.9 AP + 0.1 AP50, both 0..1; what is not defined (-1 or NaN) counts as 0.

    Without precision, recall or F1: those hang on a confidence chosen afterwards. AP50 is there because it tells apart
    short trials whose AP is still next to nothing.
    """
    ap, ap50 = (value if value > 0 else 0.0 for value in (results["AP"], results["AP50"]))
    return 0.9 * ap + 0.1 * ap50


def trial_generator(seed: int, generation: int) -> np.random.Generator:
    """The random choices of one trial: a run that was stopped and goes on makes those of one that was not."""
    return np.random.default_rng([seed, generation])


def best_trial(rows: list[Trial]) -> Trial | None:
    """The row of highest fitness, of equal ones the first; None without rows."""
    return max(rows, key=lambda row: row["fitness"], default=None)


def mutate(
    rows: list[Trial],
    values: Mapping[str, float],
    generator: np.random.Generator,
    table: Mapping[str, tuple[float, float, float]] = HYPER_PARAMETERS,
) -> Trial:
    """The values of the next trial.

    The parent is drawn among the best five rows, with the weight fitness - lowest of these + 1e-6. Each value is multiplied by

        clip(1 + gain * [U < 0.9] * N * u * 0.2, 0.3, 3)    U, u uniform in 0..1, N normal; one u for all values

    and clipped to its limits; this is drawn again until a value has changed. Values have 5 significant digits.

    Args:
        rows: the trials so far, of `read_trials`; without any, `values` are returned as they are.
        values: where the evolution starts; names that are not in `table` stay as the parent has them.
        table: gain and limits by name; a gain of 0 fixes a value, and a value of 0 stays 0.

    Raises:
        InputError: no value can change.
    """
    if not rows:
        return dict(values)
    best = _draw_parent(rows, generator)
    parent = {name: best.get(name, value) for name, value in values.items()}
    names = [name for name, value in parent.items() if value and name in table and table[name][0]]
    if not names:
        raise InputError("evolution: every value is 0 or fixed, so that none can change; set some of them first")
    gains = np.array([table[name][0] for name in names])
    while True:
        chosen = generator.random(len(names)) < PROBABILITY
        noise = generator.standard_normal(len(names)) * generator.random()
        factors = (1 + gains * chosen * noise * SPREAD).clip(0.3, 3)
        mutated = {name: _limited(parent[name] * factor, *table[name][1:]) for name, factor in zip(names, factors)}
        if any(mutated[name] != _limited(parent[name], *table[name][1:]) for name in names):
            return {**parent, **mutated}


def _draw_parent(rows: list[Trial], generator: np.random.Generator) -> Trial:
    best = sorted(rows, key=lambda row: -row["fitness"])[:PARENTS]
    weights = np.array([row["fitness"] for row in best])
    weights = weights - weights.min() + 1e-6  # all equal, or a single one: still a distribution
    return best[generator.choice(len(best), p=weights / weights.sum())]


def _limited(value: float, low: float, high: float) -> float:
    return float(f"{min(max(value, low), high):.5g}")


def read_trials(path: str | os.PathLike) -> list[Trial]:
    """The rows of evolve.csv, in the order of the trials; none if there is no such file.

    A last line that is broken or has no line break was cut off: it is left out, with a warning.

    Raises:
        InputError: the header has no fitness, or a line before the last is broken.
    """
    path = Path(path)
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    header, *body = [next(csv.reader([line]), []) for line in lines] or [[]]
    if "fitness" not in header:
        raise InputError(f"{path}: no column `fitness` in the first line; move the file away, or restore it")
    rows = []
    for number, words in enumerate(body, start=2):
        row = _row(header, words) if lines[number - 1].endswith("\n") else None
        if row is not None:
            rows.append(row)
        elif number == len(lines):
            warnings.warn(f"{path}:{number}: the last line is cut off and left out; its trial is run again", stacklevel=2)
        else:
            raise InputError(f"{path}:{number}: not {len(header)} numbers; correct or remove the line")
    return rows


def _row(header: list[str], words: list[str]) -> Trial | None:
    try:
        return dict(zip(header, map(float, words), strict=True))
    except ValueError:
        return None


def append_trial(path: str | os.PathLike, results: Mapping[str, float], values: Mapping[str, float]) -> Trial:
    """Add a trial to evolve.csv, which is written anew in one step. Returns the row.

    Args:
        results: "AP", "AP50" and what else is to be seen there, such as "precision", "recall", "f1".
        values: the hyper-parameters that the trial had.

    Raises:
        InputError: the file there has other columns; see also `read_trials`.
    """
    path = Path(path)
    row = {name: float(value) for name, value in {"fitness": fitness(results), **results, **values}.items()}
    rows = read_trials(path)
    if rows and list(rows[0]) != list(row):
        differing = sorted(set(rows[0]) ^ set(row)) or ["their order"]
        raise InputError(f"{path}: its columns are not those of this evolution ({', '.join(differing)}); "
                         "move the file away to begin a new one")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    _replace(path, text.getvalue())
    return row


def check_settings(path: str | os.PathLike, settings: Mapping) -> None:
    """Write the flags of an evolution to settings.json; where that exists, compare them with those it was begun with.

    Args:
        settings: {name of a flag, with underscores: its value}, of values that JSON has. A flag that is missing in one of the
            two counts as None there.

    Raises:
        InputError: flags differ, each is named with both values; or the file is damaged.
    """
    path, settings = Path(path), json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not path.is_file():
        _replace(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        first = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not hold the flags of an evolution ({error}); restore it, or give another --output-dir"
                         ) from error
    differing = [f"--{name.replace('_', '-')} {json.dumps(first.get(name))}, now {json.dumps(settings.get(name))}"
                 for name in {**first, **settings} if first.get(name) != settings.get(name)]
    if differing:
        raise InputError(f"{path}: this evolution was begun with other flags ({'; '.join(differing)}), and its trials would not "
                         "compare; give the same flags, or another --output-dir")


def _replace(path: Path, text: str) -> None:
    """A file gets a new content in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
