"""From InProcess to its wrappers: the same trajectory, exact counts."""

import pytest
import torch
from problems import SIZE, advance, coupled

import parle
from parle import testing


@pytest.mark.parametrize("make", [parle.InProcess, lambda: parle.Metered(parle.InProcess())], ids=["InProcess", "Metered"])
def test_it_passes_the_checks_for_every_communicator(make):
    testing.check_communicator(make)


def test_the_checks_find_a_communicator_that_favours_a_replica():
    class Biased(parle.InProcess):
        def mean(self, vectors):
            return next(iter(vectors)).clone()

    with pytest.raises(AssertionError, match=r"differs? from that of InProcess|the parameters differ"):
        testing.check_communicator(Biased)


def test_a_mean_is_formed_in_float32_or_wider():
    tiny = [torch.full((1,), value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0, 1.0, 1.0)]
    communicator = parle.InProcess()
    communicator.open(None, tiny, common=True)
    assert communicator.mean(tiny).item() == 52.0  # bfloat16 alone would stay at 256 / 5
    assert communicator.mean(tiny).dtype == torch.bfloat16


def test_metered_counts_what_each_replica_hands_over():
    meter = parle.Metered(parle.InProcess())
    replicas = coupled(parle.LocalSGD(period=3))
    replicas.close()
    models = replicas.models
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in models]
    advance(parle.join(models, optimizers, parle.LocalSGD(period=3), meter, optimizer_state="average"), 7)
    assert meter.rounds == 2
    assert meter.bytes_sent_per_replica == 2 * 2 * SIZE * 8  # parameters and momentum, in float64
    assert meter.seconds_exchanged > 0
