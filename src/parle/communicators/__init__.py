"""How the proposals of a round come together: one file per transport."""

from parle.communicators.communicator import Communicator
from parle.communicators.in_process import InProcess
from parle.communicators.metered import Metered

__all__ = ["Communicator", "InProcess", "Metered"]
