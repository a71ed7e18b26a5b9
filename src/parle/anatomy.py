"""What finished runs are like: how they compare channel by channel, what their mean is worth, and how flat the loss around them is."""

from pathlib import Path

import torch

from parle import alignment, buffers, config, models
from parle.data import Data, in_turn
from parle.errors import ConfigError
from parle.flatness import Landscape
from parle.metrics import Score, score
from parle.permutations import State, symmetry_of
from parle.plans import Quiet, load_data, solution_of
from parle.runs import RunFolder

DISTANCES = [step / 10 for step in range(-10, 11)]
GAMMAS = (1e-5, 1e-4, 1e-3)


def evaluate(path: Path, data_name: str | None = None, part: str = "test", show: Quiet | None = None) -> dict:
    """The error and loss of a finished run's solution, on the test or `train` part of its own data or of another of the same shape."""
    run = RunFolder.existing(path)
    settings = config.load(run.config)
    if data_name:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"name": data_name, "image_column": None, "label_column": None})})
    found = load_data(settings, show)
    split = found.train if part == "train" else found.test
    result: Score = score(solution_of(run, settings, found), in_turn(split))
    return {"run": str(path), "data": settings.data.name, "part": part, "samples": len(split), **vars(result)}


def align(paths: list[Path], method: str = "greedy", show: Quiet | None = None) -> dict:
    """The overlap of every two runs before and after alignment, and the errors of each, of their ensemble and of their mean: what `--json` prints.

    BatchNorm is estimated again for every mean. ConfigError where the runs are of different architecture or it cannot be aligned.
    """
    if len(paths) < 2:
        raise ConfigError(f"Alignment compares two runs or more, got {len(paths)}.")
    if method not in alignment.METHODS:
        raise ConfigError(f"`{method}` is not a way to align. Use one of {', '.join(alignment.METHODS)}.")
    show = show or Quiet()
    settings, states = zip(*(_finished(path) for path in paths), strict=True)
    for path, its in zip(paths[1:], settings[1:], strict=True):
        if its.model != settings[0].model:
            raise ConfigError(f"{path} is a run of {its.model.name}, {paths[0]} of {settings[0].model.name}. Only networks of one architecture can be aligned.")
    found, network = _with_network(settings[0], show)
    symmetry, count = symmetry_of(network), len(paths)
    after = [[1.0] * count for _ in paths]
    show.begin("aligning", count * (count - 1) // 2)
    ordered, done = [states[0]] + [None] * (count - 1), 0
    for row in range(count):
        for column in range(row + 1, count):
            its = alignment.aligned(symmetry, states[row], states[column], method)
            after[row][column] = after[column][row] = alignment.overlap(states[row], its)
            ordered[column] = its if row == 0 else ordered[column]
            done += 1
            show.advance(done, count * (count - 1) // 2)
    show.end()
    before = [[alignment.overlap(first, second) for second in states] for first in states]
    return {
        "runs": [str(path) for path in paths],
        "method": method,
        "error_pct": [_score(network, state, found, refresh=False).error_pct for state in states],
        "ensemble_error_pct": _ensemble(network, states, found),
        "mean_error_pct": _score(network, alignment.mean_of(states), found).error_pct,
        "aligned_mean_error_pct": _score(network, alignment.mean_of(ordered), found).error_pct,
        "overlap": before,
        "aligned_overlap": after,
    }


def flatness(path: Path, samples: int = 1000, eigenvalues: int = 3, draws: int = 20, show: Quiet | None = None) -> dict:
    """The loss of a run's solution along a random direction, the largest eigenvalues of its Hessian, and local entropies: what `--json` prints.

    All of it over the first training `samples`, with the statistics that BatchNorm has.
    """
    settings, state = _finished(path)
    found, network = _with_network(settings, show or Quiet())
    network.load_state_dict(state)
    around = Landscape(network, *found.train.take(slice(0, samples)))
    return {
        "run": str(path),
        "samples": min(samples, len(found.train)),
        "loss": around.loss(),
        "distances": DISTANCES,
        "losses": around.curve(DISTANCES),
        "eigenvalues": around.eigenvalues(eigenvalues),
        "local_entropy": {f"{gamma:g}": around.local_entropy(gamma, draws) for gamma in GAMMAS},
    }


def _finished(path: Path) -> tuple[config.RunConfig, State]:
    run = RunFolder.existing(path)
    return config.load(run.config), run.load_model()


def _with_network(settings: config.RunConfig, show: Quiet) -> tuple[Data, torch.nn.Module]:
    found = load_data(settings, show)
    return found, models.builder(settings.model.name, found.shape, found.classes, settings.model.options)()


def _score(network: torch.nn.Module, state: State, found: Data, refresh: bool = True) -> Score:
    network.load_state_dict(state)
    if refresh and buffers.with_statistics(network):
        buffers.recompute(network, in_turn(found.train))
    return score(network, in_turn(found.test))


@torch.no_grad()
def _ensemble(network: torch.nn.Module, states: tuple[State, ...], found: Data) -> float:
    """The error of the mean of the networks' probabilities, in percent."""
    wrong = count = 0
    for samples, labels in in_turn(found.test):
        total = 0.0
        for state in states:
            network.load_state_dict(state)
            total = total + network.eval()(samples).softmax(1)
        wrong, count = wrong + int((total.argmax(1) != labels).sum()), count + labels.numel()
    return round(100.0 * wrong / count, 4)
