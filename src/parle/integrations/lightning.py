"""Lightning: `Trainer(strategy="parle")`, once this module has been imported, or `Trainer(strategy=ParleStrategy(algorithm))`."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from parle.algorithm import Algorithm
from parle.algorithms import Parle
from parle.communicators import Communicator
from parle.errors import ConfigError, SetupError
from parle.integrations import conclude, couple, own_memory, require_plain, solution_state
from parle.replicas import Replicas
from parle.saving import load, save

try:
    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
    from lightning.pytorch.trainer.states import TrainerFn
except ImportError:
    raise SetupError("parle.integrations.lightning needs lightning. Install it with `pip install 'parle-sgd[lightning]'`.") from None

EXTENSION = ".parle"  # of the folder beside a checkpoint file


class ParleStrategy(DDPStrategy):
    """Every process trains a replica, and no gradients are averaged; processes are started as by "ddp".

    Validation during `fit` is of the solution, and so are the weights in checkpoints; what each process needs to go on as if never
    stopped is in the folder `NAME.ckpt.parle` beside. After `fit`, the module is the solution, on its own and the same in every process.
    For `loader`, `start` and `optimizer_state` see `couple` and `parle.join`; `replicas` are what it has returned, while it fits; other
    options are those of DDPStrategy. Raises ConfigError for what has no meaning without DistributedDataParallel.

    >>> import parle
    >>> ParleStrategy(parle.LocalSGD(period=10)).algorithm.period
    10
    """

    strategy_name = "parle"

    def __init__(
        self,
        algorithm: Algorithm | None = None,
        communicator: Communicator | None = None,
        *,
        loader: Iterable | None = None,
        start: str = "common",
        optimizer_state: str = "keep",
        **options: Any,
    ):
        super().__init__(**options)
        idle = [*self._ddp_kwargs, *(name for name in options if name.startswith("ddp_") or name == "model_averaging_period")]
        if idle:
            raise ConfigError(f"ParleStrategy does not wrap the module in DistributedDataParallel, so {idle[0]} would have no effect. Leave it away.")
        self.algorithm, self.communicator, self.loader = algorithm or Parle(), communicator, loader
        self.replicas: Replicas | None = None
        self._policies = dict(start=start, optimizer_state=optimizer_state)
        self._shown, self._showing, self._loaded = ExitStack(), False, ""
        self._closure_hook = None

    def configure_ddp(self) -> None:
        """Leave the module as it is: nothing averages gradients."""

    def setup(self, trainer: Trainer) -> None:
        """As before, then couple the module with those of the other processes."""
        if self._layer_sync:
            raise ConfigError("sync_batchnorm=True makes all processes wait for each other at every step. Leave it away; see `loader` of ParleStrategy.")
        super().setup(trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if len(self.optimizers) != 1:
            raise ConfigError(f"ParleStrategy couples one optimizer, but configure_optimizers gave {len(self.optimizers)}. Give one, with parameter groups.")
        require_plain(self.model)
        self._closure_hook = self.optimizers[0].register_step_pre_hook(_closure_first)
        self.replicas = couple(self.lightning_module, self.optimizers[0], self.algorithm, self.communicator, self.loader, **self._policies)

    def on_train_start(self) -> None:
        """Let Lightning ask whether the processes are told to end (SIGTERM) before rounds, where they meet anyway, and not at every step."""
        loop = self.lightning_module.trainer.fit_loop.epoch_loop
        if ask := getattr(type(loop), "_broadcast_sigterm_tensor", None):
            loop._broadcast_sigterm_tensor = lambda: ask(loop) if self.replicas.steps_to_round <= 1 else None

    def on_validation_start(self) -> None:
        """Validate the solution."""
        if self.replicas:
            self._shown.enter_context(self.replicas.solution(self.loader))
            self._showing = True

    def on_validation_end(self) -> None:
        """Go on with the replica."""
        self._shown.close()
        self._showing = False

    def on_train_end(self) -> None:
        """Leave the solution in the module."""
        replicas, self.replicas = self.replicas, None
        conclude(replicas, self.loader)

    def on_exception(self, exception: BaseException) -> None:
        """Uncouple; nobody waits for the others."""
        self.on_validation_end()
        if self.replicas:
            self.replicas.__exit__(type(exception), exception, None)
            self.replicas = None
        super().on_exception(exception)

    def teardown(self) -> None:
        """As before."""
        if self._closure_hook:
            self._closure_hook.remove()
        if self.replicas:  # nothing was left to train
            self.replicas.close()
            self.replicas = None
        super().teardown()

    # Checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The state of the solution."""
        if self.replicas is None or self._showing:
            return own_memory(super().lightning_module_state_dict())
        return solution_state(self.replicas, self.loader)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write the file in the first process, and a folder beside it in every process."""
        if self.replicas and "optimizer_states" in checkpoint:
            with self._set_aside():
                save(_beside(filepath), self.replicas, step=checkpoint["global_step"], precision=self.precision_plugin)
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove both."""
        super().remove_checkpoint(filepath)
        if self.local_rank == 0:
            shutil.rmtree(_beside(filepath), ignore_errors=True)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file, and remember where it lies."""
        self._loaded = checkpoint_path
        return super().load_checkpoint(checkpoint_path, weights_only)

    def load_optimizer_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the folder of this process: its replica, and its optimizer."""
        folder = _beside(self._loaded)
        if not folder.is_dir():
            raise ConfigError(
                f"The checkpoint {self._loaded} has no folder {folder.name} beside it, so fit cannot go on from it: it was not written by a ParleStrategy "
                "during fit, or was moved alone. Load its weights with load_from_checkpoint, and begin anew."
            )
        step = load(folder, self.replicas, precision=self.precision_plugin)["step"]
        if step != checkpoint["global_step"]:
            raise ConfigError(f"{self._loaded} is of step {checkpoint['global_step']}, but the folder beside it of step {step}. Use an earlier checkpoint.")

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Inside `with`, the module is the replica, although the solution is being validated: callbacks save before that ends."""
        showing = self._showing
        self.on_validation_end()
        yield
        if showing:
            self.on_validation_start()


def _closure_first(_: Optimizer, args: tuple, options: dict) -> tuple[tuple, dict]:
    """Compute the gradients, for which Lightning gives the optimizer a closure, before the force is added to them."""
    for closure in (*args[1:], *options.values()):
        with torch.enable_grad():
            closure()
    return args[:1], {}


def _beside(filepath: str | Path) -> Path:
    if "://" in str(filepath):
        raise ConfigError(f"Checkpoints of replicas are written to a local folder, which {filepath} is not. Choose one with dirpath or default_root_dir.")
    path = Path(filepath).resolve()  # what last.ckpt may be a link to
    return path.with_name(path.name + EXTENSION)


StrategyRegistry.register(ParleStrategy.strategy_name, ParleStrategy, description="Replicas that speak rarely: Parle with its own defaults", override=True)
