"""Train a supernet: sandwich rule, moving average of the weights, data-parallel, resumable to the bit.

Nothing random is carried from step to step: the order of an epoch, the augmentation and the subnets of a step are
drawn from generators seeded by (seed, purpose, step, process). So a checkpoint is tensors and one step number, and a
run that was killed goes on exactly as it would have gone on.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor

from superserve.clock import NS_PER_S, monotonic_ns, process_cpu_ns
from superserve.errors import ConfigError
from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.single_thread import single_thread
from superserve.supernet.tensor_files import read_tensors
from superserve.training.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from superserve.training.data import Split
from superserve.training.parallel import Group, processes
from superserve.training.sandwich import Inputs, accumulate_gradients, run
from superserve.training.start import decaying, initial_network, one_cycle
from superserve.training.watch import EpochRecord, warnings, watched

#: What a seed is combined with, so that no two purposes draw alike.
_ORDER, _STEP = 0, 1

#: EMA weights follow quickly at first: (1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage.
_EMA_WARM_UP: Final = 10

#: Images per forward when watching: enough for sound batch statistics.
_WATCH_ROWS: Final = 250

#: Validation images to watch: 95 % intervals of two per cent, for three per cent of an epoch's time.
_WATCHED_IMAGES: Final = 2_000

#: Steps among which examples are sorted by size: enough for like sizes, few enough for other neighbours every epoch.
_SORTED_STEPS: Final = 16

#: Steps that the time to go is estimated from.
_PACE_STEPS: Final = 100

CHECKPOINT_FILE: Final = "checkpoint.safetensors"


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything but the data and the architecture that the weights are a function of."""

    epochs: int
    """Passes over the training images; a run may be resumed with another number."""
    seed: int = 0
    rows: int = 128
    """Images per step, over all processes."""
    processes: int = 1
    """Each takes its share of a step's images, and draws random subnets of its own."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    """Of matrices and filters; scales and shifts do not decay."""
    warm_up: float = 0.1
    """Share of the steps."""
    random_subnets: int = 2
    """Per step and process, beside the largest and the smallest."""
    label_smoothing: float = 0.0
    ema_decay: float = 0.999
    """Of the moving average of the weights, per step; 0 keeps the weights themselves."""
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.processes < 1:
            raise ValueError(f"epochs = {self.epochs}, processes = {self.processes}: at least 1 each")
        if self.rows < 1 or self.rows % self.processes:
            raise ValueError(f"{self.rows} rows per step cannot be shared by {self.processes} processes")


class Augmentation(Protocol):
    """Turns training examples into network inputs, differently each time."""

    def __call__(self, examples: Tensor, generator: torch.Generator, /) -> Inputs:
        """(rows, ...) as `Job.load` gives them; draws from the generator only."""


class Prepare(Protocol):
    """Turns examples into network inputs as serving does."""

    def __call__(self, examples: Tensor, /) -> Inputs:
        """(rows, ...) as `Job.load` gives them."""


class Learning(NamedTuple):
    """What there is to learn from and to watch."""

    train: Split
    validate: Split


@dataclass(frozen=True)
class Job:
    """One training run; picklable, for its processes."""

    plan: Plan
    family: str
    architecture: Mapping[str, Any]
    load: Callable[[], Learning]
    """Reads the data in each process."""
    augment: Augmentation
    prepare: Prepare
    folder: Path | None
    """Where checkpoints go; None keeps none."""
    checkpoint_steps: int = 100
    """A checkpoint this often, and after every epoch."""
    sizes: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None = None
    """How large each example is, (n, ...) to (n,): a step then gets examples of like size, so that little is padded.
    None draws every step at random from the whole."""
    start: Path | None = None
    """A safetensors file of the weights to begin with, by name; None draws them by the seed."""


class Progress(NamedTuple):
    """How far a run is; reported by the first process after every step."""

    step: int
    steps: int
    loss: float
    """The largest subnet's, on this step's images."""
    left_s: float
    """Seconds until the plan is done, at the pace of the last steps."""
    epoch: EpochRecord | None
    """If the step ended an epoch."""


Report = Callable[[Progress], None]


class _State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint holds beside tensors."""

    plan: Plan
    family: str
    architecture: dict[str, Any]
    step: int
    loss_sum: float
    """Over the steps of this epoch so far."""
    wall_ns: int = 0
    """Spent on this epoch so far."""
    cpu_ns: int = 0
    """Spent on this epoch so far by one process."""
    history: tuple[EpochRecord, ...]


class Trained(NamedTuple):
    """A finished run."""

    network: ElasticNetwork
    """Moving averages of the weights, frozen."""
    history: tuple[EpochRecord, ...]


def train(job: Job, *, resume: bool = False, report: Report = lambda _progress: None) -> Trained:
    """Train to the end of the plan, in as many processes as it says.

    Weights are a function of the job (and of torch's version and the processor's vector instructions).

    Args:
        job: what to train, on what.
        resume: go on from the checkpoint in the job's folder, if there is one; else start anew.
        report: called after every step.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
        ConfigError: if it belongs to another plan, or there are fewer images than a step takes.
        WorkerError: if a process was lost.
    """
    if not resume and job.folder is not None:
        (job.folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    with single_thread(), processes(job.plan.processes, _work, job) as group:
        return Trainer(job, group).run(report)


def _work(job: Job, group: Group) -> None:
    Trainer(job, group).run()


class Trainer:
    """One process of a run, at the step where its checkpoint stands.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
        ConfigError: if it belongs to another plan, or there are fewer images than a step takes.
    """

    def __init__(self, job: Job, group: Group) -> None:
        self._job, self._plan, self._group = job, job.plan, group
        self._data = job.load()
        self._epoch_steps = len(self._data.train) // self._plan.rows
        if self._epoch_steps < 1:
            raise ConfigError(f"rows = {self._plan.rows}: more than the {len(self._data.train)} training images")
        self._network = initial_network(job.family, job.architecture, job.plan.seed)
        if job.start is not None:
            self._network.load_state_dict(read_tensors(job.start)[0])
        self._average = deepcopy(self._network).requires_grad_(requires_grad=False)
        self._optimizer = _optimizer(self._network, self._plan)
        self._watched = watched(self._network.space)
        self._watched_images = min(len(self._data.validate), _WATCHED_IMAGES)
        self._history: tuple[EpochRecord, ...] = ()
        self._step, self._loss_sum = 0, 0.0
        self._wall_ns, self._cpu_ns = 0, 0
        self._restore()

    def run(self, report: Report = lambda _progress: None) -> Trained:
        """Train from here to the end of the plan."""
        steps, pace = self._plan.epochs * self._epoch_steps, _Pace()
        while self._step < steps:
            epoch = self._step // self._epoch_steps
            for rows in self._rest_of(epoch):
                start = monotonic_ns(), process_cpu_ns()
                loss = self._train_on(rows, one_cycle(self._step, steps, warm_up=self._plan.warm_up))
                step_ns = monotonic_ns() - start[0]
                self._wall_ns, self._cpu_ns = self._wall_ns + step_ns, self._cpu_ns + process_cpu_ns() - start[1]
                self._step, self._loss_sum = self._step + 1, self._loss_sum + loss
                record = None if self._step % self._epoch_steps else self._end_epoch(epoch)
                if record is not None or self._step % self._job.checkpoint_steps == 0:
                    self._save()
                report(Progress(self._step, steps, loss, pace.after(step_ns) * (steps - self._step) / NS_PER_S, record))
        return Trained(self._average.eval(), self._history)

    def _rest_of(self, epoch: int) -> Iterator[np.ndarray[Any, Any]]:
        """This process's rows of each step of an epoch that is still to be done."""
        count = self._epoch_steps * self._plan.rows
        rng = np.random.default_rng([self._plan.seed, _ORDER, epoch])
        order = rng.permutation(len(self._data.train))[:count].reshape(self._epoch_steps, self._plan.rows)
        if self._job.sizes is not None:
            order = alike(order, self._job.sizes(self._data.train.inputs), rng)
        done = self._step - epoch * self._epoch_steps
        for rows in order[done:]:
            yield np.sort(rows)[self._group.rank :: self._group.size]

    def _train_on(self, rows: np.ndarray[Any, Any], rate: float) -> float:
        """One step; the largest subnet's loss over all processes."""
        rng = np.random.default_rng([self._plan.seed, _STEP, self._step, self._group.rank])
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        x = self._job.augment(torch.from_numpy(self._data.train.inputs[rows]), generator)
        self._optimizer.zero_grad()
        loss = accumulate_gradients(
            self._network,
            x,
            torch.from_numpy(self._data.train.labels[rows]),
            rng=rng,
            random_subnets=self._plan.random_subnets,
            label_smoothing=self._plan.label_smoothing,
            precision=getattr(torch, self._plan.precision),
        )
        total = torch.tensor([loss])
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        self._group.sum([*gradients, total])
        torch._foreach_div_(gradients, self._group.size)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = self._plan.learning_rate * rate
        self._optimizer.step()
        self._follow()
        return float(total) / self._group.size

    def _follow(self) -> None:
        """Move the averages towards the weights."""
        decay = min(self._plan.ema_decay, (1 + self._step) / (_EMA_WARM_UP + self._step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.parameters()), list(self._network.parameters()), 1 - decay)

    def _end_epoch(self, epoch: int) -> EpochRecord:
        correct = [self._correct(spec) for spec in self._watched.values()]
        sums = torch.tensor([*correct, self._cpu_ns], dtype=torch.float64)
        self._group.sum([sums])
        *correct, cpu_ns = sums.tolist()
        n = self._watched_images
        accuracy = {name: 100 * count / n for name, count in zip(self._watched, correct, strict=True)}
        record = EpochRecord(
            epoch=epoch + 1,
            loss=self._loss_sum / self._epoch_steps,
            accuracy=accuracy,
            warnings=warnings(self._history, accuracy, n),
            wall_s=self._wall_ns / NS_PER_S,
            cpu_s=cpu_ns / NS_PER_S,
            planned=self._plan.epochs,
        )
        self._history = (*self._history, record)
        self._loss_sum, self._wall_ns, self._cpu_ns = 0.0, 0, 0
        return record

    @torch.inference_mode()
    def _correct(self, spec: SubnetSpec) -> int:
        """How many of this process's watched images the averaged weights get right, normalised by batch."""
        share = slice(self._group.rank, self._watched_images, self._group.size)
        images = torch.from_numpy(self._data.validate.inputs[share])
        labels = torch.from_numpy(self._data.validate.labels[share])
        apply(bind(self._average, spec, None))
        parts = zip(torch.split(images, _WATCH_ROWS), torch.split(labels, _WATCH_ROWS), strict=True)
        return sum(int((run(self._average, self._job.prepare(x)).argmax(1) == y).sum()) for x, y in parts)

    def _save(self) -> None:
        if self._group.rank or self._job.folder is None:
            return
        tensors = {f"network.{name}": tensor for name, tensor in self._network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self._optimizer).items()}
        state = _State(
            plan=self._plan,
            family=self._job.family,
            architecture=dict(self._job.architecture),
            step=self._step,
            loss_sum=self._loss_sum,
            wall_ns=self._wall_ns,
            cpu_ns=self._cpu_ns,
            history=self._history,
        )
        save_checkpoint(self._job.folder / CHECKPOINT_FILE, tensors, state)

    def _restore(self) -> None:
        if self._job.folder is None or not (self._job.folder / CHECKPOINT_FILE).exists():
            return
        path = self._job.folder / CHECKPOINT_FILE
        tensors, state = load_checkpoint(path, _State)
        self._check_same(path, state)
        self._network.load_state_dict(_under("network.", tensors))
        self._average.load_state_dict(_under("average.", tensors))
        restore_optimizer(self._optimizer, _under("optimizer.", tensors))
        self._step, self._loss_sum = state.step, state.loss_sum
        self._wall_ns, self._cpu_ns, self._history = state.wall_ns, state.cpu_ns, state.history

    def _check_same(self, path: Path, state: _State) -> None:
        found = (msgspec.structs.replace(state.plan, epochs=self._plan.epochs), state.family, state.architecture)
        mine = (self._plan, self._job.family, self._job.architecture)
        if msgspec.json.encode(found) != msgspec.json.encode(mine):  # JSON has no tuples
            raise ConfigError(
                f"{path}: made by another plan ({state.plan}) than {self._plan}: give the same options "
                "(the number of epochs may differ), or train without --resume"
            )


def alike(order: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Steps of examples of like size: sorted among every few steps, whose order is then drawn.

    Args:
        order: (steps, rows) indices of examples.
        sizes: of all examples.
        rng: draws the order of the steps.
    """
    mixed = []
    for start in range(0, len(order), _SORTED_STEPS):
        part = order[start : start + _SORTED_STEPS]
        flat = part.ravel()
        mixed.append(flat[np.argsort(sizes[flat], kind="stable")].reshape(part.shape)[rng.permutation(len(part))])
    return np.concatenate(mixed)


class _Pace:
    """Time per step, averaged over about the last hundred."""

    def __init__(self) -> None:
        self._steps, self._mean_ns = 0, 0.0

    def after(self, step_ns: int) -> float:
        """The average with one more step, in ns."""
        self._steps += 1
        self._mean_ns += (step_ns - self._mean_ns) / min(self._steps, _PACE_STEPS)
        return self._mean_ns


def _optimizer(network: ElasticNetwork, plan: Plan) -> torch.optim.Optimizer:
    groups = decaying(network, plan.weight_decay)
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=plan.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=0.9, nesterov=True)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
