"""Pictures for people, as SVG."""

from contextlib import contextmanager
from pathlib import Path

from parle.errors import SetupError

Point = tuple[float, float]


def curves(path: Path, title: str, lines: dict[str, list[list[Point]]], x: str, y: str) -> None:
    """Lines by their label, each the mean over several seeds' points (x, y), with a band from the least to the greatest."""
    with _axes(path, title, (7.5, 4.5)) as axes:
        for label, seeds in lines.items():
            count = min(len(points) for points in seeds)
            across = [[points[index] for points in seeds] for index in range(count)]
            at = [points[0][0] for points in across]
            values = [[value for _, value in points] for points in across]
            (drawn,) = axes.plot(at, [sum(its) / len(its) for its in values], label=label, linewidth=1.5)
            axes.fill_between(at, [min(its) for its in values], [max(its) for its in values], alpha=0.15, color=drawn.get_color(), linewidth=0)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", labelsize=7)
        axes.set(xlabel=x, ylabel=y, xlim=(0, None))
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


@contextmanager
def _axes(path: Path, title: str, size: tuple[float, float]):
    with _figure(path, title, size) as figure:
        yield figure.subplots()


@contextmanager
def _figure(path: Path, title: str, size: tuple[float, float]):
    """A figure to draw on, written to `path` at the end."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise SetupError('Pictures need matplotlib: pip install "parle-sgd[plots]"') from None
    with matplotlib.rc_context({"font.size": 9, "svg.hashsalt": "parle", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=10)
        yield figure
        try:
            figure.savefig(path, format="svg", metadata={"Date": None})
        except OSError as error:
            raise SetupError(f"The picture {path} cannot be written: {error.strerror}. Choose another place.") from error
