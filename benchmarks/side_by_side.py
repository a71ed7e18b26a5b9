"""What the benchmarks share: rows of one form, made of ratios that were measured side by side.

A row says what was compared (`benchmark`, `case`), the median of the ratio and its range (`ratio`, `low`, `high`), what it is a ratio
of (`unit`), the `target` where there is one (`<= 1.15`), and what was counted meanwhile, which is exact (`counted`). `remark` is for
people, and says of a row without a ratio why there is none.
"""

import argparse
import json
import statistics
from collections.abc import Callable

import torch

HOLDS = {"<=": float.__le__, ">=": float.__ge__, "<": float.__lt__, ">": float.__gt__}


def row(benchmark: str, case: str, ratios: list[float], unit: str, target: str | None = None, **counted) -> dict:
    """A row of the ratios of all repetitions."""
    low, high = (min(ratios), max(ratios)) if ratios else (None, None)
    ratio = statistics.median(ratios) if ratios else None
    return {"benchmark": benchmark, "case": case, "ratio": ratio, "low": low, "high": high, "unit": unit, "target": target, "counted": counted, "remark": ""}


def skipped(benchmark: str, case: str, reason: str) -> dict:
    """A row that says why there is nothing to say."""
    return row(benchmark, case, [], "") | {"remark": f"skipped: {reason}"}


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """The ratio of each repetition to the one beside it."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def met(its: dict) -> bool | None:
    """Whether the median of a row meets its target; None where it has none."""
    if its["target"] is None or its["ratio"] is None:
        return None
    sign, bound = its["target"].split()
    return HOLDS[sign](float(its["ratio"]), float(bound))


def line(its: dict) -> str:
    """A row as a line of text."""
    if its["ratio"] is None:
        return f"{its['benchmark']}, {its['case']}: {its['remark']}"
    verdict = {None: "", True: f"; holds: the target is {its['target']}", False: f"; MISSED: the target is {its['target']}"}[met(its)]
    counted = "".join(f"; {name.replace('_', ' ')} {value:,}" for name, value in its["counted"].items() if isinstance(value, int | float))
    counted += its["remark"] and f"; {its['remark']}"
    return f"{its['benchmark']}, {its['case']}: {its['ratio']:.3g} {its['unit']} ({its['low']:.3g} to {its['high']:.3g}){verdict}{counted}"


def run(parser: argparse.ArgumentParser, rows_of: Callable[[argparse.Namespace], list[dict]], arguments: list[str] | None = None) -> None:
    """What the `main` of a benchmark does: measure on one thread, print the rows, and write them where asked to."""
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tell(rows_of(options), options.json)


def tell(rows: list[dict], file: str | None) -> None:
    """Print the rows, and write them to a file if there is one."""
    for its in rows:
        print(line(its), flush=True)
    if file:
        with open(file, "w") as out:
            json.dump(rows, out, indent=1)


def parser(text: str) -> argparse.ArgumentParser:
    """One whose help is the docstring of the benchmark."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
