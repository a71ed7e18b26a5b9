"""Pictures for people, by matplotlib: SVG or PDF in files, and SVG that takes its colours from the page that it stands in."""

import html
import io
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

from parle.errors import ConfigError, SetupError
from parle.reports.panels import Panel

FORMATS = (".svg", ".pdf")
COLOURS = 8  # that a page has for runs; then they begin again, dashed
INK, RULE, RUN = "#0a0b0c", "#0a0b0d", "#0a0c{:02x}"  # stand for a page's own colours
STYLE = {
    "font.size": 9,
    "svg.hashsalt": "parle",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a dollar in the name of a run is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Point = tuple[float, float]


def require_format(path: Path) -> None:
    """Raise ConfigError for a picture that is to be of another format."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"The picture {path} ends in `{path.suffix}`. Let it end in {' or '.join(FORMATS)}.")


def curves(path: Path, title: str, lines: dict[str, list[list[Point]]], x: str, y: str) -> None:
    """Lines by their label, each the mean over several seeds' points (x, y), with a band from the least to the greatest."""
    with _axes(path, title, (7.5, 4.5)) as axes:
        from matplotlib import ticker

        for label, seeds in lines.items():
            count = min(len(points) for points in seeds)
            across = [[points[index] for points in seeds] for index in range(count)]
            at = [points[0][0] for points in across]
            values = [[value for _, value in points] for points in across]
            shown = f" {label}" if label.startswith("_") else label  # which a legend would leave out
            (drawn,) = axes.plot(at, [sum(its) / len(its) for its in values], label=shown, linewidth=1.5)
            axes.fill_between(at, [min(its) for its in values], [max(its) for its in values], alpha=0.15, color=drawn.get_color(), linewidth=0)
        if all(value > 0 for seeds in lines.values() for points in seeds for _, value in points):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", labelsize=7)
        axes.set(xlabel=x, ylabel=y, xlim=(0, None))
        if axes.get_xlim()[1] > 1e5:
            axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=" "))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def dots(path: Path, title: str, rows: list[tuple[str, list[float], float | None]], x: str) -> None:
    """One line for each (label, values, published value): the values as dots, the published one as a cross."""
    with _axes(path, title, (7.5, 1.2 + 0.3 * len(rows))) as axes:
        for place, (_, values, published) in enumerate(rows):
            axes.plot(values, [place] * len(values), "o", color="#4e79a7", alpha=0.7, label="here, one for each seed" if place == 0 else None)
            if published is not None:
                axes.plot([published], [place], "x", color="#e15759", markersize=8, label="published")
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axes.invert_yaxis()
        axes.set(xlabel=x)
        axes.grid(axis="x", alpha=0.3)
        found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(found.values(), found.keys(), frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def matrices(path: Path, title: str, pictures: dict[str, list[list[float]]]) -> None:
    """Square matrices of numbers between 0 and 1 side by side, each under its label, in one scale of colours that ends below their diagonals."""
    most = 1.3 * max(value for rows in pictures.values() for i, row in enumerate(rows) for j, value in enumerate(row) if i != j)
    with _figure(path, title, (3.4 * len(pictures), 3.6)) as figure:
        for axes, (label, rows) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True):
            axes.imshow(rows, cmap="viridis", vmin=0.0, vmax=most)
            axes.set_title(label, fontsize=9)
            axes.set_xticks(range(len(rows)))
            axes.set_yticks(range(len(rows)))
            for i, row in enumerate(rows):
                for j, value in enumerate(row):
                    axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value < 0.6 * most else "black")


def inline(panel: Panel, across: list[list[float]], x: str) -> str:
    """A panel as an SVG element for a page; `across` are the places of each run's records along x.

    Its colours are the page's: `currentColor`, `--rule`, and `--run-0` and so on. Lines of single replicas are of class `single`.
    """
    matplotlib, Figure = _matplotlib()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": repr((panel, x))}), _glyphs_may_be_missing():  # identifiers of its own on the page
        figure = Figure(figsize=(4.6, 2.6))
        axes = figure.add_axes((0.13, 0.17, 0.85, 0.8))
        _draw(axes, panel, across)
        axes.set_xlabel(x)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
    return _of_the_page(written.getvalue(), panel.title)


def _draw(axes, panel: Panel, across: list[list[float]]) -> None:
    from matplotlib import ticker

    for line in panel.lines:
        at = [(x, y) for x, y in zip(across[line.run], line.values, strict=True) if y is not None]
        look = {"linewidth": 0.8, "alpha": 0.5} if line.single else {"linewidth": 1.8}
        look |= {"marker": "o", "markersize": 2.5} if len(at) <= (3 if line.single else 25) else {}
        look |= {"linestyle": "--"} if line.run >= COLOURS else {}
        axes.plot([x for x, _ in at], [y for _, y in at], color=RUN.format(line.run % COLOURS), gid="single" if line.single else None, **look)
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=" "))
    axes.set_xlim(0, max((x for places in across for x in places), default=1) or 1)
    axes.grid(color=RULE, linewidth=0.6)
    axes.tick_params(colors=INK, length=3)
    axes.xaxis.label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)


def _of_the_page(svg: str, title: str) -> str:
    """Matplotlib's file as an element: without its head and its identifiers, with the colours of the page."""
    box = re.search(r'viewBox="([-\d. ]+)"', svg)[1]
    body = re.sub(r' id="(?!single"|[mp][0-9a-f]{10}")[^"]*"', "", svg[svg.index("<g id=") :])  # what is referred to keeps its own
    body = re.sub(r"font-size: \d+px; font-family: [^;]*; |<!--.*?-->", "", body)
    body = body.replace('id="single"', 'class="single"')
    for colour, its in ((INK, "currentColor"), (RULE, "var(--rule)"), *((RUN.format(number), f"var(--run-{number})") for number in range(COLOURS))):
        body = body.replace(colour, its)
    return f'<svg viewBox="{box}" role="img" aria-label="{html.escape(title)}">{body}'


@contextmanager
def _axes(path: Path, title: str, size: tuple[float, float]):
    with _figure(path, title, size) as figure:
        yield figure.subplots()


@contextmanager
def _figure(path: Path, title: str, size: tuple[float, float]):
    """A figure to draw on, written to `path` at the end."""
    require_format(path)
    matplotlib, Figure = _matplotlib()
    with matplotlib.rc_context(STYLE), _glyphs_may_be_missing():
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=10)
        yield figure
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else {"CreationDate": None})
        except OSError as error:
            raise SetupError(f"The picture {path} cannot be written: {error.strerror}. Choose another place.") from error


@contextmanager
def _glyphs_may_be_missing():
    """The name of a run may be in letters that the fonts at hand do not have; it is drawn as well as can be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        yield


def _matplotlib():
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise SetupError("Pictures need matplotlib. Install it with `pip install 'parle-sgd[plots]'`.") from None
    return matplotlib, Figure
