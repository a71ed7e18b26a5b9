"""`parle reproduce`: the tables and figures of the papers, trained again at full size or scaled down, beside what was published."""

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from parle import anatomy, checkpoint, config, jobs, settling
from parle.errors import ConfigError, DivergedError, SetupError, did_you_mean
from parle.plans import Quiet, load_data
from parle.recipes import TABLES, Comparison, Row, Table
from parle.reports import pictures
from parle.runs import RunFolder
from parle.servers import Clock
from parle.simulation import simulate
from parle.together import Ended

SECONDS, COMPUTE, LOOKS = 100.0, "0.35", 20
COMPARED = ("model", "data", "algorithm", "replicas", "epochs", "batch_size", "seed", "optimizer", "precision", "start", "buffers", "optimizer_state")


def reproduce(
    name: str,
    folder: Path,
    scale: float = 1.0,
    seeds: int | None = None,
    only: str | None = None,
    sets: tuple[str, ...] = (),
    finished: bool = False,
    show: Quiet | None = None,
) -> dict:
    """Train what stands behind a table or figure, as far as it is not there yet, and gather the figures: what `--json` prints.

    Runs are kept in `folder`, a folder of theirs for each scale: finished ones are not trained again, interrupted ones go on. With a
    scale below 1, samples and epochs are both multiplied by its square root, and drops and springs stay at the same parts of the run.
    `only` keeps the rows whose name contains one of its words, divided by commas; `sets` are settings as with `--set`, for every row.
    With `finished`, nothing is trained.

    ConfigError where there is no such table or row, or the scale leaves no samples of a class.
    """
    if name not in TABLES:
        raise ConfigError(f"`{name}` is not a table. {did_you_mean(name, TABLES)} `parle list tables` shows all.")
    if not 0 < scale <= 1:
        raise ConfigError(f"--scale is {scale:g}, but it must be above 0 and at most 1, which is the full size.")
    table = TABLES[name]
    rows = [row for row in table.rows if only is None or any(word in row.name for word in only.split(","))]
    if not rows:
        raise ConfigError(f"--only {only} is in no row of {name}. They are {', '.join(row.name for row in table.rows)}.")
    work = _Work(folder / f"scale-{scale:g}", scale, seeds or table.seeds, sets, finished, show or Quiet())
    found, draw = KINDS[table.shows](work, table, rows)
    picture = work.folder / f"{name}.svg"
    draw(picture, table.title if scale == 1 else f"{table.title}, at scale {scale:g}")
    said = work.said(table.shows == "differences")
    result = {"table": name, "title": table.title, "scale": scale, "seeds": work.seeds, "rows": found}
    result |= {
        "notes": [said, f"Mean and standard deviation over {work.seeds} seeds." if work.seeds > 1 else "One seed, so no spread is known.", *table.notes],
        "picture": str(picture),
        "exit_code": 0,
    }
    (work.folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


class _Work:
    """The trainings of one scale and their folder."""

    def __init__(self, folder: Path, scale: float, seeds: int, sets: tuple[str, ...], finished: bool, show: Quiet):
        self.folder, self.scale, self.seeds, self.sets, self.finished, self.show = folder, scale, seeds, sets, finished, show
        self.part = math.sqrt(scale)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"The folder {folder} cannot be made: {error.strerror}. Choose another one with --runs-dir.") from error

    def said(self, simulated: bool) -> str:
        """What the scale does, in a sentence."""
        if self.scale == 1:
            return "At full size."
        if simulated:
            return f"Scale {self.scale:g}: {self.scale:.1%} of the virtual seconds, and of the gradients between two steps of the quorum."
        return (
            f"Scale {self.scale:g}: {self.part:.1%} of the training samples and {self.part:.1%} of the epochs, {self.scale:.2%} of the gradient evaluations. "
            "The published figures are those of the full size."
        )

    def trained(self, rows: list[Row]) -> dict[str, list[Path] | str]:
        """The finished runs of every row, or why there are none; the first seed of every row comes first."""
        runs: dict[str, list[Path] | str] = {row.name: [] for row in rows}
        for seed in range(self.seeds):
            for number, row in enumerate(rows):
                if isinstance(runs[row.name], str):
                    continue
                path = self.folder / f"{row.name}-{seed}"
                if self.finished:
                    runs[row.name] += [path] * RunFolder(path).is_done()
                    continue
                try:
                    self._train(row, seed, path, f"run {seed * len(rows) + number + 1} of {self.seeds * len(rows)}")
                    runs[row.name].append(path)
                except SetupError as error:  # data that are not here
                    runs[row.name] = str(error)
                except (DivergedError, Ended) as error:
                    if error.exit_code != DivergedError.exit_code:  # of processes: an interrupt, or one that was lost
                        raise
                    self.show.caution(f"{path}: {error}")
        if all(isinstance(its, str) for its in runs.values()):
            raise SetupError(next(iter(runs.values())))
        return runs

    def _train(self, row: Row, seed: int, path: Path, which: str) -> None:
        settings = self.settings(row, seed)
        run = RunFolder(path)
        begun, saved = run.config.is_file(), bool(checkpoint.all_in(run.checkpoints))
        if begun:
            self._check_same(settings, run)
        if run.is_done():
            return
        self.show.note(f"{which}: {path}")
        jobs.train(settings, path, overwrite=begun and not saved, resume=saved, show=self.show)

    def settings(self, row: Row, seed: int) -> config.RunConfig:
        """The configuration of a row at this scale."""
        first = self._configured(row.settings | {"seed": seed})
        found = load_data(first, self.show)
        kept = max(1, round(len(found.train) * row.part * self.part))
        counts = torch.bincount(found.train.first(kept).labels.flatten(), minlength=found.classes)
        if found.shape and int(counts.min()) == 0:
            empty = int(counts.argmin())
            raise ConfigError(f"--scale {self.scale:g} leaves {kept:,} samples of {found.name}, none of class {empty}. Give a larger scale.")
        options = {
            **row.settings,
            "seed": seed,
            "epochs": row.epochs * self.part,
            "data.samples": kept if kept < len(found.train) else None,
            "schedule.drops": [drop / row.epochs for drop in row.drops],
            "schedule.outer_drops": [drop / row.epochs for drop in row.outer_drops or row.drops],
            "schedule.factor": row.factor,
            "schedule.outer_factor": row.factor,
            "evaluation.every": max(1.0, row.epochs * self.part / LOOKS),
        }
        settings = self._configured(options)
        whole = settling.settled(settings, kept)
        batches = max(1, settling.samples_of(whole, kept) // whole.batch_size)
        springs = {
            f"algorithm.{its.name}": f"scoping({its.default}, batches={max(1, round(batches * self.part))}, floor={its.metadata['clip']})"
            for its in fields(config.algorithm_class(settings))
            if its.metadata.get("clip") is not None and its.name not in settings.algorithm
        }
        return self._configured(options | springs)

    def _configured(self, options: dict) -> config.RunConfig:
        """The configuration of a recipe, in which --set has the last word."""
        given = {text.partition("=")[0].strip() for text in self.sets}
        return config.load(None, self.sets, {path: value for path, value in options.items() if path not in given})

    def _check_same(self, settings: config.RunConfig, run: RunFolder) -> None:
        """ConfigError where a run of this name was made with other settings."""
        count = len(load_data(settings, self.show).train)
        here, there = settling.settled(settings, count), config.load(run.config)
        batches = max(1, settling.samples_of(here, count) // here.batch_size)
        if settling.milestones(here, batches) != settling.milestones(there, batches) or here.schedule.inner != there.schedule.inner:
            raise ConfigError(f"{run.path} was made with another schedule of the inner rate. Give the same --set as before, or another --runs-dir.")
        for key in COMPARED:
            if getattr(here, key) != getattr(there, key):
                raise ConfigError(
                    f"{run.path} was made with other settings: {key} is {getattr(there, key)}, here {getattr(here, key)}. "
                    "Give the same --set as before, or another --runs-dir."
                )

    def simulated(self, row: Comparison, quorum: int | str, seed: int) -> list[dict]:
        """The curve of a simulation, from its file if it is there."""
        kind = f"quorum-{quorum}" if isinstance(quorum, int) else f"ramp-{row.quorum_step}"
        file = self.folder / f"{row.name.replace(f'-{row.quorum_step}-', '-', 1)}-{kind}-{seed}.json"
        options = {"schedule.drops": [], "schedule.outer_drops": [], "schedule.scoping": "off", "communicator.quorum": quorum, "seed": seed, "threads": 1}
        settings, curve = self._configured(options | row.settings), []
        if file.is_file() or self.finished:
            return self._same_curve(file, settings) if file.is_file() else []
        self.show.note(str(file))
        clock, seconds = Clock(COMPUTE, f"half:normal(0, {row.deviation})", seed=seed), SECONDS * self.scale
        result = simulate(settings, clock, seconds, every=seconds / LOOKS, show=self.show, watch=curve.append)
        RunFolder(self.folder).write_json(file, {"settings": config.to_yaml(settings), "result": result, "curve": curve})
        return curve

    def _same_curve(self, file: Path, settings: config.RunConfig) -> list[dict]:
        """The curve in a file; ConfigError where it was made with other settings."""
        told = json.loads(file.read_text())
        if config.from_text(told["settings"]) != settings:
            raise ConfigError(f"{file} was made with other settings. Give the same --set as before, or another --runs-dir.")
        return told["curve"]


def _errors(work: _Work, table: Table, rows: list[Row]) -> tuple[list[dict], Callable]:
    """The test error of the solutions."""
    found = _figures(work, rows, lambda path: RunFolder(path).result()["error_pct"], lambda row: row.paper)
    drawn = [(its["label"], its["errors"], _number(its["paper"])) for its in found if its["errors"]]
    return found, lambda picture, title: pictures.dots(picture, title, drawn, "test error of the solution, %")


def _training_errors(work: _Work, table: Table, rows: list[Row]) -> tuple[list[dict], Callable]:
    """The error of the solutions on the samples that they were trained on."""
    found = _figures(work, rows, lambda path: anatomy.evaluate(path, part="train", show=work.show)["error_pct"], lambda row: row.trained)
    drawn = [(its["label"], its["errors"], _number(its["paper"])) for its in found if its["errors"]]
    return found, lambda picture, title: pictures.dots(picture, title, drawn, "training error of the solution, %")


def _curves(work: _Work, table: Table, rows: list[Row]) -> tuple[list[dict], Callable]:
    """The test error in the course of the training."""
    found, _ = _errors(work, table, rows)
    lines = {
        its["label"]: [
            [(record["gradient_evaluations"], record["consensus"]["error_pct"]) for record in RunFolder(Path(path)).records()] for path in its["runs"]
        ]
        for its in found
        if its["runs"]
    }
    return found, lambda picture, title: pictures.curves(picture, title, lines, "gradient evaluations, all replicas together", "test error, %")


def _figures(work: _Work, rows: list[Row], error_of: Callable[[Path], float], published: Callable[[Row], str]) -> list[dict]:
    """Of every row its errors and what they cost, beside what was published."""
    runs, found = work.trained(rows), []
    for row in rows:
        its = runs[row.name]
        told = {"name": row.name, "label": row.label, "paper": published(row)}
        if isinstance(its, str):
            found.append(told | {"missing": its, "errors": [], "runs": []})
            continue
        if not its:
            found.append(told | {"missing": "No run is finished." if work.finished else "Every run has diverged.", "errors": [], "runs": []})
            continue
        errors, results = [error_of(path) for path in its], [RunFolder(path).result() for path in its]
        told |= {"errors": errors, "mean": _mean(errors), "deviation": _deviation(errors), "runs": [str(path) for path in its]}
        told |= {key: _mean([result[key] for result in results]) for key in ("epochs", "gradient_evaluations", "bytes_sent_per_replica", "seconds")}
        found.append(told | {"replicas": results[0]["replicas"]})
    return found


def _alignment(work: _Work, table: Table, rows: list[Row]) -> tuple[list[dict], Callable]:
    """Networks trained apart: their errors, that of their ensemble and of their mean, before and after they were aligned."""
    if work.seeds < 2:
        raise ConfigError(f"--seeds is {work.seeds}, but alignment compares at least two networks.")
    runs, found, drawn = work.trained(rows), [], {}
    for row in rows:
        its, told = runs[row.name], {"name": row.name, "label": row.label}
        if isinstance(its, str) or len(its) < 2:
            found.append(told | {"missing": its if isinstance(its, str) else "fewer than two of its runs have ended"})
            continue
        told |= {"each": _mean(errors := [RunFolder(path).result()["error_pct"] for path in its]), "each_deviation": _deviation(errors)}
        for method in ("greedy", "weights"):
            aligned = anatomy.align(its, method, work.show)
            told |= {"ensemble": aligned["ensemble_error_pct"], "mean": aligned["mean_error_pct"], f"aligned_mean_{method}": aligned["aligned_mean_error_pct"]}
            told |= {"overlap": _off_diagonal(aligned["overlap"]), f"aligned_overlap_{method}": _off_diagonal(aligned["aligned_overlap"])}
            told |= {"matrix": aligned["overlap"], f"aligned_matrix_{method}": aligned["aligned_overlap"]}
        found.append(told | {"runs": [str(path) for path in its], "paper": table.paper | {"overlap": table.paper[f"overlap {row.name}"]}})
        drawn |= {f"{row.label}, as trained": told["matrix"], f"{row.label}, aligned": told["aligned_matrix_greedy"]}
    if not drawn:
        raise DivergedError(f"No two networks have come to their end: {found[0]['missing']}. Lower --set optimizer.lr.")
    return found, lambda picture, title: pictures.matrices(picture, title, drawn)


def _differences(work: _Work, table: Table, rows: list[Comparison]) -> tuple[list[dict], Callable]:
    """Hybrid minus asynchronous, averaged over the curve: accuracy in points and test loss."""
    found = []
    for row in rows:
        points, losses = [], []
        step = max(1, round(row.quorum_step * work.scale))
        for seed in range(work.seeds):
            hybrid, plain = work.simulated(row, f"ramp(1, n, every={step})", seed), work.simulated(row, 1, seed)
            if not hybrid or not plain:
                continue
            points.append(_mean([its["error_pct"] for its in plain]) - _mean([its["error_pct"] for its in hybrid]))
            losses.append(_mean([its["loss"] for its in hybrid]) - _mean([its["loss"] for its in plain]))
        if not points:
            found.append({"name": row.name, "label": row.label, "missing": "No run is finished."})
            continue
        told = {"name": row.name, "label": row.label, "paper": row.paper, "points": points, "losses": losses}
        found.append(told | {"mean": _mean(points), "deviation": _deviation(points), "mean_loss": _mean(losses), "deviation_loss": _deviation(losses)})
    drawn = [(its["label"], its["points"], _number(its["paper"])) for its in found if "points" in its]
    return found, lambda picture, title: pictures.dots(picture, title, drawn, "accuracy, points above asynchronous")


KINDS = {"errors": _errors, "curves": _curves, "training errors": _training_errors, "alignment": _alignment, "differences": _differences}


def _mean(values: list[float]) -> float | None:
    return statistics.mean(values) if values else None


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _number(text: str) -> float | None:
    """The first number of what a paper gives."""
    return float(text.split()[0]) if text else None


def _off_diagonal(matrix: list[list[float]]) -> list[float]:
    """Mean and standard deviation of the pairs."""
    values = [matrix[i][j] for i in range(len(matrix)) for j in range(i)]
    return [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0]
