"""Shorter proposals, with what was left out added to the next one."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from parle.communicators.codecs import Codec, codec
from parle.communicators.communicator import Communicator, Wrapped, require_present
from parle.errors import ConfigError
from parle.vectors import WHOLE, Part


class Compressed(Wrapped):
    """Any communicator, whose rounds send encoded proposals: `bf16`, `int8`, `int4`, `topk(0.01)`, or a Codec of your own.

        e_a <- e_a + d_a,  m_a = C(e_a),  e_a <- e_a - m_a,  mean_a m_a      a proposal d_a that is a change: error feedback
        m_a = C(p_a - h_a),  h_a <- h_a + m_a,  h <- h + mean_a m_a,  h      a proposal p_a that is a point (EF21)

    Every process sends its m_a to every other one, so all of them form the same mean, and form it alike on every transport.
    That pays as long as n - 1 encoded vectors are shorter than the 2 (n - 1)/n plain ones of a ring: with one replica a process,
    bf16 for up to 3 processes, int8 up to 7, int4 up to 14, topk(0.01) up to 99. Where it does not pay, `open` raises ConfigError. The algorithm
    says whether it proposes changes or points; e_a begins at 0, h_a and h at the first reference, and all of them are state. Only
    rounds are encoded: what a policy averages beside them (momentum, buffers) goes as it is, and is counted so.

    >>> import parle
    >>> Compressed(parle.InProcess(), "int8").codec
    int8(256)
    """

    def __init__(self, inner: Communicator, codec_or_name: Codec | str):
        super().__init__(inner)
        if isinstance(inner, Wrapped):
            raise ConfigError(f"Compressed goes around the transport itself, not around {type(inner).__name__}: {type(inner).__name__}(Compressed(...)).")
        self.codec = codec(codec_or_name) if isinstance(codec_or_name, str) else codec_or_name
        if not isinstance(self.codec, Codec):
            raise ConfigError(f"Compressed needs a codec such as 'int8', got {codec_or_name!r}.")

    def open(self, center, starts: Iterable[Tensor], common: bool, terms: dict | None = None) -> Tensor:
        starts = list(starts)
        self.inner.encoded = True
        reference = self.inner.open(center, starts, common, (terms or {}) | {"codec": repr(self.codec)})
        self._points = center is not None and center.algorithm.proposes_points
        wide = torch.promote_types(reference.dtype, torch.float32)  # what is rounded away here would never be sent
        self._kept = [reference.to(start.device, wide, copy=True) if self._points else torch.zeros_like(start, dtype=wide) for start in starts]
        self._mean = reference.to(wide, copy=True) if self._points else None
        payload = self.codec.encode(starts[0])
        shorter, plain = self.inner.cost_of_gather(payload), self.inner.cost_of_mean(starts[0])
        if shorter >= plain > 0:
            self.inner.close()
            raise ConfigError(
                f"{self.codec} does not pay here: {self.size} replicas would send {shorter:,} bytes a round and process instead of {plain:,}. "
                "Use a shorter codec, such as int8 or topk(0.01), or none."
            )
        return reference

    def begin(self, proposals: Iterable[Tensor], part: Part = WHOLE) -> Callable[[], Tensor]:
        present: list[int] = []
        encoded = list(self._encoded(proposals, part, present))
        if part.first:
            self._present = self.size - self.inner.check_round(len(encoded) - len(present))
            require_present(self._present)
        gathered = self.inner.begin_gather(encoded)
        return lambda: self.center.merge(self._decoded(gathered(), part), self._present, part, self.size)

    def _decoded(self, payloads: list[Tensor], part: Part) -> Tensor:
        """The mean of what all replicas have sent."""
        reference = self.center.shared.reference[part.place]
        mean = torch.zeros(len(reference), device=reference.device, dtype=torch.promote_types(reference.dtype, torch.float32))
        for payload in payloads:
            mean.add_(self.codec.decode(payload.to(reference.device), len(mean)))
        mean.div_(self.size if self._points else self._present)
        return (self._mean[part.place].add_(mean) if self._points else mean).to(reference.dtype, copy=True)

    def _encoded(self, proposals: Iterable[Tensor | None], part: Part, present: list[int]) -> Iterator[Tensor]:
        """What each replica sends, zeros where it proposes nothing; `present` grows with every one that does."""
        for row, (proposal, kept) in enumerate(zip(proposals, (kept[part.place] for kept in self._kept), strict=True)):
            if proposal is None:
                yield self.codec.encode(torch.zeros_like(kept))
                continue
            present.append(row)
            change = proposal - kept if self._points else kept.add_(proposal)
            payload = self.codec.encode(change)
            kept.add_(self.codec.decode(payload, len(change)), alpha=1 if self._points else -1)
            yield payload

    def state_dict(self) -> dict:
        """e_a, or h_a and h, for the local replicas."""
        return {"kept": [kept.clone() for kept in self._kept], "mean": None if self._mean is None else self._mean.clone(), "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a checkpoint."""
        for kept, its in zip(self._kept, state["kept"], strict=True):
            kept.copy_(its)
        if self._mean is not None:
            self._mean.copy_(state["mean"])
        self.inner.load_state_dict(state["inner"])
