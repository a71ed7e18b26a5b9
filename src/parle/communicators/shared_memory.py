"""The proposals of all replicas in memory that the processes of one machine share."""

import contextlib
import mmap
import os
import re
import uuid
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path("/dev/shm")
LINE = 64  # bytes that a core writes at a time, at whose multiples every row begins


class SharedRows:
    """A row of `length` numbers for every replica of all processes: each process writes its own rows, and reads all of them.

    There are two sheets of rows, written in turn. Whoever begins a round has read the one before, so what is written into a
    sheet while some still read the other one is never what they read.
    """

    def __init__(self, length: int, dtype: torch.dtype):
        self.length, self.dtype = length, dtype
        self._stride = -(-length * dtype.itemsize // LINE) * LINE // dtype.itemsize
        self._file: Path | None = None
        self._blocks: list[Tensor] = []  # of each process, shape (2, its rows, length)
        self._sheet = 1

    def offer(self, rows: int) -> str:
        """Make room for the rows of this process; what the others need to find it, empty where that cannot be."""
        name = f"parle-{uuid.uuid4().hex}"
        try:
            machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            descriptor = os.open(FOLDER / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError:
            return ""
        self._file = FOLDER / name
        try:
            os.posix_fallocate(descriptor, 0, 2 * rows * self._stride * self.dtype.itemsize)  # later, a lack of memory would be a signal
        except OSError:
            self.withdraw()
            return ""
        finally:
            os.close(descriptor)
        return f"{machine} {name}"

    def attach(self, offers: list[str], counts: list[int]) -> bool:
        """Map the rows of all processes, of which each has so many; whether that could be done."""
        if len({offer.partition(" ")[0] for offer in offers}) > 1 or not all(offers):
            return False
        try:
            self._blocks = [self._mapped(offer.partition(" ")[2], count) for offer, count in zip(offers, counts, strict=True)]
        except OSError:
            return False
        return True

    def withdraw(self) -> None:
        """Take the name of this process's rows away; they stay as long as somebody has mapped them."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()
            self._file = None

    def _mapped(self, name: str, rows: int) -> Tensor:
        if not re.fullmatch(r"parle-[0-9a-f]{32}", name):
            raise OSError(f"{name[:60]} is not a name of ours")
        descriptor = os.open(FOLDER / name, os.O_RDWR | os.O_NOFOLLOW)
        try:
            found, size = os.fstat(descriptor), 2 * rows * self._stride * self.dtype.itemsize
            if found.st_uid != os.geteuid() or found.st_size != size:
                raise OSError(f"{name} is not what was offered")
            return torch.frombuffer(mmap.mmap(descriptor, size), dtype=self.dtype).view(2, rows, self._stride)[..., : self.length]
        finally:
            os.close(descriptor)

    def turn(self) -> None:
        """From now on, write to the other sheet."""
        self._sheet = 1 - self._sheet

    def own(self, rank: int, place: slice) -> list[Tensor]:
        """The part of this process's rows that the next round reads."""
        return list(self._blocks[rank][self._sheet, :, place])

    def all(self, place: slice) -> list[Tensor]:
        """The part of all rows of this sheet, in the order of the replicas."""
        return [row for block in self._blocks for row in block[self._sheet, :, place]]
