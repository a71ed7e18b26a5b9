"""Runs side by side: at their ends, and at equal epochs, gradient evaluations, seconds and bytes."""

from dataclasses import dataclass

from parle.reports.story import Story

AXES = {
    "epochs": lambda record: record["epoch"],
    "gradient evaluations": lambda record: record["gradient_evaluations"],
    "seconds": lambda record: record["seconds"],
    "bytes sent per replica": lambda record: record["bytes_sent_per_replica"],
}


@dataclass(frozen=True)
class Run:
    """A run to be compared: its name, a few words on it, and its evaluations in their order."""

    name: str
    algorithm: str
    replicas: int
    records: list[dict]

    def error_within(self, axis: str, budget: float) -> float | None:
        """The error of the last evaluation that spent at most the budget; None where there is none."""
        spent = AXES[axis]
        within = [record["consensus"]["error_pct"] for record in self.records if spent(record) <= budget]
        return within[-1] if within else None


def runs_of(stories: list[Story]) -> list[Run]:
    """The runs of stories that have evaluations."""
    return [Run(its.label, its.algorithm, its.replicas, its.records) for its in stories if its.records]


def compare(runs: list[Run]) -> dict:
    """The final figures of each run, and for each axis the largest budget that all runs reached with their errors there."""
    final = [
        {
            "run": run.name,
            "algorithm": run.algorithm,
            "replicas": run.replicas,
            "error_pct": run.records[-1]["consensus"]["error_pct"],
            "best_error_pct": min(record["consensus"]["error_pct"] for record in run.records),
            "loss": run.records[-1]["consensus"]["loss"],
            **{axis: spent(run.records[-1]) for axis, spent in AXES.items()},
        }
        for run in runs
    ]
    equal = {}
    for axis, spent in AXES.items():
        ends = [spent(run.records[-1]) for run in runs]
        budget = min((end for end in ends if end > 0), default=0)  # a lone replica sends nothing, within any budget
        equal[axis] = {"budget": budget, "error_pct": {run.name: run.error_within(axis, budget) for run in runs}}
    return {"final": final, "equal": equal}


def errors(runs: list[Run], axis: str) -> dict[str, list[list[tuple[float, float]]]]:
    """The test error of every run over an axis, as points by a label that says what was trained."""
    spent = AXES[axis]
    return {f"{run.name} ({run.algorithm} x {run.replicas})": [[(spent(its), its["consensus"]["error_pct"]) for its in run.records]] for run in runs}
