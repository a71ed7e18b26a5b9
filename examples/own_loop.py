"""An ordinary training script with three replicas: one line couples them.

python examples/own_loop.py
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import parle
from parle.data import load

data = load("digits")
images, labels = data.train.take(slice(None))
test_images, test_labels = data.test.take(slice(None))


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))


torch.manual_seed(0)
torch.set_num_threads(1)
loaders = [DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True, drop_last=True) for _ in range(3)]
models = [network() for _ in range(3)]
optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True) for model in models]

replicas = parle.join(models, optimizers, parle.Parle(period=25))  # the only new line

for _ in range(10):
    for batches in zip(*loaders, strict=True):
        for model, optimizer, (inputs, targets) in zip(models, optimizers, batches, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()  # every 25th step also meets the other replicas

replicas.finish()  # a last round, since the run ends between two
with replicas.solution(loaders[0]) as model:  # the consensus, BatchNorm estimated again
    wrong = (model(test_images).argmax(1) != test_labels).float().mean()
print(f"test error of the consensus: {100 * wrong:.2f} %")
