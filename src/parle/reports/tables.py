"""Tables on the terminal."""

import re
from pathlib import Path

import yaml
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)  # [plots] is no style, nor is a run called [red]
if not console.is_terminal:
    console.width = 120  # in a file or a pipe, where nothing says how wide


def show(title: str, columns: list[str], rows: list[list], texts: int = 1) -> None:
    """Print a table; the first `texts` columns are text, numbers stand to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < texts else "right", overflow="fold", no_wrap=number >= texts)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, str) else "-" if cell is None else f"{cell:,}" for cell in row))
    console.print(table)


def show_page(text: str) -> None:
    """Print a page of Markdown: set for a terminal, as it is in a file or a pipe."""
    if console.is_terminal:
        console.print(Markdown(re.sub(r"^#+ (.*)$", r"**\1**", text, flags=re.MULTILINE), code_theme="ansi_dark"), soft_wrap=False)  # rich centers headings
    else:
        print(text, end="")


def size(count: float) -> str:
    """Bytes for people.

    >>> size(528880), size(0)
    ('528.9 kB', '0 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def clock(seconds: float) -> str:
    """A time for people.

    >>> clock(0.25), clock(7.8), clock(95), clock(7320)
    ('0.25 s', '7.8 s', '1 min 35 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def show_result(result: dict, baseline: dict | None) -> None:
    """The final table of a training: the consensus, every replica, and the baseline with as many gradient evaluations."""
    rows = [["consensus", f"{result['error_pct']:.2f}", f"{result['gradient_evaluations']:,}", f"{result['seconds']:.1f}"]]
    share = result["gradient_evaluations"] // result["replicas"]
    rows += [[f"replica {index}", f"{error:.2f}", f"{share:,}", ""] for index, error in enumerate(result["replica_error_pct"])]
    if baseline:
        rows += [["one plain SGD", f"{baseline['error_pct']:.2f}", f"{baseline['gradient_evaluations']:,}", f"{baseline['seconds']:.1f}"]]
    variant = f" ({result['variant']})" if result["variant"] else ""
    title = f"{result['algorithm']}{variant} on {result['data']}, {result['replicas']} x {result['model']} ({result['params']:,} parameters)"
    show(title, ["", "test error %", "gradient evaluations", "seconds"], rows)
    speed, sent = result["images_per_second"], size(result["bytes_sent_per_replica"])
    rounds = "1 round" if result["rounds"] == 1 else f"{result['rounds']:,} rounds"
    console.print(f"{rounds}, {sent} sent by each replica, {speed:,.0f} images/s. Written to {result['run']}")
    if (report := Path(result["run"]) / "report.html").is_file():
        console.print(f"Report: {report}")


def show_simulation(result: dict, curve: list[dict]) -> None:
    """What a virtual clock has told: the score over virtual time, if there is one, and what the server counted."""
    if curve:
        chosen = curve[:: max(1, len(curve) // 10)]
        rows = [[f"{its['second']:.4g}", its["gradients"], its["updates"], its["quorum"], f"{its['error_pct']:.2f}", f"{its['loss']:.4f}"] for its in chosen]
        show("On the virtual clock", ["second", "gradients", "updates", "quorum", "test error %", "loss"], rows, texts=0)
        console.print()
    late = f"{result['staleness_p50']} / {result['staleness_p95']} / {result['staleness_max']}"
    rows = [
        ["gradients", f"{result['gradients']:,}"],
        ["updates", f"{result['updates']:,}"],
        ["virtual seconds", f"{result['seconds']:,.4g} for {result['samples']:,} samples"],
        ["gradients per second", f"{result['throughput']:,.5g}"],
        ["staleness, median / 95 % / most", late],
        ["replicas wait", f"{result['waiting_share']:.1%} of the time"],
        ["the server's port is busy", f"{result['link_use']['in']:.1%} receiving, {result['link_use']['out']:.1%} sending"],
    ]
    rows += [["refused, not finite", f"{result['refused']:,}"]] if result["refused"] else []
    show(f"{result['algorithm']} x {result['replicas']}", ["", ""], rows, texts=2)


def show_comparison(compared: dict) -> None:
    """The final figures of runs, and their errors at equal budgets."""
    columns = ["run", "algorithm", "n", "error %", "best %", "loss", "epochs", "gradients", "seconds", "sent"]
    rows = [
        [
            row["run"],
            row["algorithm"],
            row["replicas"],
            f"{row['error_pct']:.2f}",
            f"{row['best_error_pct']:.2f}",
            f"{row['loss']:.4f}",
            f"{row['epochs']:.4g}",
            row["gradient evaluations"],
            f"{row['seconds']:.1f}",
            size(row["bytes sent per replica"]),
        ]
        for row in compared["final"]
    ]
    show("At the end", columns, rows)
    axes = compared["equal"]
    rows = [[row["run"], *("-" if (error := axis["error_pct"][row["run"]]) is None else f"{error:.2f}" for axis in axes.values())] for row in compared["final"]]
    heads = [f"{name} <= {size(axis['budget']) if name.startswith('bytes') else format(axis['budget'], ',.4g')}" for name, axis in axes.items()]
    console.print()
    show("Error % at equal (the last evaluation within the budget)", ["run", *heads], rows)
    if "plot" in compared:
        console.print(f"Picture: {compared['plot']}")


def show_alignment(found: dict) -> None:
    """The errors before and after alignment, and both matrices of overlaps."""
    rows = [[run, f"{error:.2f}"] for run, error in zip(found["runs"], found["error_pct"], strict=True)]
    rows += [["ensemble of their probabilities", f"{found['ensemble_error_pct']:.2f}"], ["mean of their weights", f"{found['mean_error_pct']:.2f}"]]
    rows += [[f"mean after alignment ({found['method']})", f"{found['aligned_mean_error_pct']:.2f}"]]
    show("Test error", ["", "%"], rows)
    for title, key in (("Overlap", "overlap"), ("Overlap after alignment", "aligned_overlap")):
        console.print()
        show(title, ["", *map(str, range(len(rows) - 3))], [[str(number), *(f"{its:.3f}" for its in row)] for number, row in enumerate(found[key])])


def show_export(found: dict) -> None:
    """What was written, and how it compares with the run."""
    console.print(f"The solution of {found['run']} is in {found['to']} ({found['format']}, {size(found['bytes'])}).")
    console.print(f"Read back, it gives the scores of {found['samples']} test samples again, to within {found['largest_difference']:.1g} of the largest.")


def show_estimate(found: dict) -> None:
    """The resolved configuration, and what a training would take and send."""
    console.print(yaml.safe_dump(found["configuration"], sort_keys=False))
    seconds, measured, replicas = found["seconds"], found["measured"], found["configuration"]["replicas"]
    whose = "one replica" if measured["steps_of"] == 1 else "all replicas"
    vectors = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in found["vectors_of_each_replica"].items() if count)
    rows = [
        ["parameters, N", f"{found['params']:,}"],
        ["training samples", f"{found['training_samples']:,}"],
        ["steps of each replica", f"{found['steps']:,}"],
        ["rounds", f"{found['rounds']:,}"],
        ["gradient evaluations", f"{found['gradient_evaluations']:,}"],
        ["memory of each replica", f"{size(found['bytes_of_each_replica'])}: {vectors}"],
        ["memory once", f"{size(found['bytes_once'])}: {', '.join(found['vectors_once'])}"],
        ["sent by each replica in a round", size(found["bytes_per_round_per_replica"])],
        ["sent by each replica in the run", size(found["bytes_sent_per_replica"])],
        ["estimated time", f"{duration(seconds['all'])}, for {found['estimated_for']}"],
        ["", f"steps {duration(seconds['steps'])}, rounds {duration(seconds['rounds'])}, evaluations {duration(seconds['evaluations'])}"],
        [
            "measured",
            f"{measured['steps']:,} steps of {whose} in {measured['seconds']:.1f} s; a round of {measured['rounds_of']} in process",
        ],
    ]
    show(f"{found['configuration']['algorithm']['name']}, {replicas} x {found['configuration']['model']['name']}", ["", ""], rows, texts=2)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(0.25), duration(75), duration(9000)
    ('0.2 s', '75 s', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_settings(title: str, entries: list[dict]) -> None:
    """Every key of a configuration; a star marks what follows from the rest."""
    rows = [[its["key"], _value(its["value"]) + (" *" if its["derived"] else ""), _value(its["default"]), its["meaning"]] for its in entries]
    show(f"Settings of {title}", ["key", "value", "default", "meaning"], rows, texts=4)
    if any(its["derived"] for its in entries):
        console.print("* follows from the other settings and the data, and is worked out again when --set or an option changes one")


def show_differences(first: str, second: str, found: list[dict]) -> None:
    """The keys in which two configurations differ."""
    if not found:
        console.print(f"{first} and {second} are configured alike.")
        return
    show("What differs", ["key", first, second], [[its["key"], _value(its["a"]), _value(its["b"])] for its in found], texts=3)


def _value(value) -> str:
    """A value as one writes it in a configuration file."""
    if value is None or value in ([], {}):
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def show_flatness(found: dict) -> None:
    """The loss around a solution."""
    rows = [["loss", f"{found['loss']:.5f}"]]
    rows += [[f"eigenvalue {number}", f"{value:.4g}"] for number, value in enumerate(found["eigenvalues"], 1)]
    rows += [[f"local entropy, gamma {gamma}", f"{value:.5f}"] for gamma, value in found["local_entropy"].items()]
    rows += [[f"loss at distance {at:+.1f}", f"{loss:.5f}"] for at, loss in zip(found["distances"], found["losses"], strict=True) if round(at * 10) % 5 == 0]
    show(f"{found['run']}, over {found['samples']:,} training samples", ["", ""], rows)


def show_reproduced(found: dict) -> None:
    """Our figures of a table beside the published ones, and what to know about them."""
    rows = found["rows"]
    present = [row for row in rows if "missing" not in row]
    if "aligned_mean_greedy" in (present or [{}])[0]:
        _show_aligned(found["title"], present)
    elif "points" in (present or [{}])[0]:
        columns = ["", "published", "accuracy, points", "test loss"]
        show(found["title"], columns, [[row["label"], row["paper"], _spread(row, "", 2, True), _spread(row, "_loss", 3, True)] for row in present], texts=2)
    else:
        columns = ["", "published", "here", "n x epochs", "gradients", "sent"]
        show(found["title"], columns, [_trained(row) for row in present])
    console.print()
    for row in rows:
        if "missing" in row:
            console.print(f"{row['label']}: {row['missing']}")
    for note in found["notes"]:
        console.print(f"- {note}")
    console.print(f"Picture: {found['picture']}")


def _trained(row: dict) -> list[str]:
    spent = [f"{row['replicas']} x {row['epochs']:.4g}", f"{row['gradient_evaluations']:,.0f}", size(row["bytes_sent_per_replica"])]
    return [row["label"], row["paper"], _spread(row, "", 2), *spent]


def _show_aligned(title: str, rows: list[dict]) -> None:
    """A column for each kind of network, and one for the paper."""
    lines: list[list[str]] = []
    for label, key, paper in (
        ("error of each, %", "each", "each"),
        ("of their ensemble", "ensemble", "ensemble"),
        ("of the mean of their weights", "mean", "mean"),
        ("of the mean, aligned greedily", "aligned_mean_greedy", "aligned mean"),
        ("of the mean, aligned by weights", "aligned_mean_weights", None),
        ("overlap as trained", "overlap", None),
        ("overlap, aligned greedily", "aligned_overlap_greedy", "overlap"),
        ("overlap, aligned by weights", "aligned_overlap_weights", None),
    ):
        values = [f"{row[key][0]:.4f} ± {row[key][1]:.4f}" if "overlap" in key else f"{row[key]:.2f}" for row in rows]
        lines.append([label, rows[0]["paper"].get(paper, "") if paper != "overlap" else " | ".join(row["paper"]["overlap"] for row in rows), *values])
    show(title, ["", "published", *(row["label"] for row in rows)], lines, texts=2)


def _spread(row: dict, suffix: str, digits: int, signed: bool = False) -> str:
    mean, deviation = row[f"mean{suffix}"], row[f"deviation{suffix}"]
    return f"{mean:{'+' if signed else ''}.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation is not None else "")
