"""The report of runs: one HTML file that needs nothing else, light or dark as the reader likes it, and that prints."""

import html
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from parle.errors import ConfigError, SetupError
from parle.reports import comparison, panels, pictures, story
from parle.reports.story import Story
from parle.reports.tables import clock, size

STATIC = Path(__file__).parent / "static"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # a browser fetches nothing for this page, and runs nothing in it
SPEEDS = ("computing", "waiting", "exchanging")


def write(stories: list[Story], path: Path) -> None:
    """Write the report of some runs; what was there before stays until all of it is written.

    Raises ConfigError for a name that is not that of a page, SetupError where matplotlib is missing or the file cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"A report is an HTML file, but {path} does not end in .html.")
    text = page(stories)
    aside = path.with_suffix(".part")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise SetupError(f"The report {path} cannot be written: {error.strerror}. Choose another place with --to.") from error


def page(stories: list[Story]) -> str:
    """The report as HTML; every text of a run is escaped."""
    several = len(stories) > 1
    title = " | ".join(its.label for its in stories) if len(stories) <= 4 else f"{len(stories)} runs"
    body = [f"<h1>{_text(title)}</h1>"]
    body += _compared(stories) if several else _told(stories[0])
    body += _switched(stories)
    for number, its in enumerate(stories):
        body += [f'<section class="run"><h2>{_mark(number)}{_text(its.label)}</h2>', *_told(its)] if several else []
        body += [*_within(its, number), *_background(its), *(["</section>"] if several else [])]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">',
            f"<title>{_text(title)}: report of parle</title>\n<style>\n{(STATIC / 'look.css').read_text()}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
    )


def _told(its: Story) -> Iterator[str]:
    """What was trained and how it ended, with the last figures."""
    yield f'<p>{_text(its.title)} <span class="state {_text(its.state)}">{_text(its.state)}</span></p>'
    if its.message:
        yield f'<p class="message">{_text(its.message)}</p>'
    last = its.last
    if not last:
        return
    evaluations, consensus = last["gradient_evaluations"], last["consensus"]
    rows = [["consensus", f"{consensus['error_pct']:.2f}", f"{consensus['loss']:.4f}", f"{evaluations:,}", f"{last['seconds']:,.1f}"]]
    singles = last.get("replicas") or []
    rows += [
        [f"replica {index}", f"{replica['error_pct']:.2f}", f"{replica['loss']:.4f}", f"{evaluations // max(1, len(singles)):,}", ""]
        for index, replica in enumerate(singles)
    ]
    best = min(its.records, key=lambda record: record["consensus"]["error_pct"])
    yield _table(["", "test error, %", "test loss", "gradient evaluations", "seconds"], rows)
    yield (
        f"<p>Epoch {last['epoch']:.4g} of {its.epochs:.4g}, step {last['step']:,}, {last['round']:,} rounds; {size(last['bytes_sent_per_replica'])} sent "
        f"by each replica; {last['images_per_second']:,.0f} images/s. "
        f"The least test error was {best['consensus']['error_pct']:.2f} %, in epoch {best['epoch']:.4g}.</p>"
    )


def _compared(stories: list[Story]) -> Iterator[str]:
    """The final figures of several runs, their errors at equal budgets, and the settings in which they differ."""
    begun, places = comparison.runs_of(stories), [place for place, its in enumerate(stories) if its.records]
    if begun:
        compared = comparison.compare(begun)
        rows = [
            [
                *(row["run"], row["algorithm"], f"{row['replicas']}", f"{row['error_pct']:.2f}", f"{row['best_error_pct']:.2f}", f"{row['loss']:.4f}"),
                *(f"{row['epochs']:.4g}", f"{row['gradient evaluations']:,}", f"{row['seconds']:,.1f}", size(row["bytes sent per replica"])),
            ]
            for row in compared["final"]
        ]
        heads = ["run", "algorithm", "replicas", "test error, %", "least, %", "test loss", "epochs", "gradient evaluations", "seconds", "sent by each"]
        yield "<h2>At the end</h2>" + _table(heads, rows, texts=2, marks=places)
        equal = list(compared["equal"].items())
        heads = [f"{axis} ≤ {size(its['budget']) if axis.startswith('bytes') else format(its['budget'], ',.4g')}" for axis, its in equal]
        rows = [[run.name, *(_percent(axis["error_pct"][run.name]) for _, axis in equal)] for run in begun]
        yield "<h2>Test error at equal budgets, %</h2><p>Of each run the last evaluation within the budget, which is the most that all runs spent.</p>"
        yield _table(["run", *heads], rows, marks=places)
    leaves = [dict(_leaves(its.settings)) for its in stories]
    differing = [key for key in dict.fromkeys(key for its in leaves for key in its) if len({str(its.get(key)) for its in leaves}) > 1]
    if differing:
        yield "<h2>Settings in which they differ</h2>"
        yield _table(["", *(its.label for its in stories)], [[key, *(str(its.get(key, "")) for its in leaves)] for key in differing], texts=len(stories) + 1)


def _switched(stories: list[Story]) -> Iterator[str]:
    """Test error and loss over what was spent, by an axis that the reader chooses: radio buttons and style, no script."""
    records = [story.thinned(its.records) for its in stories]
    if not any(records):
        yield "<h2>Test error and loss</h2><p>There is no evaluation yet.</p>"
        return
    across = [panels.spent(its) for its in records]
    drawn, axes = panels.scores(stories, records), [axis for axis in comparison.AXES if any(any(its[axis]) for its in across)]
    yield '<section class="switch"><h2>Test error and loss</h2>'
    for number, axis in enumerate(axes):
        yield f'<input type="radio" name="against" id="against-{number}"{" checked" * (number == 0)}><label for="against-{number}">{axis}</label>'
    if any(line.single for panel in drawn for line in panel.lines):
        yield '<input type="checkbox" id="singles" checked><label for="singles">single replicas (thin)</label>'
    if len(stories) > 1:
        yield '<p class="legend">' + " ".join(f"<span>{_mark(number)}{_text(its.label)}</span>" for number, its in enumerate(stories)) + "</p>"
    for number, axis in enumerate(axes):
        yield f'<div class="panels against against-{number}">' + "".join(_picture(panel, [its[axis] for its in across], axis) for panel in drawn) + "</div>"
    yield "</section>"


def _within(its: Story, number: int) -> Iterator[str]:
    """What went on within a run: its replicas, its settings, its server, its time."""
    if not its.records:
        return
    records = story.thinned(its.records)
    places = [panels.spent(records)["epochs"]]
    yield "<h3>Within the run</h3>"
    colour = number % pictures.COLOURS
    yield f'<div class="panels" style="--run-0: var(--run-{colour})">' if colour else '<div class="panels">'
    yield from (_picture(panel, places, "epochs") for panel in panels.inside(records))
    yield "</div>"
    if counts := panels.staleness(its.records):
        most, merged = max(count for _, count in counts), sum(count for _, count in counts)
        yield "<h3>Staleness</h3><p>By how many updates the reference had moved on when a proposal was merged.</p>"
        yield _bars([(value, {"computing": count / most}, f"{count:,} ({count / merged:.1%})") for value, count in counts])
    spent = panels.times(its.records)
    total = max(sum(its.values()) for its in spent.values()) or 1.0
    yield "<h3>Time</h3>" + f'<p class="legend">{" ".join(f"<span><i class={kind}></i>{kind}</span>" for kind in next(iter(spent.values())))}</p>'
    notes = {who: ", ".join(f"{kind} {clock(value)}" for kind, value in parts.items()) for who, parts in spent.items()}
    yield _bars([(who, {kind: value / total for kind, value in parts.items()}, notes[who]) for who, parts in spent.items()])


def _background(its: Story) -> Iterator[str]:
    """What happened, the configuration, the machine, and how to run it again."""
    told = [event for event in its.events if event.get("event") not in ("start", "done")]
    if told:
        began = its.events[0].get("time", 0)
        rows = [[f"{event.get('time', 0) - began:,.0f} s", str(event.get("event")), _details(event)] for event in told]
        yield "<h3>What happened</h3>" + _table(["after", "what", ""], rows, texts=3)
    again = shlex.join(["parle", "train", "-c", str(its.path / "config.yaml"), "--name", f"{its.name}-again"])
    command = its.environment.get("command")
    yield f"<h3>Run it again</h3><pre>{_text(again)}</pre>"
    if isinstance(command, list):
        launcher = its.environment.get("launcher")
        by = f" in {its.environment.get('processes')} processes of {launcher}" if launcher else ""
        yield f"<p>It was last started as <code>{_text(shlex.join(map(str, command)))}</code>{_text(by)}.</p>"
    rows = [
        [key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for key, value in its.environment.items()
        if key not in ("command", "launch_id")
    ]
    yield "<h3>Machine</h3>" + _table(["", ""], [row for row in rows if row[1] not in ("", "None")], texts=2)
    yield f'<h3>Configuration</h3><pre class="columns">{_text(yaml.safe_dump(its.settings, sort_keys=False))}</pre>'


def _details(event: dict) -> str:
    said = {key: value for key, value in event.items() if key not in ("time", "event")}
    return ", ".join(str(value) if key in ("text", "message") else f"{key}: {value}" for key, value in said.items())


def _leaves(tree: dict, above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        elif key != "derived":
            yield f"{above}{key}", value


def _picture(panel: panels.Panel, across: list[list[float]], axis: str) -> str:
    return f"<figure><figcaption>{_text(panel.title)}</figcaption>{pictures.inline(panel, across, axis)}</figure>"


def _bars(rows: list[tuple[str, dict[str, float], str]]) -> str:
    """A bar for each (label, parts of 1 by their class, note)."""
    lines = [
        f'<span>{_text(label)}</span><span class="bar">'
        + "".join(f'<i class="{kind}" style="width:{100 * part:.2f}%"></i>' for kind, part in parts.items())
        + f"</span><span>{_text(note)}</span>"
        for label, parts, note in rows
    ]
    return f'<div class="bars">{"".join(lines)}</div>'


def _table(heads: list[str], rows: Iterable[list[str]], texts: int = 1, marks: list[int] | None = None) -> str:
    """A table whose first `texts` columns are text; `marks` are the colours of its rows."""
    head = "".join(f"<th{'' if index < texts else ' class=number'}>{_text(its)}</th>" for index, its in enumerate(heads))
    lines = []
    for place, row in enumerate(rows):
        cells = [f"<td{'' if index < texts else ' class=number'}>{_text(cell)}</td>" for index, cell in enumerate(row)]
        cells[0] = cells[0].replace("<td>", f"<td>{_mark(marks[place])}", 1) if marks else cells[0]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _mark(number: int) -> str:
    return f'<i class="mark" style="background:var(--run-{number % pictures.COLOURS})"></i>'


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:.2f}"


def _text(value: str) -> str:
    return html.escape(str(value))
