"""From a configuration to a finished run folder. The only reader of the environment."""

import os
import platform
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import parle
from parle import checkpoint, config, data, models
from parle.errors import ConfigError, DivergedError, SetupError
from parle.metrics import Score, score
from parle.runs import RunFolder
from parle.training import Plan, Training


@dataclass(frozen=True)
class Environment:
    """What the environment variables say."""

    data_dir: Path | None
    cache_dir: Path

    @classmethod
    def read(cls) -> "Environment":
        """PARLE_DATA_DIR, and the folder for caches by XDG_CACHE_HOME."""
        folder, cache = os.environ.get("PARLE_DATA_DIR"), os.environ.get("XDG_CACHE_HOME")
        return cls(Path(folder).expanduser() if folder else None, (Path(cache) if cache else Path.home() / ".cache") / "parle")


class Interrupted(Exception):
    """A signal ended the training after a checkpoint was written."""

    def __init__(self, number: int, folder: Path):
        self.exit_code = 128 + number
        super().__init__(f"Interrupted; the checkpoint {folder} was written. Continue with `parle resume {folder.parent.parent}`.")


class Quiet:
    """What a display of the training has to offer; this one shows nothing."""

    def begin(self, title: str, total: int) -> None:
        """A long work of so many parts begins."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """So many parts are done."""

    def end(self) -> None:
        """The work is done, or given up."""

    def caution(self, text: str) -> None:
        """Something that the user should know."""


def load_data(settings: config.RunConfig, show: Quiet | None = None) -> data.Data:
    """The configured data."""
    show, environment, its = show or Quiet(), Environment.read(), settings.data

    def progress(done: int, total: int) -> None:
        if done <= 500:
            show.begin(f"decoding {its.name}", total)
        show.advance(done, total)

    show.begin(f"loading {its.name}", 1)
    try:
        found = data.load(its.name, environment.data_dir, environment.cache_dir, its.image_column, its.label_column, progress)
    finally:
        show.end()
    return data.Data(found.name, found.train.first(its.samples), found.test, found.classes)


def plan_for(settings: config.RunConfig, found: data.Data) -> Plan:
    """The plan of a settled configuration."""
    batches = len(found.train) // settings.batch_size
    steps, schedule, optimizer = config.steps_of(settings, batches), settings.schedule, settings.optimizer
    return Plan(
        model=settings.model.name,
        build=models.builder(settings.model.name, found.shape, found.classes),
        data=found,
        algorithm=config.algorithm_for(settings, batches),
        replicas=settings.replicas,
        steps=steps,
        batch_size=settings.batch_size,
        seed=settings.seed,
        devices=devices(settings.device),
        optimizer=optimizer.name,
        lr=optimizer.lr,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        milestones=config.milestones(settings, batches),
        factor=schedule.factor,
        start=settings.start,
        buffers=settings.buffers,
        optimizer_state=settings.optimizer_state,
        evaluate_every=max(1, round(settings.evaluation.every * batches)),
        refresh=settings.evaluation.refresh,
    )


def devices(names: str) -> tuple[torch.device, ...]:
    """The devices that a text names, separated by commas; `auto` is every CUDA device, or the CPU. SetupError where one is missing."""
    if names == "auto":
        count = torch.cuda.device_count()
        return tuple(torch.device("cuda", index) for index in range(count)) or (torch.device("cpu"),)
    found = []
    for name in names.split(","):
        try:
            device = torch.device(name.strip())
        except RuntimeError:
            raise ConfigError(f"`{name}` is not a device. Use auto, cpu, cuda, or several such as cuda:0,cuda:1.") from None
        if device.type == "cuda":
            device = torch.device("cuda", device.index or 0)
        try:
            torch.zeros(1, device=device).item()
        except Exception:
            raise SetupError(
                f"Device {name} is not usable on this machine, which has {torch.cuda.device_count()} CUDA devices. Use --device cpu or auto."
            ) from None
        found.append(device)
    if len({device.type for device in found}) > 1:
        raise ConfigError(f"--device {names} mixes kinds of devices. Use one kind, such as cuda:0,cuda:1.")
    return tuple(found)


def train(settings: config.RunConfig, path: Path, overwrite: bool = False, resume: bool = False, show: Quiet | None = None) -> dict:
    """Train as configured and fill the run folder; the summary that `--json` prints.

    Raises Interrupted after a checkpoint when a signal asks for the end, DivergedError when the training fails.
    """
    show, run = show or Quiet(), RunFolder.existing(path) if resume else RunFolder(path)
    if resume and run.is_done():
        return run.result()
    if not resume:
        run.require_free(overwrite)  # before any work
    found = load_data(settings, show)
    settings = config.settled(settings, len(found.train))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    training = Training(plan_for(settings, found))
    if resume:
        _go_back(run, training)
    else:
        run.create(overwrite)
        run.write_text(run.config, config.to_yaml(settings))
        run.write_json(run.environment, describe_machine())
        _save(run, training)
    if caution := training.caution():
        run.event("caution", text=caution)
        show.caution(caution)
    try:
        record = _run(run, training, settings, show)
        with training.solution() as model:
            run.save_model(model.state_dict())
    except Exception as error:
        _fail(run, error)
        raise
    result = summary(path, settings, training, record)
    run.write_json(run.status, {"state": "done", "exit_code": 0, "result": result})
    run.event("done")
    return result


def _fail(run: RunFolder, error: Exception) -> None:
    """Note that a training failed; of one that diverged, name the last finite state as well."""
    if isinstance(error, Interrupted):
        return
    if isinstance(error, DivergedError):
        error.args = (f"{error} The last finite state is {checkpoint.all_in(run.checkpoints)[-1]}.",)
    run.write_json(run.status, {"state": "failed", "exit_code": getattr(error, "exit_code", 1), "message": str(error)})
    run.event("failed", message=str(error))


def _run(run: RunFolder, training: Training, settings: config.RunConfig, show: Quiet) -> dict:
    """Follow the training to its end, or to a signal; the last record."""
    asked: list[int] = []
    run.write_json(run.status, {"state": "running", "pid": os.getpid()})
    run.event("start", step=training.step)
    show.begin(f"{settings.algorithm['name']} x {settings.replicas}", training.plan.steps)
    record, note = {}, ""
    try:
        with _signals(asked):
            for told in training.run():
                if isinstance(told, dict):
                    record = told
                    run.append(run.metrics, record)
                    note = f"error {record['consensus']['error_pct']:.2f} %"
                    _save(run, training)
                show.advance(training.step, training.plan.steps, note)
                if asked and training.step < training.plan.steps:
                    _save(run, training)
                    run.write_json(run.status, {"state": "interrupted", "exit_code": 128 + asked[0], "step": training.step})
                    run.event("interrupted", step=training.step)
                    raise Interrupted(asked[0], checkpoint.all_in(run.checkpoints)[-1])
    finally:
        show.end()
    return record


class _signals:
    """Inside `with`, the first Ctrl-C or SIGTERM is only noted; the second one ends at once."""

    def __init__(self, asked: list[int]):
        self.asked, self.before = asked, {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        self.asked.append(number)
        signal.signal(number, signal.SIG_DFL)


def _save(run: RunFolder, training: Training) -> None:
    state = training.state_dict()
    if checkpoint.is_finite(state):
        checkpoint.write(run.checkpoints / f"step-{training.step:08d}", state)
        checkpoint.prune(run.checkpoints, keep=2)


def _go_back(run: RunFolder, training: Training) -> None:
    """Put the training where the newest usable checkpoint of the run left it."""
    problem = "it has no checkpoint"
    for folder in reversed(checkpoint.all_in(run.checkpoints)):
        try:
            training.load_state_dict(checkpoint.read(folder))
        except ConfigError as error:
            problem = str(error)
            run.event("checkpoint refused", folder=folder.name, reason=problem)
            continue
        run.forget_after(training.step)
        return
    raise ConfigError(f"The run {run.path} cannot be continued: {problem}")


def summary(path: Path, settings: config.RunConfig, training: Training, record: dict) -> dict:
    """What `--json` prints about a finished run."""
    return {
        "run": str(path),
        "algorithm": settings.algorithm["name"],
        "variant": settings.algorithm.get("variant"),
        "model": settings.model.name,
        "data": settings.data.name,
        "replicas": settings.replicas,
        "epochs": settings.epochs,
        "seed": settings.seed,
        "error_pct": record["consensus"]["error_pct"],
        "loss": record["consensus"]["loss"],
        "replica_error_pct": [its["error_pct"] for its in record["replicas"]],
        "seconds": record["seconds"],
        "images_per_second": record["images_per_second"],
        "steps": record["step"],
        "rounds": record["round"],
        "gradient_evaluations": record["gradient_evaluations"],
        "bytes_sent_per_replica": record["bytes_sent_per_replica"],
        "params": training.replicas.layout.size,
        "exit_code": 0,
    }


def evaluate(path: Path, data_name: str | None = None, show: Quiet | None = None) -> dict:
    """The test error and loss of a finished run's solution, on its own data or on another of the same shape."""
    run = RunFolder.existing(path)
    settings = config.load(run.config)
    if data_name:
        settings = settings.model_copy(update={"data": config.DataConfig(name=data_name)})
    found = load_data(settings, show)
    model = models.builder(settings.model.name, found.shape, found.classes)()
    models.check_fits(settings.model.name, model, found.test.take(slice(0, 2))[0], found.classes)
    try:
        model.load_state_dict(run.load_model())
    except RuntimeError as error:
        raise ConfigError(f"The solution of {path} does not fit the model {settings.model.name}: {' '.join(str(error).split())[:200]}") from error
    result: Score = score(model, data.in_turn(found.test))
    return {"run": str(path), "data": settings.data.name, "samples": len(found.test), **vars(result)}


def describe_machine() -> dict:
    """Versions and hardware, for env.json."""
    return {
        "parle": parle.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": ["parle", *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
