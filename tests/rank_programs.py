"""What the processes of a test do: functions of the rank, importable by name."""

import os
import signal
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from problems import Vector, advance, start, torch_sgd
from torch import nn

import parle
from parle import testing

THREE = [range(0, 1), range(1, 2), range(2, 3)]


def check(rank: int, ranges: list[range], options: dict, exact: bool) -> None:
    """The checks for every communicator, with these replicas in each process."""
    testing.check_communicator(lambda: gloo(**options), ranges[rank], exact)


def gloo(group=None, **options) -> parle.TorchDistributed:
    """Over the network, as between machines, unless a test asks for the memory that these processes share."""
    return parle.TorchDistributed(group, **{"shared_memory": False} | options)


def transport_options(how: dict) -> dict:
    """What a test says of the transport itself."""
    return {name: how[name] for name in ("ordered", "shared_memory") if name in how}


def wrapped(communicator: parle.Communicator, how: dict) -> parle.Communicator:
    """The communicator in the wrappers that a test asks for."""
    if "codec" in how:
        communicator = parle.Compressed(communicator, how["codec"])
    if "delay" in how:
        communicator = parle.Overlapped(communicator, how["delay"])
    return parle.Metered(communicator)


def wide(width: int, seed: int = 0, kind: torch.dtype = torch.float32) -> nn.Module:
    """A network of 11 x width parameters and a bit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 2)).to(kind)


def train_wide(replicas: parle.Replicas, steps: int, first: int = 0) -> None:
    """Steps on made-up data that differ between the replicas."""
    for step in range(first, first + steps):
        for number, (model, optimizer) in enumerate(zip(replicas.models, replicas.optimizers, strict=True), replicas.communicator.first):
            inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(1000 * step + number))
            optimizer.zero_grad()
            (model(inputs)[:, 0] - inputs.sum(1)).square().mean().backward()
            optimizer.step()


def trajectory(rank: int | None, algorithm: parle.Algorithm, how: dict, width: int = 40, steps: int = 11, count: int = 1) -> dict:
    """A training of the wide network: `count` replicas in this process, or as many in one process alone where rank is None."""
    models = [wide(width) for _ in range(count)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9) for model in models]
    transport = parle.InProcess() if rank is None else gloo(**transport_options(how))
    replicas = parle.join(models, optimizers, algorithm, wrapped(transport, how), **how.get("policies", {}))
    train_wide(replicas, steps)
    replicas.finish()
    meter = replicas.communicator
    told = {"params": replicas.params.numpy().copy(), "reference": replicas.reference.numpy().copy(), "sent": meter.bytes_sent, "rounds": meter.rounds}
    told |= {"size": replicas.layout.size, "waited": meter.seconds_waited, "exchanged": meter.seconds_exchanged}
    replicas.close()
    return told


def join_unequal(rank: int, what: str) -> None:
    """Process 1 comes with something else than the others."""
    odd = rank == 1
    model = wide(41 if odd and what == "shape" else 40, kind=torch.float64 if odd and what == "dtype" else torch.float32)
    if odd and what == "extra layer":
        model.append(nn.Linear(2, 2))
    if odd and what == "torch version":
        torch.__version__ = "2.6.0"
    if odd and what == "parle version":
        parle.__version__ = "0.0.1"
    if odd and what == "buffer":
        model.register_buffer("scale", torch.ones(3))
    if odd and what == "frozen":
        model[0].weight.requires_grad_(False)
    algorithm = parle.ElasticSGD() if odd and what == "algorithm" else parle.Parle(rho=0.5 if odd and what == "rho" else 1.0)
    communicator = gloo(ordered=odd and what == "ordered")
    if odd and what == "codec":
        communicator = parle.Compressed(communicator, "int8")
    policies = {"buffers": "keep"} if odd and what == "policy" else {}
    parle.join(model, torch_sgd(p for p in model.parameters() if p.requires_grad), algorithm, communicator, **policies)


def join_with_functions(rank: int) -> float:
    """A schedule that is a function of the user's has another address in every process."""
    model = wide(10)
    algorithm = parle.Parle(rho=lambda round: 1.0 / (1 + round))
    return parle.join(model, torch_sgd(model.parameters()), algorithm, gloo()).reference.sum().item()


def lose(rank: int, how: str, width: int, timeout: float, shared_memory: bool = False) -> tuple:
    """Process 1 is lost; what the others know then: the error, and whether all is as it was at the last round."""
    model = wide(width)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=1e-5), parle.LocalSGD(period=4), gloo(timeout=timeout, shared_memory=shared_memory))
    train_wide(replicas, 5)
    if rank == 1:
        if how == "killed between rounds":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        begin = dist.all_reduce

        def all_reduce(*arguments, **options):
            if arguments[0].numel() < 100:  # the news of a round in shared memory, which would be there before any timer
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return begin(*arguments, **options)

        dist.all_reduce = all_reduce
    train_wide(replicas, 2, first=5)
    before, reference = replicas.params.clone(), replicas.reference.clone()
    try:
        train_wide(replicas, 1, first=7)
    except parle.ReplicaLost as error:
        moved = (replicas.params - before).abs().max().item()  # by one step of SGD, and no more
        return str(error), moved, torch.equal(replicas.reference, reference), bool(torch.isfinite(replicas.params).all())
    raise AssertionError("nobody was lost")


def steps_differ(rank: int, metered: bool) -> None:
    """Process 1 comes to its end where process 0 comes to a round."""
    transport = parle.Metered(gloo()) if metered else gloo()
    replicas = parle.join(model := Vector(start()), torch_sgd(model.parameters()), parle.LocalSGD(period=4), transport)
    advance(replicas, 9 - 5 * rank, offset=rank)
    replicas.finish()


def finish_after_a_skipped_step(rank: int) -> tuple[int, float]:
    """Process 1 has skipped a step within a round: it holds the others' last round when it finishes."""
    replicas = parle.join(model := Vector(start()), torch_sgd(model.parameters()), parle.LocalSGD(period=4), gloo())
    advance(replicas, 7 - rank, offset=rank)
    replicas.finish()
    return replicas.round, replicas.params.sum().item()


def lose_under_way(rank: int) -> tuple[str, str, bool]:
    """Process 1 is lost while a round is under way: what process 0 hears when it goes on, and again, and whether its reference moved."""
    model = wide(40)
    transport = parle.Overlapped(gloo(timeout=20), 4)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=1e-4), parle.LocalSGD(period=4), transport)
    train_wide(replicas, 4 - rank)
    if rank == 1:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    reference, heard = replicas.reference.clone(), []
    for attempt in (lambda: transport.mean([reference]), replicas.state_dict):
        try:
            attempt()
        except parle.ReplicaLost as error:
            heard.append(str(error))
    return *heard, torch.equal(reference, replicas.reference)


def kinds_of_numbers(rank: int, kind: torch.dtype) -> tuple[float, list]:
    """Parameters of one dtype, and buffers of several that no transport knows, from the first process."""
    model = wide(10, kind=kind)
    for number, its in enumerate((torch.int16, torch.bool, torch.float16, torch.int64)):
        model.register_buffer(f"buffer{number}", torch.full((3,), 1 - rank).to(its))
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD(period=1), gloo(ordered=True))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float(rank))
    replicas.optimizers[0].step()
    gathered = replicas.communicator.gather([replicas.params[0]])
    return replicas.reference.float().sum().item(), [len(gathered), *(buffer.float().sum().item() for buffer in model.buffers())]


def messages_of_a_round(rank: int) -> tuple[int, int, list[int]]:
    """How many messages rounds and all send, and in which steps rounds fall."""
    replicas = parle.join(model := wide(30), torch_sgd(model.parameters()), parle.LocalSGD(period=3), gloo())
    calls, begin, rounds = [], dist.all_reduce, []
    dist.all_reduce = lambda *arguments, **options: calls.append(1) or begin(*arguments, **options)
    for step in range(10):
        train_wide(replicas, 1, first=step)
        if replicas.round > len(rounds):
            rounds.append(step)
    return len(calls), len(list(model.parameters())), rounds


def policies(rank: int, ranks: int) -> dict:
    """Averaged momentum and averaged BatchNorm statistics after a round, and what start='common' has made equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rank)
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        model[1].running_mean += rank
        model[0].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    replicas = parle.join(model, optimizer, parle.LocalSGD(period=2), parle.Metered(gloo(ordered=True)), buffers="average", optimizer_state="average")
    equal = {"frozen": model[0].bias.tolist(), "start": model[1].running_mean.tolist()}
    for step in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=torch.Generator().manual_seed(10 * step + rank))).square().mean().backward()
        optimizer.step()
    momentum = [optimizer.state[p]["momentum_buffer"].tolist() for p in optimizer.param_groups[0]["params"]]
    return equal | {"momentum": momentum, "mean": model[1].running_mean.tolist(), "params": replicas.params.tolist(), "sent": replicas.communicator.bytes_sent}


def resumed(rank: int, how: dict) -> bool:
    """Whether a run that goes on from a state ends with the bits of one that never stopped."""

    def fresh() -> parle.Replicas:
        model = wide(40)
        transport = wrapped(gloo(**transport_options(how)), how)
        return parle.join(model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), how["algorithm"], transport)

    def ended(replicas: parle.Replicas) -> torch.Tensor:
        replicas.finish()
        vectors = torch.cat([replicas.params[0], replicas.reference])
        replicas.close()
        return vectors

    whole = fresh()
    train_wide(whole, 14)
    expected = ended(whole)
    half = fresh()
    train_wide(half, how["cut"])
    state, momentum = half.state_dict(), half.optimizers[0].state_dict()
    half.close()
    rest = fresh()
    rest.load_state_dict(state)
    rest.optimizers[0].load_state_dict(momentum)
    train_wide(rest, 14 - how["cut"], first=how["cut"])
    return torch.equal(expected, ended(rest))


def poisoned(rank: int, how: dict) -> tuple[list[float], list[int]]:
    """A training in which process 1 comes to a round with NaN: the reference, and how often this process was left out."""
    model = wide(40)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    replicas = parle.join(model, optimizer, parle.LocalSGD(period=3), wrapped(gloo(**transport_options(how)), how), **how["policies"])
    train_wide(replicas, 5)
    if rank == 1:
        replicas.params.fill_(float("nan"))
    train_wide(replicas, 6, first=5)
    replicas.finish()
    reference, counts = replicas.reference.tolist(), replicas.refusals.counts
    replicas.close()
    return reference, counts


def resumed_from_disk(rank: int, names: list[str], folder: str) -> list[str]:
    """The algorithms with which a training of three processes that goes on from files does not end with the bits of one that never stopped."""
    from parle import checkpoint, config, plans, settling
    from parle.training import Training

    torch.set_num_threads(1)
    wrong = []
    for name in names:
        period = () if parle.ALGORITHMS[name].round_before_step or name == "one-shot" else ("algorithm.period=4",)
        settings = config.load(sets=(f"algorithm={name}", "replicas=3", "epochs=1", "model.options.width=16", *period))
        found = plans.load_data(settings)
        plan = plans.plan_for(settling.settled(settings, len(found.train)), found)

        def fresh(plan=plan) -> Training:
            return Training(plan, gloo(ordered=True), mine=range(rank, rank + 1))

        ends = []
        for cut in (None, 11):
            training = fresh()
            if cut:
                training.advance(cut)
                checkpoint.write(Path(folder) / f"{name}-{rank}", training.state_dict())
                training.close()
                training = fresh()
                training.load_state_dict(checkpoint.read(Path(folder) / f"{name}-{rank}"))
            training.advance(20 - training.step)
            training.replicas.finish()
            ends.append(torch.cat([training.replicas.params[0], training.replicas.reference]))
            training.close()
        wrong += [] if torch.equal(*ends) else [name]
    return wrong


def data_parallel_replicas(rank: int) -> dict:
    """Two replicas of two processes each: DistributedDataParallel within a replica, LocalSGD between them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.nn.parallel import DistributedDataParallel

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "data"))
    model = DistributedDataParallel(wide(20, kind=torch.float64), process_group=mesh["data"].get_group())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    replicas = parle.join(model, optimizer, parle.Parle(period=3), gloo(mesh["replica"], ordered=True))
    replica, part = divmod(rank, 2)
    for step in range(9):
        inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(1000 * step + replica), dtype=torch.float64)[part::2]
        optimizer.zero_grad()
        (model(inputs)[:, 0] - inputs.sum(1)).square().mean().backward()
        optimizer.step()
    return {"params": replicas.params[0].numpy().copy(), "reference": replicas.reference.numpy().copy(), "size": replicas.communicator.size}


def join_sharded(rank: int, how: str) -> None:
    """A model sharded by FSDP2, or by what came before it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    mesh = init_device_mesh("cpu", (2,))
    model = fully_shard(wide(20), mesh=mesh) if how == "DTensor" else FullyShardedDataParallel(wide(20), device_id=torch.device("cpu"))
    parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD(), gloo())


def join_again(rank: int, port: int) -> list[float]:
    """One join after another, in groups made as under torchrun: each has to find the others anew."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    found = []
    for seed in range(4):
        replicas = parle.join(model := wide(10, seed), torch_sgd(model.parameters()), parle.LocalSGD(period=2), gloo(timeout=20))
        train_wide(replicas, 2)
        found.append(replicas.reference.sum().item())
        replicas.close()
    return found


def drop_in(rank: int) -> dict:
    """What a training script of today has around its optimizer."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    groups = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[2].parameters(), "lr": 0.02, "weight_decay": 1e-3}]
    optimizer = torch.optim.AdamW(groups, lr=0.05)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.05, 0.02], total_steps=12)
    scaler, hooks = torch.amp.GradScaler("cpu"), []
    optimizer.register_step_post_hook(lambda *_: hooks.append(1))
    replicas = parle.join(model, optimizer, parle.Parle(period=4), gloo())
    data = torch.utils.data.TensorDataset(torch.randn(192, 8, generator=torch.Generator().manual_seed(rank)), torch.arange(192) % 2)
    loader = torch.utils.data.DataLoader(data, batch_size=8, num_workers=1)
    for number, (inputs, labels) in enumerate(loader):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(inputs), labels)
        scaler.scale(loss / 2).backward()
        if number % 2:  # two batches make a step
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            rates.step()
            optimizer.zero_grad()
    replicas.finish()
    return {"round": replicas.round, "hooks": len(hooks), "rate": optimizer.param_groups[0]["lr"], "reference": replicas.reference.numpy().copy()}


def without_the_folder(rank: int, offered: str) -> tuple[bool, list[float]]:
    """A training in which process 1 cannot share memory, or says something else than where its memory is; whether rounds went through it."""
    from parle.communicators import shared_memory

    if rank == 1 and offered == "no folder":
        shared_memory.FOLDER = Path("/nowhere")
    if rank == 1 and offered != "no folder":
        shared_memory.SharedRows.offer = lambda self, rows: offered
    replicas = parle.join(model := wide(40), torch.optim.SGD(model.parameters(), lr=0.02), parle.LocalSGD(period=4), gloo(shared_memory=True))
    train_wide(replicas, 4)
    return replicas.communicator._rows is not None, replicas.reference.tolist()


def on_the_wire(rank: int, how: dict, width: int) -> tuple[int, int]:
    """Bytes that both processes have counted in five rounds, and that the kernel has seen on loopback meanwhile."""

    def seen() -> int:
        dist.barrier()
        line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
        dist.barrier()
        return int(line.split()[9])

    model = wide(width)
    transport = wrapped(gloo(**transport_options(how)), how)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=1e-4), parle.LocalSGD(period=1), transport)
    before = seen()
    train_wide(replicas, 5)
    return transport.bytes_sent * 2, seen() - before


def unequal(rank: int, periods: tuple[int, ...], rounds: int, weigh: str) -> dict:
    """One replica a process, each with a period of its own, on the small problem; a last round of fewer steps."""
    model = Vector(start())
    meter = parle.Metered(gloo(ordered=True))
    replicas = parle.join(model, torch_sgd(model.parameters()), parle.LocalSGD(period=periods, weigh=weigh), meter)
    advance(replicas, periods[rank] * rounds + (2, 1, 0)[rank], offset=rank)
    replicas.finish()
    return {"params": replicas.params[0].numpy().copy(), "steps": replicas.pace.mean_steps, "rounds": replicas.round}


def by_time(rank: int, weigh: str) -> dict:
    """Processes of unequal speed and unequal length that meet by the clock."""
    model = Vector(start())
    replicas = parle.join(model, torch_sgd(model.parameters()), parle.LocalSGD(period=parle.Seconds(0.1), weigh=weigh), gloo())
    steps = 0
    for step in range((120, 12)[rank]):
        time.sleep((0.004, 0.03)[rank])
        advance(replicas, 1, first=step, offset=rank)
        steps += 1
    replicas.finish()
    told = {"params": replicas.params[0].numpy().copy(), "mean": replicas.pace.mean_steps, "steps": steps, "rounds": replicas.round}
    replicas.close()
    return told


def adapting(rank: int) -> list[int]:
    """A period that follows a loss which differs from process to process: the periods that came of it."""
    model, found, step = Vector(start()), [], 0
    replicas = parle.join(model, torch_sgd(model.parameters()), parle.LocalSGD(period=parle.AdaComm(9)), gloo())
    while replicas.round < 5:
        found.append(replicas.steps_to_round)
        for _ in range(found[-1]):
            replicas.report((1.0 + rank) / (1 + step))
            advance(replicas, 1, first=step, offset=rank)
            step += 1
    replicas.finish()
    return found


def adapting_unequally(rank: int) -> dict:
    """A period that adapts, in processes whose loops are of unequal length."""
    model = Vector(start())
    meter = parle.Metered(gloo())
    replicas = parle.join(model, torch_sgd(model.parameters()), parle.LocalSGD(period=parle.QSR(4, alpha=1e-9)), meter)
    advance(replicas, (10, 6)[rank], offset=rank)
    replicas.finish()
    return {"params": replicas.params[0].numpy().copy(), "rounds": replicas.round}


def when_gathered(rank: int) -> list[tuple[str, int]]:
    """What a compressed round that ends three steps late has done after how many steps."""
    done, step = [], 0

    class Told(parle.TorchDistributed):
        def _begin_gather(self, vector):
            wait = super()._begin_gather(vector)
            done.append(("begun", step))
            return lambda: done.append(("waited", step)) or wait()

    model = wide(40)
    replicas = parle.join(model, torch_sgd(model.parameters()), parle.LocalSGD(period=5), wrapped(Told(), {"codec": "int8", "delay": 3}))
    done.clear()  # what join has gathered
    for step in range(1, 11):
        train_wide(replicas, 1, first=step)
    return done
