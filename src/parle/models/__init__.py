"""Networks that the command line can train: built-in ones by name, anybody's by `module:attribute`."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from parle.buffers import preserved
from parle.errors import ConfigError, did_you_mean, first_line
from parle.models.allcnn import allcnn, allcnn_c, small_cnn
from parle.models.char_gpt import char_gpt
from parle.models.lenet import lenet, lenet_dev
from parle.models.mlp import mlp
from parle.models.resnet import resnet20, wrn_16_4, wrn_28_10
from parle.named import is_reference, resolve

MODELS = {
    "lenet": lenet,
    "lenet-dev": lenet_dev,
    "mlp": mlp,
    "small-cnn": small_cnn,
    "allcnn": allcnn,
    "allcnn-c": allcnn_c,
    "resnet20": resnet20,
    "wrn-16-4": wrn_16_4,
    "wrn-28-10": wrn_28_10,
    "char-gpt": char_gpt,
}
OPTIMIZERS = {"char-gpt": "adamw"}  # of networks that are not trained by SGD

Build = Callable[[], nn.Module]


def builder(name: str, shape: tuple[int, ...], classes: int, options: dict | None = None) -> Build:
    """A function that builds the named network for inputs of that shape (channels, height, width) and so many classes.

    A function of your own is called with those of the arguments `shape` and `classes` that it names, and with the `options`.
    Raises ConfigError where the name leads nowhere, or the network has no such option.
    """
    options = options or {}
    if is_reference(name):
        make = resolve(name, "model")
    elif name in MODELS:
        make = MODELS[name]
    else:
        raise ConfigError(f"`{name}` is not a model. {did_you_mean(name, MODELS)} Your own is given as package.module:function or file.py:function.")
    if not callable(make) or isinstance(make, nn.Module):
        raise ConfigError(f"Model `{name}` is a {type(make).__name__}; give a function or class that builds a new network each time it is called.")

    def build() -> nn.Module:
        try:
            known = inspect.signature(make).parameters
            for option in options.keys() - known.keys():
                others = [key for key in known if key not in ("shape", "classes")]
                raise ConfigError(f"model.options.{option} is not an option of `{name}`. {did_you_mean(option, others) if others else 'It has none.'}")
            model = make(**{key: value for key, value in (("shape", shape), ("classes", classes)) if key in known}, **options)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"Building model `{name}` failed: {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise ConfigError(f"Model `{name}` returned a {type(model).__name__}, expected a torch.nn.Module.")
        return model

    return build


def check_fits(name: str, model: nn.Module, samples: Tensor, labels: Tensor, classes: int) -> None:
    """Raise ConfigError unless the model maps a batch to one number per class and label, in training and in evaluation mode."""
    with preserved(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            outputs = [model.train()(samples), model.eval()(samples)]
        except Exception as error:
            kind = "images" if samples.is_floating_point() else "windows of a text"
            cure = "" if samples.is_floating_point() else ". Use -m char-gpt for a text."
            raise ConfigError(
                f"Model `{name}` cannot take a batch of {len(samples)} {kind} of shape {tuple(samples.shape[1:])}: {first_line(error)}{cure}"
            ) from error
    expected = (classes, *labels.shape[1:])
    for output in outputs:
        if not isinstance(output, Tensor) or output.shape != (len(samples), *expected):
            got = tuple(output.shape[1:]) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ConfigError(f"Model `{name}` returns {got} per sample, expected {expected}: one number for each class of the data.")
