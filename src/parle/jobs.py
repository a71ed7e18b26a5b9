"""From a configuration to a finished run folder, in one process or several."""

import contextlib
import functools
import os
import platform
import signal
from pathlib import Path

import torch

from parle import checkpoint, config, data, fast, launch, processes, settling
from parle.errors import ConfigError, DivergedError, ParleError, ReplicaLost, SetupError
from parle.keeping import Keeper
from parle.launch import World
from parle.loggers import Loggers
from parle.plans import Quiet, flat, load_data, plan_for
from parle.reports import page, story
from parle.runs import RunFolder
from parle.servers import Seat
from parle.serving import Serving, carry_out
from parle.together import Ended, Together
from parle.training import Plan, Training

TRIES = 5  # starts from one checkpoint, after which a lost process is no accident


def train(settings: config.RunConfig, path: Path, overwrite: bool = False, resume: bool = False, show: Quiet | None = None) -> dict | None:
    """Train as configured and fill the run folder; the summary that `--json` prints, in the first process of several.

    Raises Ended after a checkpoint when a signal asks for the end, DivergedError when the training fails, ReplicaLost when a
    process was lost. Where nothing has started several processes, `spread` decides whether to start some.
    """
    show, world = show or Quiet(), World.read()
    if world.launcher is None:
        resume = resume or (world.restarts > 0 and RunFolder(path).is_of(world.launch_id))
        run = RunFolder.existing(path) if resume else RunFolder(path)
        if resume and run.is_done():
            return run.result()
        if not resume:
            run.require_free(overwrite)  # before any work
        found = load_data(settings, show)
        settings = settling.served(settling.settled(settings, len(found.train)))
        settings = spread(settings, len(found.train), show)
        settings = decide(settings, found, show, settings.replicas if settings.processes else 1, run if resume else None)
        if settings.processes and settings.replicas > 1:
            return _train_in_processes(settings, path, overwrite, resume, show)
        return _Job(settings, path, overwrite, resume, show, world, found).result()
    return _Job(settings, path, overwrite, resume, show, world).result()


def spread(settings: config.RunConfig, samples: int, show: Quiet) -> config.RunConfig:
    """The configuration with `processes` decided: one for each replica where they share several cores and have enough to do."""
    if settings.processes is not None:
        return settings
    if config.at_server(settings):
        return settings.model_copy(update={"processes": False})
    if settings.communicator.elastic and settings.replicas > 1 and hasattr(os, "fork"):
        return settings.model_copy(update={"processes": True})
    pays = settings.replicas > 1 and launch.cores() > 1 and samples >= config.SMALL and (settings.threads is None or bool(settings.fast))
    pays = pays and settings.stepping == "in-turn" and launch.devices(settings.device)[0].type == "cpu" and hasattr(os, "fork")
    if not pays:
        return settings.model_copy(update={"processes": False})
    show.note(f"training in {settings.replicas} processes, one for each replica; --no-processes trains in one")
    ordered = settings.communicator.model_copy(update={"ordered": not settings.communicator.delay})  # the same numbers as in one process
    return settings.model_copy(update={"processes": True, "communicator": ordered})


def decide(settings: config.RunConfig, found: data.Data, show: Quiet, processes: int, run: RunFolder | None = None) -> config.RunConfig:
    """The configuration with what `fast` asks for: measured, or as in a run that goes on."""
    if settings.fast is True and run:
        return fast.as_in(settings, config.load(run.config))
    return fast.decided(settings, found, show, settings.threads or (launch.threads_of(processes) if processes > 1 else None))


def _train_in_processes(settings: config.RunConfig, path: Path, overwrite: bool, resume: bool, show: Quiet) -> dict:
    launch.begin_launch()
    run, elastic, text = RunFolder(path), settings.communicator.elastic, config.to_yaml(settings)
    steps: list[str] = []  # the checkpoint that each start goes back to
    while True:
        try:
            return processes.run(settings.replicas, _child, (text, str(path), overwrite, resume, show), impatient=elastic)
        except ReplicaLost as error:
            steps.append(max((its.name for its in checkpoint.all_in(run.checkpoints)), default=""))
            if elastic and len(steps[-TRIES:]) - len(set(steps[-TRIES:])) < TRIES - 1:
                show.note(f"{error} All start again from {steps[-1] or 'the beginning'}.")
                if run.is_of(World.read().launch_id):  # else it was lost before it had begun
                    run.event("lost", message=str(error), checkpoint=steps[-1])
                    resume = True
                continue
            _note_failure(run, error)
            raise ReplicaLost(f"{error} Continue from the last checkpoint with `parle resume {path}`.") from None
        except ParleError as error:
            _note_failure(run, error)
            raise


def _note_failure(run: RunFolder, error: ParleError) -> None:
    """Of the process that writes the folder and may not know why it failed."""
    if run.has_failed():
        run.write_json(run.status, {"state": "failed", "exit_code": error.exit_code, "message": str(error)})


def _carry_out_on_ray(text: str, seat: Seat, first: int) -> None:
    """The work of one replica of a configuration in a process of Ray's."""
    settings = config.from_text(text)
    torch.set_num_threads(settings.threads or launch.threads_of(settings.replicas))
    if settings.keep_memory:
        fast.keep_memory()
    number = seat.first
    training = Training(plan_for(settings, load_data(settings)), mine=range(number, number + 1), joined=False)
    carry_out(training, seat, first)


def _child(text: str, path: str, overwrite: bool, resume: bool, show: Quiet) -> dict | None:
    world = World.read()
    return _Job(config.from_text(text), Path(path), overwrite, resume, show if world.rank == 0 else Quiet(), world).result()


class _Job:
    """One training in one process, which may be one of several."""

    def __init__(self, settings: config.RunConfig, path: Path, overwrite: bool, resume: bool, show: Quiet, world: World, found: data.Data | None = None):
        self.world, self.resume, self.overwrite, self.show = world, resume, overwrite, show if world.rank == 0 else Quiet()
        self._refused: list[int] = []
        self.settings = self._for_world(settings)
        communicator = launch.communicator(world, settings)
        self.together = Together(communicator, launch.devices_of(world, launch.devices(settings.device))[0])
        self.run = RunFolder(Path(self.together.texts(str(path))[0]))
        if world.restarts and not resume and self.together.texts("ours" if self.run.is_of(world.launch_id) else "")[0]:
            self.resume = True  # torchrun has started all again, after one was lost
        found = found or self.together.agree(lambda: load_data(self.settings, self.show))
        self.settings = settling.settled(self.settings, len(found.train))
        if world.size > 1:
            self.together.compare(flat(self.settings) | {"data with digest": found.digest()})
            if self.settings.fast is True:
                self.settings = self._as_the_first_decides(found)
        launch.set_threads(world, self.settings.threads)
        if self.settings.keep_memory:
            fast.keep_memory()
        plan = plan_for(self.settings, found, world)
        if config.at_server(self.settings):
            self.training = self._serving(plan)
        else:
            self.training = self.together.agree(lambda: Training(plan, mine=self._mine(), joined=False))
            self.training.join(communicator)
        self.keeper = Keeper(self.run, self.world, self.together, self.training, self.settings)
        self.loggers = self.together.agree(lambda: Loggers(self.settings.loggers if world.rank == 0 else (), self._warn))

    def _as_the_first_decides(self, found: data.Data) -> config.RunConfig:
        """The configuration with what `fast` asks for, which the first process measures while the others wait."""
        run = self.run if self.resume else None
        decided = self.together.agree(lambda: decide(self.settings, found, self.show, self.world.local_size, run), first_only=True)
        return fast.as_in(self.settings, config.from_text(self.together.texts(config.to_yaml(decided) if decided else "")[0]))

    def _serving(self, plan: Plan) -> Serving:
        """The same plan with replicas at a server; on Ray, every task makes its own from the configuration."""
        if self.world.size > 1:
            raise ConfigError(f"A server starts its replicas by itself, but {self.world.launcher} has started {self.world.size} processes. Start one.")
        server = launch.server(self.settings, self.run.checkpoints / "server")
        if self.settings.communicator.transport != "ray":
            return Serving(plan, server)
        return Serving(plan, server, functools.partial(_carry_out_on_ray, config.to_yaml(self.settings)))

    def _for_world(self, settings: config.RunConfig) -> config.RunConfig:
        size = self.world.size
        if size == 1:
            return settings
        replicas = settings.replicas or size
        if replicas < size:
            error = ConfigError(f"{size} processes cannot share {replicas} replicas. Start at most one process for each replica, or raise -n to {size}.")
            error.everywhere = True
            raise error
        return settings.model_copy(update={"replicas": replicas, "processes": True if self.world.ours else settings.processes})

    def _mine(self) -> range:
        """The numbers of the replicas that this process trains: blocks, as equal as can be."""
        share, more = divmod(self.settings.replicas, self.world.size)
        first = self.world.rank * share + min(self.world.rank, more)
        return range(first, first + share + (self.world.rank < more))

    def result(self) -> dict | None:
        """Train to the end; the summary, in the first process."""
        first, run, training = self.world.rank == 0, self.run, self.training
        if self.resume and self.together.texts("done" if run.is_done() else "")[0]:
            training.close()
            return run.result() if first else None
        if self.resume:
            self._go_back()
        else:
            self.together.agree(self._create, first_only=True)
            self.together.agree(self.keeper.write)
        if self.world.ours and not first:
            processes.print_into(run.logs / f"process-{self.world.rank}.out")
        if first and (caution := training.caution()):
            self._warn(caution)
        self._log("start", pid=os.getpid(), replicas=list(training.mine), threads=torch.get_num_threads(), devices=[str(d) for d in training.plan.devices])
        self.loggers.start(run.path, self.settings.model_dump(), training.step)
        try:
            record = self._follow()
            self.keeper.flush()
            if first:
                run.save_model(training.solved)
            training.close()
        except Exception as error:
            self._fail(error)
            raise
        self._log("done")
        if not first:
            return None
        summed = summary(run.path, self.settings, training, record)
        self._end({"state": "done", "exit_code": 0, "result": summed})
        run.event("done")
        self._report()
        return summed

    def _report(self) -> None:
        """Write the report of a run that is done, which it stays whatever happens here."""
        if not self.settings.report:
            return
        try:
            page.write(story.existing([self.run.path]), self.run.report)
        except SetupError as error:
            self.show.note(f"there is no report.html. {error} Then `parle report {self.run.path}` writes it.")
        except Exception as error:
            self.show.caution(f"The run is done, but its report could not be written ({type(error).__name__}: {error}). Try `parle report {self.run.path}`.")

    def _create(self) -> None:
        self.run.create(self.overwrite)
        self.run.write_text(self.run.config, config.to_yaml(self.settings))
        self.run.write_json(self.run.environment, self._described())

    def _described(self) -> dict:
        return launch.describe_machine() | {"processes": self.world.size, "launcher": self.world.launcher, "launch_id": self.world.launch_id}

    def _follow(self) -> dict:
        """Follow the training to its end, or to a signal; the last record."""
        run, training, first = self.run, self.training, self.world.rank == 0
        asked: list[int] = []

        def note_signal(number: int, _frame) -> None:
            asked.append(number)
            signal.signal(number, signal.SIG_DFL)  # the second one ends at once

        if first:
            run.write_json(run.status, {"state": "running", "pid": os.getpid(), "host": platform.node()})
            run.event("start", step=training.step)
        self.show.begin(f"{self.settings.algorithm['name']} x {self.settings.replicas}", training.plan.steps)
        record, note = {}, ""
        try:
            with launch.signals_to(note_signal):
                for told in training.run():
                    if isinstance(told, dict):
                        record = told
                        self._log("record", **{key: value for key, value in record.items() if key not in ("consensus", "algorithm")})
                        if first:
                            run.append(run.metrics, record)
                            self.loggers.record(record)
                            self._tell_refused(record)
                            note = f"error {record['consensus']['error_pct']:.2f} %"
                    self.show.advance(training.step, training.plan.steps, note)
                    due = self.keeper.due(record if isinstance(told, dict) else None)
                    number, kind = divmod(self.together.greatest(4 * (asked[0] if asked else 0) + due), 4)
                    if number and training.step < training.plan.steps:
                        self._interrupt(number)
                    if kind:
                        self.keeper.write(kind)
        finally:
            self.show.end()
        return record

    def _tell_refused(self, record: dict) -> None:
        """Say which replicas were left out of rounds since the last record."""
        refused = record.get("refused", [])
        for replica, (now, before) in enumerate(zip(refused, [*self._refused, *[0] * len(refused)], strict=False)):
            if now > before and not config.at_server(self.settings):
                self.run.event("refused", replica=replica, rounds=now - before, step=record["step"])
                self.show.caution(
                    f"Replica {replica} had numbers that are not finite, was left out of {now - before} rounds and began anew from the reference."
                )
        self._refused = refused

    def _interrupt(self, number: int) -> None:
        self.keeper.write()
        folder = self.keeper.newest()
        written = f"the checkpoint {folder} was written" if folder else "no checkpoint could be written, since the numbers are not finite"
        if self.world.rank == 0:
            self._end({"state": "interrupted", "exit_code": 128 + number, "step": self.training.step})
            self.run.event("interrupted", step=self.training.step)
        self._log("interrupted", step=self.training.step)
        self.training.close()
        raise Ended(f"Interrupted; {written}. Continue with `parle resume {self.run.path}`.", 128 + number, everywhere=True)

    def _go_back(self) -> None:
        before, now = self.keeper.go_back(), self.training.plan.replicas
        if self.world.rank == 0:
            self._refused = next(reversed(self.run.records()), {}).get("refused", [])
            self.run.write_text(self.run.config, config.to_yaml(self.settings))
            self.run.write_json(self.run.environment, self._described())
            if before != now:
                change = f"{now - before} of them new, from the reference" if now > before else f"{before - now} dropped"
                self.run.event("resized", before=before, now=now)
                self.show.note(f"continues with {now} replicas instead of {before}, {change}")

    def _fail(self, error: Exception) -> None:
        """Note that a training failed; of one that diverged, name the last finite state as well."""
        if isinstance(error, Ended):
            return
        if isinstance(error, DivergedError):
            with contextlib.suppress(ParleError):  # the disk may have refused it
                error.args = (f"{error} The last finite state is {self.keeper.newest()}.",)
        if isinstance(error, ReplicaLost) and not self.world.ours:  # else the parent says so
            error.args = (f"{error} Continue from the last checkpoint: start `-m parle resume {self.run.path}` in the same way.",)
        self._log("failed", message=str(error))
        if self.world.rank == 0:
            self._end({"state": "failed", "exit_code": getattr(error, "exit_code", 1), "message": str(error)})
            self.run.event("failed", message=str(error))

    def _end(self, status: dict) -> None:
        self.run.write_json(self.run.status, status)
        self.loggers.end(status)

    def _warn(self, text: str) -> None:
        self.run.event("caution", text=text)
        self.show.caution(text)

    def _log(self, name: str, **details) -> None:
        if self.world.size > 1:
            self.run.log(self.world.rank, name, **details)


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
        "params": training.size,
        "exit_code": 0,
    }
