"""A network that says when its first step has been taken: what start_up.py lets `parle train` train."""

import os
import time

from torch import Tensor, nn


class Told(nn.Module):
    """One layer; its second forward pass in training writes the time to the file that the environment names."""

    def __init__(self):
        super().__init__()
        self.net, self.passes = nn.Linear(64, 10), 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += self.training
        if self.passes == 2 and not os.path.exists(os.environ["PARLE_FIRST_STEP"]):
            with open(os.environ["PARLE_FIRST_STEP"], "w") as file:
                file.write(repr(time.time()))
        return self.net(images.flatten(1))


def network() -> nn.Module:
    return Told()
