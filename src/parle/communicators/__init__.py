"""How the proposals of a round come together: one file per transport."""

from parle.communicators.communicator import Communicator
from parle.communicators.compressed import Compressed
from parle.communicators.in_process import InProcess
from parle.communicators.metered import Metered
from parle.communicators.mpi import MPI
from parle.communicators.overlapped import Overlapped
from parle.communicators.torch_distributed import TorchDistributed

__all__ = ["MPI", "Communicator", "Compressed", "InProcess", "Metered", "Overlapped", "TorchDistributed"]
