"""`parle export`: the solution of a finished run in a file or folder that others can load."""

import contextlib
import importlib
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

import parle
from parle import config
from parle.data import Data
from parle.data.preparation import MeanStd, zca
from parle.errors import ConfigError, ParleError, SetupError, first_line
from parle.plans import Quiet, load_data, solution_of
from parle.reports import card
from parle.runs import RunFolder

ENDINGS = {"safetensors": ".safetensors", "pt2": ".pt2", "onnx": ".onnx", "hf": ""}
EXECUTED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")  # endings of files that execute what is in them
FILES = ("model.safetensors", "config.json", "README.md", "training.yaml", "preprocessing.safetensors")  # of the form hf
SAMPLES = 8  # of the test data, on which what was written is compared with the run
TOLERANCE = 1e-4  # of the largest score
LARGEST_ONNX = 2_000_000_000  # bytes in one file


def export(path: Path, to: Path, form: str | None = None, overwrite: bool = False, show: Quiet | None = None) -> dict:
    """Write the solution of a finished run to a file, or as `hf` into a folder, and read it back: what `--json` prints.

    The form follows from the ending of `to` where none is given. What exists stays as it is until the new is complete. Raises ConfigError
    where the run is not finished or its network cannot be exported, SetupError where a package or the disk is missing.
    """
    form = form_of(to, form)
    _require_free(to, form, overwrite)
    run = RunFolder.existing(path)
    run.require_done()
    settings = config.load(run.config)
    found = load_data(settings, show)
    model, samples = solution_of(run, settings, found), _samples(found)
    about = describe(run, settings, found)
    with _written_aside(to) as aside:
        read_back = WRITERS[form](aside, model, samples, about)
        if form == "hf":
            _add_to_folder(aside, run, settings, about)
        difference = _largest_difference(settings.model.name, form, model, read_back, samples)
        size = sum(file.stat().st_size for file in ([aside] if aside.is_file() else aside.iterdir()))
    return {"run": str(path), "format": form, "to": str(to), "bytes": size, "samples": len(samples), "largest_difference": difference, "exit_code": 0}


def form_of(to: Path, form: str | None = None) -> str:
    """The form that is asked for, or that the ending of the path says; ConfigError where the two do not fit together.

    >>> form_of(Path("net.onnx")), form_of(Path("folder"))
    ('onnx', 'hf')
    """
    said = next((name for name, ending in ENDINGS.items() if ending and to.suffix == ending), "hf")
    if to.suffix in EXECUTED:
        raise ConfigError(f"--to {to}: files that end in {to.suffix} execute what is in them when they are loaded. End it in .safetensors, .pt2 or .onnx.")
    form = form or said
    if form not in ENDINGS:
        raise ConfigError(f"`{form}` is not a format. Use one of {', '.join(ENDINGS)}.")
    if form != said:
        wanted = f"a path that ends in {ENDINGS[form]}" if ENDINGS[form] else "the name of a folder"
        raise ConfigError(f"--format {form} does not fit --to {to}. Give {wanted}, or leave --format away.")
    return form


def describe(run: RunFolder, settings: config.RunConfig, found: Data) -> dict:
    """All that somebody needs to use the solution, and to judge it, as plain values: what is in config.json."""
    result, machine = run.result(), run.machine()
    text = found.test.scale is None
    shape = ["samples", *found.shape]
    return {
        "model": {"name": settings.model.name, "options": settings.model.options, "parameters": result["params"]},
        "input": {"kind": "text" if text else "images", "dtype": "int64" if text else "float32", "shape": shape},
        "preprocessing": preprocessing(settings, found),
        "output": {"kind": "scores before softmax", "shape": ["samples", found.classes, *found.shape] if text else ["samples", found.classes]},
        "classes": found.classes,
        "class_names": list(found.names),
        "data": {"name": settings.data.name, "training_samples": len(found.train), "test_samples": len(found.test)},
        "training": {
            **{key: getattr(settings, key) for key in ("replicas", "epochs", "batch_size", "seed", "precision")},
            "algorithm": settings.algorithm,
            "optimizer": settings.optimizer.model_dump(),
            "augment": settings.data.augment,
        },
        "figures": {key: value for key, value in result.items() if key in card.FIGURES},
        "versions": {"parle": machine.get("parle"), "torch": machine.get("torch"), "python": machine.get("python"), "exported_by_parle": parle.__version__},
    }


def preprocessing(settings: config.RunConfig, found: Data) -> dict:
    """What is done to samples before the network sees them: the numbers, and sentences that say how to use them."""
    if found.test.scale is None:
        return {"normalize": "none", "steps": ["The bytes of the text in UTF-8, each a whole number from 0 to 255."]}
    how, prepare, steps = settings.data.normalize, found.test.prepare, []
    raw = found if how != "zca" else _before_whitening(settings)
    told = {"normalize": how, "scale": raw.test.scale}
    if raw.test.scale != 1.0:
        steps.append(f"Divide the values of an image, 0 to {raw.test.scale:g}, by {raw.test.scale:g}.")
    if isinstance(prepare, MeanStd):
        told |= {"mean": prepare.mean.flatten().tolist(), "std": prepare.std.flatten().tolist()}
        steps.append("Subtract `mean` from each channel, and divide it by `std`.")
    elif how in ("contrast", "zca"):
        steps.append("Subtract from every image its own mean, and divide it by its own standard deviation (of n - 1, at least 1e-8).")
    elif prepare is not None:
        steps.append(f"The function {getattr(prepare, '__qualname__', type(prepare).__name__)} of the data, which is not described here.")
    if how == "zca":
        steps.append("Whiten: (image as a row - `mean`) times `matrix`, both in preprocessing.safetensors of the format hf.")
    return told | {"steps": steps or ["None: the values are taken as they are in the data."]}


def _before_whitening(settings: config.RunConfig) -> Data:
    """The data whose training images the whitening was made of."""
    plain = settings.data.model_copy(update={"normalize": "contrast", "samples": None})
    return load_data(settings.model_copy(update={"data": plain}))


def _samples(found: Data) -> Tensor:
    samples = found.test.take(slice(0, SAMPLES))[0]
    return samples if len(samples) > 1 else samples.repeat(2, *[1] * (samples.dim() - 1))  # a single one would become a constant


# The forms: each writes a file or folder, and returns what reads it back as a function from samples to scores

Scores = Callable[[Tensor], Tensor]


def _write_weights(to: Path, model: nn.Module, samples: Tensor, about: dict) -> Scores:
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}  # tied ones once under each name
    to.write_bytes(save(tensors, metadata={"format": "pt", "parle": json.dumps(about)}))  # readable for others; save_file is not
    return _with_weights(to, model)


def _with_weights(file: Path, model: nn.Module) -> Scores:
    again = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def scores(samples: Tensor) -> Tensor:
        model.load_state_dict(load_file(file))
        try:
            return model(samples)
        finally:
            model.load_state_dict(again)

    return scores


def _write_folder(to: Path, model: nn.Module, samples: Tensor, about: dict) -> Scores:
    to.mkdir()
    return _write_weights(to / "model.safetensors", model, samples, about)


def _add_to_folder(to: Path, run: RunFolder, settings: config.RunConfig, about: dict) -> None:
    """What stands beside the weights in the form hf."""
    (to / "config.json").write_text(json.dumps(about, indent=1) + "\n")
    (to / "README.md").write_text(card.page(about))
    shutil.copyfile(run.config, to / "training.yaml")
    if settings.data.normalize == "zca":
        mean, matrix = zca(_before_whitening(settings).train)
        (to / "preprocessing.safetensors").write_bytes(save({"mean": mean, "matrix": matrix.contiguous()}))


def _write_program(to: Path, model: nn.Module, samples: Tensor, about: dict) -> Scores:
    torch.export.save(_program(model, samples), to, extra_files={"config.json": json.dumps(about)})
    again = torch.export.load(to).module()
    return lambda samples: again(samples)


def _write_onnx(to: Path, model: nn.Module, samples: Tensor, about: dict) -> Scores:
    try:
        from onnx.reference import ReferenceEvaluator

        importlib.import_module("onnxscript")  # which torch needs
    except ImportError:
        raise SetupError('ONNX needs the packages onnx and onnxscript: pip install "parle-sgd[onnx]"') from None
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > LARGEST_ONNX:
        raise ConfigError("An ONNX file holds 2 GB at most, and this network is larger. Use --format pt2 or safetensors.")
    names = {"input_names": ["samples"], "output_names": ["scores"]}
    made = torch.onnx.export(_program(model, samples), (samples,), dynamo=True, verbose=False, **names)
    made.model.metadata_props["parle"] = json.dumps(about)
    made.save(to)
    evaluator = ReferenceEvaluator(str(to))
    return lambda samples: torch.from_numpy(evaluator.run(None, {"samples": samples.numpy()})[0])


def _program(model: nn.Module, samples: Tensor) -> torch.export.ExportedProgram:
    """The network as a graph that takes batches of any size, and of a text windows of any length that it can take."""
    sizes = {0: torch.export.Dim("batch", min=1)} | ({1: torch.export.Dim.AUTO} if samples.dim() == 2 else {})
    return torch.export.export(model, (samples,), dynamic_shapes=(sizes,))


WRITERS = {"safetensors": _write_weights, "pt2": _write_program, "onnx": _write_onnx, "hf": _write_folder}


@torch.no_grad()
def _largest_difference(name: str, form: str, model: nn.Module, read_back: Scores, samples: Tensor) -> float:
    """How far the scores that were read back differ, of several samples and of one; ConfigError where that is more than rounding."""
    largest = 0.0
    for batch in (samples, samples[:1]):
        expected = model(batch)
        largest = max(largest, float((read_back(batch) - expected).abs().max() / expected.abs().max().clamp_min(1.0)))
    if not largest <= TOLERANCE:
        raise ConfigError(
            f"As {form}, model `{name}` gives other scores than in the run; they differ by {largest:.2g} of the largest. Its forward pass may do other things "
            "for other inputs, which a graph cannot. Use --format safetensors or hf."
        )
    return largest


# Places


def _require_free(to: Path, form: str, overwrite: bool) -> None:
    """ConfigError where something is in the way that is not to be replaced, or must not be."""
    if not to.exists():
        return
    if form == "hf" and to.is_dir():
        foreign = sorted(path.name for path in to.iterdir() if path.name not in FILES)
        if foreign:
            raise ConfigError(f"{to} holds other things than an export, such as {foreign[0]}, which would be lost. Give another --to.")
        if not any(to.iterdir()):
            return
    elif to.is_dir() or form == "hf":
        raise ConfigError(
            f"{to} is a {'folder' if to.is_dir() else 'file'}, where a {'folder' if form == 'hf' else 'file'} is to be written. Give another --to."
        )
    if not overwrite:
        raise ConfigError(f"{to} exists. Give another --to, or replace it with --overwrite.")


@contextlib.contextmanager
def _written_aside(to: Path) -> Iterator[Path]:
    """A path beside the target, which takes its place at the end of `with`; after an error everything is as it was."""
    place = to.absolute()
    aside, before = (place.with_name(f".{place.stem}.{word}{place.suffix}") for word in ("part", "before"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove(aside)
        with _quiet_torch():
            yield aside
        if place.is_dir():  # a folder cannot be replaced in one step
            _remove(before)
            os.rename(place, before)
        os.replace(aside, place)
        _remove(before)
    except ParleError:
        raise
    except OSError as error:
        raise SetupError(f"{to} cannot be written: {error.strerror or first_line(error)}. Give a --to that you may write to.") from error
    except Exception as error:  # torch's exporters raise whatever they meet
        raise ConfigError(f"The network cannot be exported so: {first_line(error)}. Use --format safetensors or hf, which store weights alone.") from error
    finally:
        with contextlib.suppress(OSError):
            _remove(aside)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Inside `with`, torch's exporters keep to themselves what a user cannot change, graphs that they print among it."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
