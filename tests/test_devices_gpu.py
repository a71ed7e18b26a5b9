"""What needs a GPU: the same trajectory as on the CPU, and replicas on several devices."""

import pytest
import torch

from parle import config, plans, settling
from parle.training import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def trained(device: str, steps: int = 60) -> Training:
    settings = config.load(sets=(f"device={device}", "model=mlp"))
    found = plans.load_data(settings)
    training = Training(plans.plan_for(settling.settled(settings, len(found.train)), found))
    training.advance(steps)
    return training


def test_replicas_on_one_gpu_repeat_themselves():
    assert torch.equal(trained("cuda:0").replicas.params, trained("cuda:0").replicas.params)


def test_replicas_on_a_gpu_learn_as_on_the_cpu():
    errors = [trained(device, 300).record(None)["consensus"]["error_pct"] for device in ("cpu", "cuda:0")]
    assert max(errors) < 8


def test_replicas_on_two_gpus_end_where_those_on_one_do():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    torch.testing.assert_close(trained("cuda:0,cuda:1").replicas.params, trained("cuda:0").replicas.params)
