"""Random numbers that belong to one replica and one purpose, derived from a single root seed.

Dropout draws from torch's global generator. A replica's stream is put in its place while that replica steps, so what it
draws does not depend on how many replicas share its process, nor on the order in which they step.
"""

import random
import zlib

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, purpose: str, *indices: int) -> int:
    """A seed for one purpose of one replica (and epoch, ...): independent of all others with the same root.

    >>> derive(0, "order", 1) == derive(0, "order", 1), derive(0, "order", 1) == derive(0, "order", 2)
    (True, False)
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *indices))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)  # torch takes 63 bits


class RandomStream:
    """Python's, NumPy's and torch's global generators as one replica sees them: `with stream:` puts them in place.

    On CUDA the device's generator belongs to it too. With `host=False` it is only that one: where replicas on several
    devices step in threads, the generators of the host are everybody's.

    >>> stream = RandomStream(7)
    >>> with stream:
    ...     first = torch.rand(1)
    >>> with RandomStream(7):
    ...     torch.equal(torch.rand(1), first)
    True
    """

    def __init__(self, seed: int, device: torch.device | None = None, host: bool = True):
        self._host, self._cuda = host, device if device is not None and device.type == "cuda" else None
        outside = self._capture()
        if host:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
        if self._cuda is not None:
            with torch.cuda.device(self._cuda):
                torch.cuda.manual_seed(seed)
        self._state = self._capture()
        self._restore(outside)

    @classmethod
    def of_now(cls, device: torch.device | None = None) -> "RandomStream":
        """A stream that is where the global generators are now."""
        stream = cls(0, device)
        stream._state = stream._capture()
        return stream

    def put_in_place(self, state: dict) -> None:
        """Let the global generators go on from a state, for good."""
        self.load_state_dict(state)
        self._restore(self._state)

    def __enter__(self) -> "RandomStream":
        self._outside = self._capture()
        self._restore(self._state)
        return self

    def __exit__(self, *_) -> None:
        self._state = self._capture()
        self._restore(self._outside)

    def state_dict(self) -> dict:
        """The state of the stream as plain values and tensors, for a checkpoint."""
        state = dict(self._state)
        if self._host:
            name, keys, *rest = state["numpy"]
            state["numpy"] = (name, torch.from_numpy(keys.astype(np.int64)), *rest)
        return state

    def load_state_dict(self, state: dict) -> None:
        """Go on drawing from a checkpoint."""
        state = dict(state)
        if self._host:
            name, keys, *rest = state["numpy"]
            state["numpy"] = (name, keys.numpy().astype(np.uint32), *rest)
        self._state = state

    def _capture(self) -> dict[str, Tensor | tuple]:
        state = {}
        if self._host:
            state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
        if self._cuda is not None:
            state["cuda"] = torch.cuda.get_rng_state(self._cuda)
        return state

    def _restore(self, state: dict[str, Tensor | tuple]) -> None:
        if self._host:
            random.setstate(state["python"])
            np.random.set_state(state["numpy"])
            torch.set_rng_state(state["torch"])
        if self._cuda is not None:
            torch.cuda.set_rng_state(state["cuda"], self._cuda)
