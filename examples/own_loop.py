"""An ordinary training script that one added line couples to its copies in other processes.

torchrun --standalone --nproc-per-node 3 examples/own_loop.py
"""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import parle
from parle.data import load

data = load("digits")
images, labels = data.train.take(slice(None))
test_images, test_labels = data.test.take(slice(None))

torch.manual_seed(int(os.environ.get("RANK", 0)))  # every process draws an order of its own
loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True, drop_last=True)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10 * len(loader))

replicas = parle.join(model, optimizer, parle.Parle(period=25), parle.TorchDistributed())  # the only new line

for _ in range(10):
    for inputs, targets in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()  # every 25th step also meets the other replicas
        schedule.step()

replicas.finish()  # a last round, since the run ends between two
with replicas.solution(loader):  # the consensus, BatchNorm estimated again
    wrong = (model(test_images).argmax(1) != test_labels).float().mean()
if replicas.communicator.rank == 0:
    print(f"test error of the consensus of {replicas.communicator.size}: {100 * wrong:.2f} %")
replicas.close()
