"""What the processes of the integration tests do: training loops of other people, whose packages are imported inside."""

import contextlib
import functools
import io
import os
import shutil
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import parle

PERIOD, BATCH = 4, 8


def environment(rank: int, count: int = 2) -> None:
    """What torchrun leaves for the frameworks; the group itself is made already."""
    warnings.simplefilter("ignore")  # theirs
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count), NODE_RANK="0", GROUP_RANK="0")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", ACCELERATE_USE_CPU="true")


def network(seed: int = 0) -> nn.Module:
    """With BatchNorm, whose statistics are of each process, and tied weights."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2))
    net[3].weight = net[0].weight
    return net


def samples(count: int) -> TensorDataset:
    """Inputs, and whether their sum is above 0."""
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def flat(tensors) -> torch.Tensor:
    """All of them in one row, in memory of its own."""
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


def vectors(replicas: parle.Replicas) -> list[float]:
    """Everything that a replica's next step depends on, as numbers that can be compared bit for bit."""
    momentum = [value for state in replicas.optimizers[0].state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    rows = [replicas.vector(name) for name in replicas.names()]
    return flat([*rows, replicas.reference, *momentum, *replicas.models[0].buffers()]).tolist()


def by_hand(rank: int, batches: list, steps: int, algorithm: parle.Algorithm, clip: float = 0.0) -> parle.Replicas:
    """The same training with `parle.join` alone: the oracle."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    replicas = parle.join(model, optimizer, algorithm, parle.TorchDistributed(ordered=True), buffers="average")
    for step in range(steps):
        inputs, labels = batches[step % len(batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return replicas


# accelerate


def accelerated(rank: int, folder: str) -> dict:
    """Twelve steps in one go, six and six with a checkpoint between, and by hand."""
    environment(rank)
    from accelerate import Accelerator

    from parle.integrations import accelerate as integration
    from parle.integrations import conclude

    algorithm, told = parle.Parle(period=PERIOD), {}

    def begun():
        accelerator = Accelerator(cpu=True)
        model = network(seed=rank)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        loader = DataLoader(samples(12 * BATCH), batch_size=BATCH)
        communicator = parle.TorchDistributed(ordered=True)
        replicas, model, optimizer, loader = integration.prepare(accelerator, algorithm, model, optimizer, loader, communicator=communicator)
        return accelerator, replicas, model, optimizer, loader

    def steps(accelerator, replicas, model, optimizer, loader, first, last):
        gradients, batches, step = [], [], 0
        while step < last:
            for inputs, labels in loader:
                batches.append((inputs, labels))
                if first <= step < last:
                    accelerator.backward(nn.functional.cross_entropy(model(inputs), labels))
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    gradients.append(flat(p.grad for p in model.parameters()).sum().item())
                    optimizer.step()
                    optimizer.zero_grad()
                step += 1
        return gradients, batches

    whole = begun()
    told["kind"] = [type(its).__name__ for its in whole[2:]]
    told["gradients"], batches = steps(*whole, 0, 10)
    told["state"], told["rounds"] = vectors(whole[1]), whole[1].round
    hand = by_hand(rank, batches, 10, algorithm, clip=0.5)
    told["by hand"] = vectors(hand)
    hand.close()
    whole[1].close()

    half = begun()
    steps(*half, 0, 6)
    half[0].save_state(f"{folder}/six")
    with half[1].solution() as model:
        half[0].save_model(model, f"{folder}/model")
        solved = flat(model.parameters())
    half[1].close()
    from safetensors.torch import load_file

    half[0].wait_for_everyone()
    for name in ("six", "model"):
        found = network()
        found.load_state_dict(load_file(f"{folder}/{name}/model.safetensors"), strict=False)
        told[f"weights in {name}"] = torch.equal(flat(found.parameters()), solved)
    rest = begun()
    rest[0].load_state(f"{folder}/six")
    steps(*rest, 6, 10)
    told["resumed"] = vectors(rest[1])
    conclude(rest[1])
    told["model"] = flat([*rest[2].parameters(), *rest[2].buffers()]).tolist()
    told["solution"] = flat([rest[1].reference]).tolist()
    return told


def document(rank: int, text: str, folder: str) -> str:
    """A program of the documentation; what it prints."""
    environment(rank)
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, "docs/integrations.md", "exec"), {"__name__": "document"})
    return out.getvalue()


def refused(work, *arguments) -> str:
    """How parle's error begins with which some work ends."""
    try:
        work(*arguments)
    except parle.ParleError as error:
        return f"{error.exit_code} {error}"
    return "nothing was refused"


def accelerated_wrongly(rank: int, folder: str) -> dict:
    """What prepare refuses."""
    environment(rank)
    from types import SimpleNamespace

    from accelerate import Accelerator, DistributedType

    from parle.integrations import accelerate as integration

    def prepare(how: str) -> None:
        accelerator, model = Accelerator(cpu=True), network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        if how == "prepared before":
            model, optimizer = accelerator.prepare(model, optimizer)
        if how == "wrapped":
            model = nn.parallel.DistributedDataParallel(model)
        if how == "sharded":
            accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
        integration.prepare(accelerator, parle.Parle(), *((model, optimizer) if how != "no model" else (optimizer,)))

    return {how: refused(prepare, how) for how in ("prepared before", "wrapped", "sharded", "no model")}


# Lightning


def lightning_parts(rank: int):
    """A module whose gradients and validation are noted, and a function that makes a Trainer."""
    environment(rank)
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from lightning import pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    broadcasts, broadcast = [0], torch.distributed.broadcast

    def counted(*arguments, **options):
        broadcasts[0] += 1
        return broadcast(*arguments, **options)

    torch.distributed.broadcast = counted

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.gradients, self.validated, self.heard = network(), [], [], []

        def training_step(self, batch, _):
            inputs, labels = batch
            return nn.functional.cross_entropy(self.net(inputs), labels)

        def on_train_batch_start(self, *_):
            self.heard.append(broadcasts[0])

        def on_before_optimizer_step(self, optimizer):
            self.gradients.append(flat(p.grad for p in self.parameters()).sum().item())

        def validation_step(self, batch, _):
            self.validated.append((self.trainer.global_step, flat(self.parameters())))
            self.log("loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

        def train_dataloader(self):
            return DataLoader(samples(12 * BATCH), batch_size=BATCH)

        def val_dataloader(self):
            return DataLoader(samples(2 * BATCH), batch_size=BATCH)

    def trainer(folder: str, strategy, **options) -> pl.Trainer:
        saves = ModelCheckpoint(dirpath=folder, filename="{step}", monitor="loss", save_top_k=1, save_last="link")
        quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder)
        options = dict(callbacks=[saves], num_sanity_val_steps=0, use_distributed_sampler=False, gradient_clip_val=0.5) | options
        return pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, **quiet, **options)

    return Module, trainer


def lightning(rank: int, folder: str) -> dict:
    """Eighteen steps in one go, six and twelve with a checkpoint between, and by hand."""
    from parle.integrations import lightning as integration

    Module, trainer = lightning_parts(rank)
    algorithm, told, states = parle.Parle(period=PERIOD), {}, []

    class Strategy(integration.ParleStrategy):
        """Notes the replicas' state before it is given up."""

        def __init__(self):
            super().__init__(algorithm, parle.TorchDistributed(ordered=True))

        def on_train_end(self):
            states.append((vectors(self.replicas), self.replicas.round, self.replicas.reference.clone()))
            super().on_train_end()

    def data():  # each process the half of the batches
        return DataLoader(samples(12 * BATCH), batch_size=BATCH, sampler=range(rank * 6 * BATCH, (rank + 1) * 6 * BATCH))

    whole = Module()
    fit = trainer(f"{folder}/whole", Strategy(), max_epochs=3)
    fit.fit(whole, data())
    told["gradients"], (told["state"], told["rounds"], reference) = whole.gradients, states[0]
    told["met before steps"] = [step for step in range(1, 18) if whole.heard[step] > whole.heard[step - 1]]
    hand = by_hand(rank, list(data()), 18, algorithm, clip=0.5)
    told["by hand"] = vectors(hand)
    hand.finish()
    solution = hand.solution_vector()
    hand.close()
    told["ends as the solution"] = torch.equal(flat(whole.parameters()), solution.double())
    told["module"] = flat([*whole.parameters(), *whole.buffers()]).tolist()
    told["validated"] = [(step, its.tolist()) for step, its in whole.validated]
    told["files"] = sorted(path.name for path in Path(f"{folder}/whole").iterdir())

    kept = trainer(f"{folder}/half", Strategy(), max_epochs=1)
    half = Module()
    kept.fit(half, data())
    saved = f"{folder}/half/last.ckpt"
    told["weights in the file"] = flat(Module.load_from_checkpoint(saved, weights_only=True).parameters()).tolist()
    rest = trainer(f"{folder}/rest", Strategy(), max_epochs=3)
    rest.fit(Module(), data(), ckpt_path=saved, weights_only=True)
    told["resumed"], told["reference"] = states[2][0], reference.tolist()
    return told


def lightning_wrongly(rank: int, folder: str) -> dict:
    """What the strategy refuses, at its making or when fit begins."""
    from parle.integrations import lightning as integration

    Module, trainer = lightning_parts(rank)

    class TwoOptimizers(Module):
        automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.SGD(self.net[4].parameters(), lr=0.1)]

    def fit(how: str) -> None:
        if how == "options of DDP":
            integration.ParleStrategy(find_unused_parameters=True)
        if how == "hooks of DDP":
            integration.ParleStrategy(ddp_comm_hook=print)
        came_from = None
        if how == "another's checkpoint":
            trainer(f"{folder}/plain", "ddp", max_epochs=1).fit(Module())
            came_from = f"{folder}/plain/last.ckpt"
        made = trainer(folder, "parle", max_epochs=2, sync_batchnorm=how == "sync_batchnorm", gradient_clip_val=None)
        made.fit(TwoOptimizers() if how == "two optimizers" else Module(), ckpt_path=came_from)

    return {how: refused(fit, how) for how in ("options of DDP", "hooks of DDP", "sync_batchnorm", "two optimizers", "another's checkpoint")}


# transformers


def hugging_face_parts(rank: int):
    """A ParleTrainer that takes notes, and a function that makes one."""
    environment(rank)
    import transformers

    from parle.integrations.hugging_face import ParleTrainer

    transformers.logging.set_verbosity_error()

    class Noting(ParleTrainer):
        def __init__(self, **options):
            super().__init__(**options)
            self.inputs, self.gradients, self.evaluated, self.ended = [], [], [], None

        def training_step(self, model, inputs, *more):
            self.inputs.append({name: its.clone() for name, its in inputs.items()})
            loss = super().training_step(model, inputs, *more)
            self.gradients.append(flat(p.grad for p in model.parameters() if p.grad is not None).sum().item())
            self.kind = type(model).__name__
            return loss

        def prediction_step(self, model, *more, **options):
            self.evaluated.append(flat(model.parameters()))
            return super().prediction_step(model, *more, **options)

        def finish(self):
            if self.replicas:
                self.ended = vectors(self.replicas), self.replicas.round
            super().finish()

    def trainer(folder: str, dropout: float = 0.1, algorithm=None, **options) -> Noting:
        sizes = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=8)
        torch.manual_seed(rank)
        model = transformers.BertForSequenceClassification(
            transformers.BertConfig(**sizes, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, num_labels=2)
        )
        ids = torch.randint(20, (64, 8), generator=torch.Generator().manual_seed(3))
        data = [{"input_ids": row, "labels": int(row.sum() % 2)} for row in ids]
        options = dict(max_steps=10, save_strategy="no", learning_rate=0.01, per_device_train_batch_size=4, report_to=[], use_cpu=True) | options
        arguments = transformers.TrainingArguments(folder, disable_tqdm=True, dataloader_pin_memory=False, **options)
        algorithm = algorithm or parle.Parle(period=PERIOD)
        return Noting(
            model=model, args=arguments, train_dataset=data, eval_dataset=data[:8], algorithm=algorithm, communicator=parle.TorchDistributed(ordered=True)
        )

    return trainer


def hugging_face(rank: int, folder: str) -> dict:
    """Ten steps in one go, with checkpoints, resumed from one of these, and by hand."""
    from safetensors.torch import load_file

    from parle.integrations import couple

    trainer = hugging_face_parts(rank)
    whole = trainer(f"{folder}/whole")
    whole.train()
    told = {"kind": whole.kind, "gradients": whole.gradients, "state": whole.ended[0], "rounds": whole.ended[1]}
    told["model"] = flat(whole.model.parameters()).tolist()

    saves = dict(save_strategy="steps", save_steps=6)
    saved = trainer(f"{folder}/saved", **saves)
    saved.train()
    rest = trainer(f"{folder}/rest", **saves)
    rest.train(resume_from_checkpoint=f"{folder}/saved/checkpoint-6")
    told["state with checkpoints"], told["resumed"] = saved.ended[0], rest.ended[0]
    told["model of the resumed"] = flat(rest.model.parameters()).tolist()

    best = trainer(f"{folder}/best", **saves, eval_strategy="steps", eval_steps=6, load_best_model_at_end=True)
    best.train()
    torch.distributed.barrier()
    weights = load_file(f"{folder}/best/checkpoint-6/model.safetensors")
    told["evaluated"] = [its.tolist() for its in best.evaluated]
    told["weights in the file"] = flat(weights[name] for name, _ in best.model.named_parameters()).tolist()
    told["best"] = flat(best.model.parameters()).tolist()
    told["loss"] = [line["eval_loss"] for line in best.state.log_history if "eval_loss" in line]

    plain = trainer(f"{folder}/plain", dropout=0.0, lr_scheduler_type="constant", optim="sgd")
    plain.train()
    by_hand = trainer(f"{folder}/hand", dropout=0.0).model
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01)
    replicas = couple(by_hand, optimizer, parle.Parle(period=PERIOD), parle.TorchDistributed(ordered=True))
    for inputs in plain.inputs:
        optimizer.zero_grad()
        by_hand(**inputs).loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
    told["plain"], told["by hand"] = plain.ended[0], vectors(replicas)
    replicas.close()
    return told


def hugging_face_wrongly(rank: int, folder: str) -> dict:
    """What is refused, and how a model is left when its training fails."""
    trainer = hugging_face_parts(rank)

    class Fails(Exception):
        pass

    def fail(*_):
        raise Fails

    failing = trainer(f"{folder}/failing")
    failing.training_step = fail
    try:
        failing.train()
    except Fails:
        failing.model.load_state_dict(failing.model.state_dict())  # which a coupled one refuses
    plain = trainer(f"{folder}/plain", save_strategy="steps", save_steps=2, max_steps=2)
    plain.train()
    torch.distributed.barrier()
    if rank == 0:
        shutil.rmtree(f"{folder}/plain/checkpoint-2/parle")
    torch.distributed.barrier()
    lost = functools.partial(trainer(f"{folder}/lost").train, resume_from_checkpoint=f"{folder}/plain/checkpoint-2")
    sharded = functools.partial(trainer, f"{folder}/sharded", fsdp=True)
    return {"without our folder": refused(lost), "sharded": refused(sharded)}


def everything(rank: int, framework: str, folder: str, document_text: str) -> tuple[dict, dict, str]:
    """All that is to be seen of a framework, in one start of two processes, since to import one takes longer than the rest."""
    train, wrongly = {
        "accelerate": (accelerated, accelerated_wrongly),
        "Lightning": (lightning, lightning_wrongly),
        "transformers": (hugging_face, hugging_face_wrongly),
    }[framework]
    return train(rank, folder), wrongly(rank, f"{folder}/wrong"), document(rank, document_text, folder)
