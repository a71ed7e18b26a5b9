"""From the catalogue: what holds for every algorithm, the same checks that third parties can run on theirs."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from problems import advance, coupled

import parle
from parle import testing

FIXED = ("data-parallel", "server-sgd", "one-shot", "ema")  # periods that nobody chooses
SHORT = {name: {} if name in FIXED else {"period": 3} for name in parle.ALGORITHMS}

# ALGORITHMS, section 0.1: vectors kept per replica beside the optimizer's, and whether a round may close without all
TABLE = {
    "parle": (["params", "x", "z", "m"], False),
    "parle-dev2017": (["params", "x", "z", "m"], False),
    "parle-release2018": (["params", "x", "z", "m"], False),
    "parle-moving": (["params", "x", "z", "m"], True),
    "entropy-sgd": (["params", "z", "m"], True),  # its x is the reference
    "elastic-sgd": (["params"], True),
    "local-sgd": (["params"], True),
    "easgd": (["params", "d"], True),
    "data-parallel": (["params", "gradient"], False),
    "server-sgd": (["params", "gradient"], True),
    "sgd": (["params"], True),
    "fedprox": (["params"], True),
    "one-shot": (["params"], True),
    "slowmo": (["params"], True),
    "bmuf": (["params"], True),
    "diloco": (["params"], True),
    "streaming-diloco": (["params"], False),
    "lookahead": (["params"], True),
    "ema": (["params", "average"], True),
    "swa": (["params", "average"], True),
}
SHARED = {"slowmo": "u", "bmuf": "d", "diloco": "v", "streaming-diloco": "v"}  # kept once, beside the reference


@pytest.fixture(params=parle.ALGORITHMS)
def name(request):
    return request.param


def test_it_passes_the_checks_for_every_algorithm(name):
    testing.check_algorithm(parle.ALGORITHMS[name](**SHORT[name]))


def test_it_passes_the_checks_with_schedules(name):
    kind = parle.ALGORITHMS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    scheduled = {key: parle.Scoping(f.default, batches=5, floor=f.metadata["clip"]) for key, f in fields.items() if f.metadata.get("clip")}
    scheduled |= {key: parle.Steps(0.05, at=(2,), factor=2.0) for key, f in fields.items() if f.metadata.get("rate")}
    scheduled |= {key: parle.Harmonic(2) for key, f in fields.items() if f.metadata.get("tail")}
    testing.check_algorithm(kind(**SHORT[name], **scheduled))


def test_it_keeps_the_vectors_that_the_table_lists_and_no_more(name):
    kind = parle.ALGORITHMS[name]
    vectors, partial = TABLE[name]
    replicas = coupled(kind(), replicas=1 if kind.single else 3)
    assert replicas.names() == vectors
    assert list(replicas.center.shared.tensors()) == ["reference", *SHARED.get(name, "")]
    assert kind.partial_rounds is partial


def test_replicas_that_adopt_the_reference_agree_after_a_round():
    replicas = advance(coupled(parle.LocalSGD(period=3), own_starts=True), 3)
    assert replicas.round == 1
    assert torch.equal(replicas.params, replicas.reference.expand(3, -1))


def test_replicas_gather_around_their_reference_as_the_springs_tighten(name):
    if name not in ("parle", "parle-dev2017", "parle-release2018", "parle-moving", "elastic-sgd"):
        pytest.skip("has no springs between replicas")
    kind = parle.ALGORITHMS[name]
    spread = {}
    for rho in (100.0, 0.5):
        replicas = advance(coupled(kind(period=3, rho=rho), own_starts=True), 150)
        spread[rho] = (replicas.params - replicas.params.mean(0)).norm().item()
    assert spread[0.5] < 0.5 * spread[100.0]


def test_an_algorithm_of_one_replica_refuses_two():
    with pytest.raises(parle.ConfigError, match="trains one replica, got 2"):
        coupled(parle.EntropySGD(), replicas=2)


def test_the_checks_find_an_algorithm_that_keeps_state_outside_its_vectors():
    @dataclass(frozen=True)
    class Forgetful(parle.Algorithm):
        def track(self, r):
            object.__setattr__(self, "_count", getattr(self, "_count", 0) + 1)

        def force(self, r):
            return r.params * 0.01 * getattr(self, "_count", 0)

    with pytest.raises(AssertionError, match=r"other numbers|differs after resuming"):
        testing.check_algorithm(Forgetful(period=3))


def test_the_checks_find_an_algorithm_that_looks_at_one_replica_only():
    @dataclass(frozen=True)
    class Favourite(parle.Algorithm):
        def force(self, r):
            return (r.params - r.params[:1]).add_(r.params[:1])[:1].expand_as(r.params)

    with pytest.raises(AssertionError, match="force gives other numbers for a block"):
        testing.check_algorithm(Favourite(period=3))


def test_a_vector_must_be_added_in_start():
    @dataclass(frozen=True)
    class Careless(parle.Algorithm):
        def track(self, r):
            r.average = r.params

    with pytest.raises(AttributeError, match=r"was not added in start\(\)"):
        advance(coupled(Careless()), 1)
