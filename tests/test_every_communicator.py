"""From InProcess to its wrappers: the same trajectory, exact counts, and what codes and delays promise."""

import copy

import pytest
import torch
from problems import SIZE, advance, coupled

import parle
from parle import testing
from parle.communicators.codecs import BF16, Int4, Int8, TopK, codec

SEVERAL = [parle.LocalSGD(period=3), parle.Parle(period=3), parle.ElasticSGD(), parle.DataParallel()]
CODECS = ["bf16", "int8", "int8(64)", "int4", "topk(0.1)"]


@pytest.mark.parametrize("make", [parle.InProcess, lambda: parle.Metered(parle.InProcess())], ids=["InProcess", "Metered"])
def test_it_passes_the_checks_for_every_communicator(make):
    testing.check_communicator(make)


def test_the_checks_find_a_communicator_that_favours_a_replica():
    class Biased(parle.InProcess):
        def mean(self, vectors):
            return next(iter(vectors)).clone()

    with pytest.raises(AssertionError, match=r"differs? from that of InProcess|the parameters differ"):
        testing.check_communicator(Biased)


def test_the_checks_find_an_algorithm_that_is_not_elementwise_although_it_says_so():
    class Normed(parle.LocalSGD):
        def propose(self, r):
            change = r.params - r.reference
            return change / change.norm(dim=1, keepdim=True)

    with pytest.raises(AssertionError, match="elementwise must be False"):
        testing.check_algorithm(Normed(period=4))


def test_a_mean_is_formed_in_float32_or_wider():
    tiny = [torch.full((1,), value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0, 1.0, 1.0)]
    communicator = parle.InProcess()
    communicator.open(None, tiny, common=True)
    assert communicator.mean(tiny).item() == 52.0  # bfloat16 alone would stay at 256 / 5
    assert communicator.mean(tiny).dtype == torch.bfloat16


def test_metered_counts_what_each_replica_hands_over():
    meter = parle.Metered(parle.InProcess())
    advance(coupled(parle.LocalSGD(period=3), communicator=meter, optimizer_state="average"), 7)
    assert meter.rounds == 2
    assert meter.bytes_sent == 3 * meter.bytes_sent_per_replica == 2 * meter.bytes_in_round
    assert meter.bytes_sent_per_replica == 2 * 2 * SIZE * 8  # parameters and momentum, in float64
    assert meter.seconds_exchanged > 0


@pytest.mark.parametrize("text", CODECS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 7, 256, 1000])
def test_a_code_is_of_known_length_and_near_the_vector(text, kind, size):
    vector = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(kind)
    its = codec(text)
    payload = its.encode(vector)
    assert payload.dtype == torch.uint8 and len(payload) == len(its.encode(torch.zeros(size, dtype=kind)))
    decoded = its.decode(payload, size)
    assert decoded.shape == (size,) and decoded.dtype == torch.float32
    error = (decoded - vector.float()).abs().max() / vector.float().abs().max()
    assert error < {"bf16": 2**-8, "int8": 1 / 254 + 1e-6, "int4": 1 / 14 + 1e-6, "topk": 1.0}[text.partition("(")[0]] + (0 if size > 1 else 1e-6)


def test_the_code_of_zeros_and_of_tiny_numbers_is_finite():
    for its in (BF16(), Int8(), Int4(), TopK()):
        for vector in (torch.zeros(300), torch.full((300,), 1e-42), torch.full((300,), 3e38)):
            assert torch.isfinite(its.decode(its.encode(vector), 300)).all()


def test_top_k_keeps_the_largest():
    vector = torch.tensor([0.1, -5.0, 3.0, 0.0, 0.2, -0.3, 4.0, 0.1, 0.0, 0.0])
    assert TopK(0.3).decode(TopK(0.3).encode(vector), 10).tolist() == [0, -5, 3, 0, 0, 0, 4, 0, 0, 0]


@pytest.mark.parametrize("text", ["int3", "topk(2)", "topk(x)", "int8(1.5)", "bf16(3)"])
def test_a_code_that_is_none_is_refused(text):
    with pytest.raises(parle.ConfigError, match=r"topk|codec"):
        codec(text)


@pytest.mark.parametrize("text", ["bf16", "int8", "int4", "topk(0.3)"])
@pytest.mark.parametrize(
    "algorithm", [parle.LocalSGD(period=3), parle.Parle(period=3), parle.ElasticSGD(), parle.DataParallel()], ids=lambda a: type(a).__name__
)
def test_compressed_replicas_stay_near_and_what_is_sent_is_counted(text, algorithm):
    meter = parle.Metered(parle.Compressed(parle.InProcess(), text))
    got, plain = advance(coupled(algorithm, communicator=meter), 30), advance(coupled(algorithm), 30)
    payload = len(codec(text).encode(torch.zeros(SIZE)))
    assert meter.bytes_sent_per_replica == meter.rounds * payload < meter.rounds * SIZE * 8
    moved = (plain.reference - coupled(algorithm).reference).norm()
    assert (got.reference - plain.reference).norm() < (0.5 if "topk" in text else 0.05) * moved


def test_what_was_sent_and_what_is_kept_add_up_to_all_that_was_proposed():
    class Watched(parle.Compressed):
        proposed = torch.zeros(SIZE, dtype=torch.float64)

        def _encoded(self, proposals, part, present):
            proposals = list(proposals)
            self.proposed = self.proposed + sum(proposals) / len(proposals)
            return super()._encoded(proposals, part, present)

    watched = Watched(parle.InProcess(), "topk(0.2)")
    replicas = coupled(parle.LocalSGD(period=2), communicator=watched)
    first = replicas.reference.clone()
    advance(replicas, 20)
    kept = sum(watched.state_dict()["kept"]) / 3
    assert kept.norm() > 0.01
    torch.testing.assert_close(replicas.reference - first + kept, watched.proposed, atol=1e-6, rtol=0)


def test_a_code_that_does_not_pay_is_refused():
    class Long(BF16):
        def encode(self, vector):
            return vector.to(torch.float64).view(torch.uint8)

    with pytest.raises(parle.ConfigError, match="does not pay here"):
        coupled(parle.LocalSGD(), communicator=parle.Compressed(parle.InProcess(), Long()))


def test_compressed_goes_around_the_transport():
    with pytest.raises(parle.ConfigError, match=r"Metered\(Compressed\(...\)\)"):
        parle.Compressed(parle.Metered(parle.InProcess()), "int8")
    with pytest.raises(parle.ConfigError, match="needs a codec"):
        parle.Compressed(parle.InProcess(), 8)


@pytest.mark.parametrize("name", [name for name in parle.ALGORITHMS if name not in ("local-sgd", "streaming-diloco")])
def test_an_algorithm_without_a_delayed_form_cannot_overlap(name):
    with pytest.raises(parle.ConfigError, match="has no delayed form"):
        kind = parle.ALGORITHMS[name]
        coupled(kind(), 1 if kind.single else 3, communicator=parle.Overlapped(parle.InProcess(), 2))


def test_a_delay_must_end_before_the_next_round():
    with pytest.raises(parle.ConfigError, match="A delay of 6 steps does not end before the next round, 5 steps later"):
        coupled(parle.LocalSGD(period=5), communicator=parle.Overlapped(parle.InProcess(), 6))
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(parle.ConfigError, match="needs a whole number of steps"):
            parle.Overlapped(parle.InProcess(), wrong)


@pytest.mark.parametrize("cut", [4, 6, 7, 9])
def test_a_state_saved_while_a_round_is_under_way_goes_on_to_the_same_bits(cut):
    def fresh():
        return coupled(parle.LocalSGD(period=4), communicator=parle.Overlapped(parle.InProcess(), 3))

    whole, half, rest = advance(fresh(), 14), advance(fresh(), cut), fresh()
    rest.load_state_dict(copy.deepcopy(half.state_dict()))
    for optimizer, its in zip(rest.optimizers, half.optimizers, strict=True):
        optimizer.load_state_dict(copy.deepcopy(its.state_dict()))
    advance(rest, 14 - cut, first=cut)
    advance(half, 14 - cut, first=cut)  # saving has not disturbed it
    assert torch.equal(whole.params, rest.params) and torch.equal(whole.params, half.params)
    for replicas in (whole, rest):
        replicas.finish()
        assert (replicas.params == replicas.reference).all()
    assert torch.equal(whole.reference, rest.reference)


def test_long_vectors_meet_in_parts_to_the_same_bits(monkeypatch):
    from parle import meeting

    for algorithm in SEVERAL:
        whole = advance(coupled(algorithm), 10)
        monkeypatch.setattr(meeting, "PART", 2)
        monkeypatch.setattr(meeting, "LONG", 4)
        parts = advance(coupled(algorithm), 10)
        monkeypatch.undo()
        assert len(parts._parts) == 4 and len(whole._parts) == 1
        assert torch.equal(whole.params, parts.params) and torch.equal(whole.reference, parts.reference)


def test_the_estimate_of_points_does_not_drift_in_half_precision():
    compressed = parle.Compressed(parle.InProcess(), "int8")
    center = type("Center", (), {"algorithm": parle.ElasticSGD(), "merge": lambda self, mean, count, part, size: mean, "shared": None})()
    starts = [torch.ones(200, dtype=torch.bfloat16)] * 3
    center.shared = type("Shared", (), {"reference": starts[0]})()
    compressed.open(center, starts, common=True)
    for round in range(300):
        generator = torch.Generator().manual_seed(round)
        points = [1 + 0.1 * torch.randn(200, generator=generator) for _ in range(3)]
        compressed.exchange(point.to(torch.bfloat16) for point in points)
    state = compressed.state_dict()
    assert (state["mean"] - sum(state["kept"]) / 3).abs().max() < 1e-5


def test_loading_a_state_leaves_a_round_that_was_under_way():
    def fresh():
        return coupled(parle.LocalSGD(period=4), communicator=parle.Overlapped(parle.InProcess(), 3))

    clean, used = fresh(), advance(fresh(), 5)
    start = copy.deepcopy(clean.state_dict())
    used.load_state_dict(start)
    for optimizer in used.optimizers:
        optimizer.state.clear()
    assert torch.equal(advance(clean, 9).params, advance(used, 9).params)
