"""Which point a search tries next: a function of the space, the seed and the trials so far, and of nothing else.

So a search that was interrupted goes on as it would have: no algorithm keeps a state of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from gru4rec.tuning.space import Dimension, Space
from gru4rec.tuning.trials import Trial, best

Point = dict[str, Any]
Trials = Mapping[int, Trial]  # by number, 0 … n − 1, of which some may be running

WARM_UP = 10  # trials at random before TPE has something to go by


def random(space: Space, seed: int, trials: Trials, number: int) -> Point | None:
    """A point at random: the same for a number, whatever the other trials found (the papers' 100 experiments)."""
    return space.draw(np.random.default_rng([seed, number]))


def tpe(space: Space, seed: int, trials: Trials, number: int) -> Point | None:
    """The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), by Optuna, after `WARM_UP` at random.

    Trials that are running count as bad ones (constant liar), so that those at the same time differ.
    """
    if sum(trial.value is not None for trial in trials.values() if trial.ended) < WARM_UP:
        return random(space, seed, trials, number)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(n_startup_trials=0, constant_liar=True, seed=own)
    study = study_of(space, trials, sampler)
    asked = study.ask({dimension.name: _distribution(dimension) for dimension in space.dimensions}).params
    return space.settle({one.name: _value(one, asked[one.name]) for one in space.dimensions})


def study_of(space: Space, trials: Trials, sampler: Any = None) -> Any:
    """An Optuna study of the trials, in memory."""
    import optuna

    state = optuna.trial.TrialState
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials.values():
        varied = [dimension for dimension in space.dimensions if dimension.name in trial.values]
        known = trial.value if trial.ended else None
        study.add_trial(
            optuna.trial.create_trial(
                state=state.COMPLETE if known is not None else state.FAIL if trial.ended else state.RUNNING,
                value=known,
                params={one.name: _parameter(one, trial.values[one.name]) for one in varied},
                distributions={one.name: _distribution(one) for one in varied},
            )
        )
    return study


def _distribution(dimension: Dimension) -> Any:
    import optuna

    if dimension.choices:
        return optuna.distributions.CategoricalDistribution(range(len(dimension.choices)))
    if dimension.log:
        return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=True)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, step=dimension.step or None)


def _parameter(dimension: Dimension, value: Any) -> float | int:
    if not dimension.choices:
        return float(value)
    return dimension.choices.index(value)


def _value(dimension: Dimension, parameter: float | int) -> Any:
    return dimension.choices[int(parameter)] if dimension.choices else dimension.nearest(parameter)


def star(space: Space, seed: int, trials: Trials, number: int, at_random: int = 20) -> Point | None:
    """The papers' refinement: first `at_random` points at random, then from the best one parameter at a time.

    Of each parameter in turn, the values next to the best point's are tried with all others as they are; a better one
    becomes the best point. It goes round until nothing improves; after that, points are drawn at random again. None
    while it has to wait for trials that are running.
    """
    if number < at_random:
        return random(space, seed, trials, number)
    if not all(trials[first].ended for first in range(at_random)):
        return None
    start = best({first: trials[first] for first in range(at_random)})
    if start is None:
        return random(space, seed, trials, number)
    first, centre, value = at_random, dict(start.values), start.value
    improved = True
    while improved:
        improved = False
        for dimension in space.dimensions:
            points = list(_around(space, dimension, centre, [trials[n].values for n in range(min(first, number))]))
            if number < first + len(points):
                return points[number - first]
            group = {n: trials[n] for n in range(first, first + len(points))}
            if not all(trial.ended for trial in group.values()):
                return None
            found = best(group)
            if found is not None and (found.value or 0.0) > (value or 0.0):
                centre, value, improved = dict(found.values), found.value, True
            first += len(points)
    return random(space, seed, trials, number)


def _around(space: Space, dimension: Dimension, centre: Point, tried: list[Mapping[str, Any]]) -> Iterator[Point]:
    """Points that differ from `centre` in one dimension and have not been tried.

    Where another value has just made a dimension's condition true, `centre` has its default, of which it says nothing.
    """
    if not space.applies(dimension, centre):
        return
    made: list[Mapping[str, Any]] = list(tried)
    here: Any = centre.get(dimension.name, dimension.default)
    inside = here if dimension.choices else dimension.nearest(here)
    for value in ([] if inside == here else [inside]) + dimension.around(inside):
        point = space.settle({**centre, dimension.name: value})
        if point not in made:
            made.append(point)
            yield point


SUGGEST: dict[str, Callable[[Space, int, Trials, int], Point | None]] = {"random": random, "tpe": tpe, "star": star}
