"""Residual networks for images of 32 x 32."""

from torch import Tensor, nn
from torch.nn import functional

from parle.models.shapes import channels_of


class _Wide(nn.Module):
    """BatchNorm, ReLU and convolution, twice, with the activations before the weights."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        return kept + self.conv2(self.dropout(functional.relu(self.norm2(self.conv1(active)))))


class _Plain(nn.Module):
    """Convolution and BatchNorm, twice; the shortcut passes over places and fills new channels with zeros (option A of He et al.)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        kept = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return functional.relu(kept + self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))))


def _wide_resnet(name: str, depth: int, width: int, shape: tuple[int, ...], classes: int, dropout: float) -> nn.Module:
    blocks, inputs, layers = (depth - 4) // 6, 16, [nn.Conv2d(channels_of(name, shape, 32), 16, 3, padding=1, bias=False)]
    for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        for block in range(blocks):
            layers.append(_Wide(inputs, outputs, stride if block == 0 else 1, dropout))
            inputs = outputs
    return _started(nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(inputs, classes)))


def wrn_28_10(shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, dropout: float = 0.3) -> nn.Module:
    """The wide residual network WRN-28-10 of the Parle paper for CIFAR: 36,479,194 parameters."""
    return _wide_resnet("wrn-28-10", 28, 10, shape, classes, dropout)


def wrn_16_4(shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, dropout: float = 0.4) -> nn.Module:
    """The wide residual network WRN-16-4 of the Parle paper for SVHN: 2,748,890 parameters."""
    return _wide_resnet("wrn-16-4", 16, 4, shape, classes, dropout)


def resnet20(shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> nn.Module:
    """The residual network of 20 layers for CIFAR-10, with which Parallel Restarted SGD was tried: 269,722 parameters."""
    inputs, layers = 16, [nn.Conv2d(channels_of("resnet20", shape, 32), 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(3):
            layers.append(_Plain(inputs, outputs, stride if block == 0 else 1))
            inputs = outputs
    return _started(nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, classes)))


def _started(network: nn.Module) -> nn.Module:
    """He's random start of the convolutions, which goes with ReLU."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
