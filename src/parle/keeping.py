"""The checkpoints of a run, as one of its processes sees them: when one is due, which are kept, and which one to go back to."""

import hashlib
import json
import time
from pathlib import Path

from parle import checkpoint
from parle.config import RunConfig, amount
from parle.errors import ConfigError
from parle.launch import World
from parle.resizing import resized
from parle.runs import RunFolder
from parle.serving import Serving
from parle.together import Ended, Together
from parle.training import Training

WRITE, BEST = 1, 2


def fingerprint(settings: RunConfig) -> str:
    """A short text that differs where a state of one run is of no use to another; numbers of replicas and processes do not count."""
    its = settings.model_dump(include={"model", "data", "batch_size", "seed", "start", "buffers", "optimizer_state"})
    its |= {key: settings.algorithm.get(key) for key in ("name", "variant")}
    return hashlib.sha256(json.dumps(its, sort_keys=True).encode()).hexdigest()[:16]


class Keeper:
    """Writes and finds the checkpoints of one process of a run; the first process decides when."""

    def __init__(self, run: RunFolder, world: World, together: Together, training: Training | Serving, settings: RunConfig):
        self.run, self.world, self.together, self.training = run, world, together, training
        self.folder = run.checkpoints_of(world.rank)
        self.every, self.keep, self.wants_best = settings.checkpoint.every, settings.checkpoint.keep, settings.checkpoint.best
        self._writer = checkpoint.Writer(fingerprint(settings))
        self._best: tuple[float, Path | None] = (float("inf"), None)
        self._begin_again()

    def due(self, record: dict | None) -> int:
        """Whether to WRITE a checkpoint now, which may be the BEST; asked of every process, and answered by the first."""
        if self.world.rank:
            return 0
        best = bool(record) and self.wants_best and record["consensus"]["error_pct"] < self._best[0]
        if best:
            self._best = (record["consensus"]["error_pct"], self._best[1])
        return (WRITE | BEST) if best else WRITE * (self._is_time(record))

    def _is_time(self, record: dict | None) -> bool:
        if self.every is None:
            return record is not None
        number, unit = amount(self.every)
        now = {"rounds": self.training.round, "epochs": self.training.step / self.training.plan.batches}.get(unit, time.monotonic())
        return now - self._since[unit] >= number

    def _begin_again(self) -> None:
        step = self.training.step
        self._since = {"rounds": self.training.round, "epochs": step / self.training.plan.batches, "seconds": time.monotonic()}

    def write(self, kind: int = WRITE) -> None:
        """Write the state in the background, unless the reference is not finite, which all processes see alike."""
        self._begin_again()
        state = {"processes": self.world.size, "replicas": self.training.plan.replicas, "training": self.training.state_dict()}
        path = self.folder / f"step-{self.training.step:08d}"
        if not _is_sound(state["training"]):
            return
        if kind & BEST:
            self._best = (self._best[0], path)
        error, best = self._best
        self._writer.write(path, state | {"best": [error, best and best.name]}, self.keep, best)

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        self._writer.flush()

    def newest(self) -> Path | None:
        """The newest checkpoint of this process that is on the disk."""
        self.flush()
        return next(reversed(checkpoint.all_in(self.folder)), None)

    def go_back(self) -> int:
        """Put the training where the newest checkpoint left it that every process can use; the number of replicas of then.

        A run that was stopped before its first checkpoint begins anew. Raises ConfigError where there are some, and none can be used.
        """
        problem = ""
        names = self.together.texts(" ".join(path.name for path in checkpoint.all_in(self.run.checkpoints)))[0].split()
        for name in sorted(names, reverse=True):
            try:
                replicas = self.together.agree(lambda name=name: self._restore(name))
            except (ConfigError, Ended) as error:
                problem = str(error)
                if self.world.rank == 0:
                    self.run.event("checkpoint refused", folder=name, reason=problem)
                continue
            if self.world.rank == 0:
                self.run.forget_after(self.training.step)
            self._begin_again()
            return replicas
        if not names:
            if self.world.rank == 0:
                self.run.forget_after(0)
            return self.training.plan.replicas
        error = ConfigError(f"The run {self.run.path} cannot be continued: {problem}")
        error.everywhere = True
        raise error

    def _restore(self, name: str) -> int:
        """Take this process's own state, or, where the run was trained in other processes, what concerns it of the states of all."""
        mine = self._read(self.folder / name) if (self.folder / name).is_dir() else None
        replicas = self.training.plan.replicas
        if mine and (mine["processes"], mine["replicas"]) == (self.world.size, replicas):
            self.training.load_state_dict(mine["training"])
        elif mine and isinstance(self.training, Serving):
            raise ConfigError(f"A server goes on with the {mine['replicas']} replicas that it had, got {replicas}.")
        else:
            first = self._read(self.run.checkpoints / name)
            others = [self._read(self.run.checkpoints_of(rank) / name) for rank in range(1, first["processes"])]
            mine, replicas = first, resized([its["training"] for its in (first, *others)], self.training)
        error, best = mine["best"]
        self._best = (error, best and self.folder / best)
        return replicas

    def _read(self, folder: Path) -> dict:
        return checkpoint.read(folder, self._writer.fingerprint)


def _is_sound(state: dict) -> bool:
    """Whether the reference is finite, and with it, of one replica alone, the replica; others begin anew from it where they are not."""
    if "replicas" not in state:  # a server's, which refuses what is not finite
        return True
    its = state["replicas"]
    return checkpoint.is_finite(its["shared"]) and (state["plan"] > 1 or checkpoint.is_finite(its["vectors"]))
