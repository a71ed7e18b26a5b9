"""The `Trainer` of transformers, whose processes are replicas.

    trainer = ParleTrainer(model=model, args=arguments, train_dataset=data, algorithm=parle.Parle(period=25))

A callback cannot do it: the Trainer wraps the model in DistributedDataParallel where callbacks have no say.
"""

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from parle.algorithm import Algorithm
from parle.communicators import Communicator
from parle.errors import ConfigError, SetupError
from parle.integrations import FOLDER, conclude, couple, require_plain, solution_state
from parle.replicas import Replicas
from parle.saving import load, save

try:
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError:
    raise SetupError("parle.integrations.hugging_face needs transformers and accelerate. Install them with `pip install 'parle-sgd[hf]'`.") from None


class Coupled:
    """What makes a `Trainer` train replicas; put it before your own: `class MyTrainer(Coupled, Seq2SeqTrainer)`.

    Evaluations and checkpoints are of the solution. After `train()`, the model is the solution, on its own and the same in every process.
    For `loader`, `start` and `optimizer_state` see `couple` and `parle.join`; `replicas` are what it has returned, while it trains.
    """

    replicas: Replicas | None = None

    def __init__(
        self,
        *args: Any,
        algorithm: Algorithm,
        communicator: Communicator | None = None,
        loader: Iterable | None = None,
        start: str = "common",
        optimizer_state: str = "keep",
        **options: Any,
    ):
        self._algorithm, self._communicator, self._loader = algorithm, communicator, loader
        self._policies = dict(start=start, optimizer_state=optimizer_state)
        self._resumed: Path | None = None
        super().__init__(*args, **options)
        self.args = copy.copy(self.args)
        self.args.average_tokens_across_devices = False  # which would let all processes wait for each other at every step
        self.callback_handler.callbacks.insert(0, _Ends(self))  # before others, which shall see the solution at the end

    def create_accelerator_and_postprocess(self) -> None:
        """As before, but the model is not wrapped in DistributedDataParallel."""
        super().create_accelerator_and_postprocess()
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or self.args.deepspeed or self.args.fsdp:
            raise ConfigError("DeepSpeed and FSDP divide the model among the processes; replicas are whole. Leave deepspeed and fsdp away.")
        self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)

    def begin(self) -> None:
        """Couple the model with those of the other processes, or go on from a checkpoint."""
        require_plain(self.model_wrapped)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # whose hooks are called; accelerate's own only passes on
        self.replicas = couple(self.model, optimizer, self._algorithm, self._communicator, self._loader, **self._policies)
        if self._resumed:
            load(self._resumed, self.replicas, **self._scaler())
            self._resumed = None

    def finish(self) -> None:
        """Leave the solution in the model."""
        replicas, self.replicas = self.replicas, None
        if replicas:
            conclude(replicas, self._loader)

    def train(self, *args: Any, **options: Any) -> Any:
        """As before; the model is the solution then."""
        try:
            return super().train(*args, **options)
        except BaseException as error:
            if self.replicas:
                self.replicas.__exit__(type(error), error, None)  # nobody waits for the others
                self.replicas = None
            raise

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """As before, of the solution."""
        if self.replicas is None:
            return super().evaluation_loop(*args, **options)
        with self.replicas.solution(self._loader):
            return super().evaluation_loop(*args, **options)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.replicas and state_dict is None:
            state_dict = solution_state(self.replicas, self._loader)
        super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if not self.args.save_only_model:
            save(Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", FOLDER), self.replicas, **self._scaler())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._resumed = Path(resume_from_checkpoint, FOLDER)

    def _load_best_model(self) -> None:
        self.finish()
        super()._load_best_model()

    def _scaler(self) -> dict:
        return {"scaler": self.accelerator.scaler} if self.accelerator.scaler is not None else {}


class ParleTrainer(Coupled, Trainer):
    """A `Trainer` whose processes are replicas: `algorithm` says of what, everything else is as with `Trainer`.

    >>> import tempfile, torch, parle
    >>> from transformers import TrainingArguments
    >>> arguments = TrainingArguments(tempfile.mkdtemp(), report_to=[], use_cpu=True)
    >>> ParleTrainer(model=torch.nn.Linear(2, 1), args=arguments, algorithm=parle.Parle(period=5)).replicas is None
    True
    """


class _Ends(TrainerCallback):
    """Couples when all is prepared, and finishes at the end."""

    def __init__(self, trainer: Coupled):
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.begin()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._trainer.finish()
