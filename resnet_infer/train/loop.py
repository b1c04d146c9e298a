"""The training loop: batches, steps, tests, checkpoints, from the first iteration or from where a run ended.

What an iteration does depends on the state of the run and the iteration's number alone, so a run that was killed and
resumed ends with the weights of one left alone (on a CPU, bit for bit). Tests go through the scoring path.

Shapes: N iterations.
"""

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import safetensors
import torch
from torch import Tensor, nn

from resnet_infer.backends.base import Normalize
from resnet_infer.console import note
from resnet_infer.distributed.group import Processes, gone, is_of_an_exchange, processes
from resnet_infer.distributed.heartbeat import RollCall
from resnet_infer.errors import DataError, ProcessError, ResnetInferError, Stopped, TrainingError
from resnet_infer.evaluation.rows import EvalRow
from resnet_infer.model.checkpoints import save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loader import Crew
from resnet_infer.train import network
from resnet_infer.train import state as saved
from resnet_infer.train.display import Display
from resnet_infer.train.fingerprint import agreed, fingerprint
from resnet_infer.train.interrupt import Asked, interruptible
from resnet_infer.train.job import Job, training_images
from resnet_infer.train.kept import Kept
from resnet_infer.train.log import RunLog
from resnet_infer.train.schedule import Schedule
from resnet_infer.train.step import CapturedStep, EagerStep, Step, momentum_of, restore_momentum, sgd
from resnet_infer.train.sync_batch_norm import synchronised

AGREE_EVERY = 10
"""Iterations after which several processes ask each other whether one was told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended."""

    iterations: int
    train_err: float
    """Percent, over the last iterations that were averaged."""
    test: EvalRow | None
    """The last weights' error; None without images to test on, or if the run had ended before."""
    best_err: float | None
    seconds: float


def train(job: Job, *, device: str = "auto", state: saved.State | None = None) -> Result | None:
    """Run a job to its last iteration, from its beginning or from a state; None in processes that do not lead.

    Raises TrainingError if the loss is not a number or a checkpoint cannot be written, Stopped after SIGINT or SIGTERM,
    DataError for images that cannot be used: in each case the last checkpoint is kept. UsageError for a batch that is
    larger than the training set or cannot be shared out.
    """
    with ExitStack() as stack:
        group = stack.enter_context(processes(device))
        run = _Run(job, group, state)
        stack.callback(run.close)
        run.to_the_end(stack.enter_context(interruptible()))
        return run.result() if group.leads else None


class _Run:
    """The parts of a run and their state."""

    def __init__(self, job: Job, group: Processes, state: saved.State | None) -> None:
        self.job = job
        self.group = group
        self.recipe = recipe = job.recipe
        if group.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.fingerprint = agreed(fingerprint(job.training), group)
        self.images = training_images(job, group.device, group.rank, group.world)
        self.mean_HWC = state.mean_HWC if state else self.images.mean_image()
        testing = Kept(job.testing) if job.testing and recipe.loading == "memory" else job.testing
        self.testing = Crew(testing) if testing else None
        preprocessing = network.preprocessing_of(self.mean_HWC, recipe)
        self.manifest = network.manifest_of(job.spec, preprocessing, job.labels, recipe)
        net: nn.Module = network.fresh(job.spec, recipe, self.mean_HWC)
        if group.world > 1 and recipe.sync_bn:
            net = synchronised(net, group.device)
        self.net: ResNet = net.to(group.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = sgd(self.net, recipe)
        self.schedule = Schedule(recipe)
        self.done = 0
        self.saved_at: int | None = None
        self.best_err: float | None = None
        self.before_s = 0.0
        self.window: list[Tensor] = []
        """(loss, error) of the iterations since the last record."""
        self.last_test: EvalRow | None = None
        if state:
            self._restore(state)
        elif group.leads and recipe.mean == "pixel":
            note("the mean of every pixel is subtracted: these weights take one size; --mean channel has no such limit")
        self.step = self._step(Normalize(preprocessing, group.device))
        self.metrics = RunLog(job.folder, self.done) if group.leads else None
        self.display = Display(job.spec.name, self.done, recipe.iterations, shown=group.leads)
        self.begun = self.mark = time.perf_counter()
        self.aside_s = 0.0
        """Spent on tests and checkpoints since the last record."""

    def _step(self, normalize: Normalize) -> Step:
        net: nn.Module = self.net
        on_cuda = self.group.device.type == "cuda"
        if self.group.world > 1:
            ids = [self.group.device] if on_cuda else None
            net = nn.parallel.DistributedDataParallel(net, device_ids=ids, broadcast_buffers=False)
        if self.recipe.compile:
            net = torch.compile(net)  # type: ignore[assignment]
        step = EagerStep(net, self.optimizer, normalize, self.recipe)
        return CapturedStep(step) if on_cuda and self.group.world == 1 and self.recipe.loading == "memory" else step

    def to_the_end(self, asked: Asked) -> None:
        """Every iteration that is left."""
        recipe = self.recipe
        try:
            for batch in self.images.batches(self.done, recipe.iterations):
                self.window.append(torch.stack(self.step(batch, self.schedule.lr(self.done))))
                self.done += 1
                self.display.advance(self.done)
                last = self.done == recipe.iterations
                stop = 0 if last else self._asked_to_stop(asked)
                if self.done % recipe.log_every == 0 or last:
                    self._log()
                if self.done % recipe.eval_every == 0 or last:
                    self._test()
                if self.done % recipe.save_every == 0 or last or stop:
                    self._save()
                if stop:
                    raise Stopped(f"stopped at iteration {self.done} of {recipe.iterations}; {self._kept()}", stop)
        except DataError as error:
            if self.done and self.group.world == 1:
                self._save()
            raise DataError(f"{error}. The run stopped at iteration {self.done}; {self._kept()}") from error
        except ProcessError as error:
            raise self._left(error) from error
        except RuntimeError as error:
            if self.group.world > 1 and is_of_an_exchange(error):
                raise self._left(gone(error)) from error
            if reason := self._reason(error):
                raise TrainingError(f"{reason}; {self._kept()}") from error
            raise

    def _left(self, error: ProcessError) -> ProcessError:
        return ProcessError(f"{error}. The run stopped at iteration {self.done}; {self._kept()}", error.rank)

    def _reason(self, error: RuntimeError) -> str:
        """What a user can do about an error of PyTorch's; nothing for one that is ours."""
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            return f"a batch of {self.recipe.batch} does not fit the memory of {self.group.device}; lower --batch"
        if self.recipe.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            return f"torch.compile failed ({str(error).strip().splitlines()[0]}); leave out --compile"
        return ""

    def result(self) -> Result:
        """How the run ended."""
        assert self.metrics is not None
        errors = [record["train_err"] for record in self.metrics.records if record["kind"] == "train"]
        return Result(
            iterations=self.done,
            train_err=errors[-1],
            test=self.last_test,
            best_err=self.best_err,
            seconds=self._seconds(),
        )

    def close(self) -> None:
        """End processes, close files and leave the terminal as it was."""
        if self.testing:
            self.testing.close()
        self.display.close()
        if self.metrics:
            self.metrics.close()

    def _asked_to_stop(self, asked: Asked) -> int:
        if self.group.world == 1:
            return asked.signal
        return self.group.largest(asked.signal) if self.done % AGREE_EVERY == 0 else 0

    def _losses(self) -> Tensor:
        """Loss and error since the last record, (N, 2) on the CPU; raises TrainingError if a loss is not a number."""
        window_N2 = self.group.mean(torch.stack(self.window)).cpu() if self.window else torch.zeros(0, 2)
        odd = (~torch.isfinite(window_N2[:, 0])).nonzero().flatten().tolist()
        if odd:
            raise TrainingError(
                f"the loss is not a number at iteration {self.done - len(window_N2) + odd[0] + 1}; {self._kept()}. "
                f"Lower the learning rate (--lr, now {self.recipe.lr:g})"
            )
        return window_N2

    def _log(self) -> None:
        window_N2 = self._losses()
        self.window.clear()
        loss, err = window_N2.double().mean(0).tolist()
        now = time.perf_counter()
        rate = len(window_N2) * self.recipe.batch / (now - self.mark - self.aside_s)
        self.mark, self.aside_s = now, 0.0
        lr = self.schedule.lr(self.done - 1)
        self.schedule.saw_training_error(100 * err)
        self._record("train", loss=loss, train_err=100 * err, lr=lr, images_per_s=rate)

    def _test(self) -> None:
        self._losses()
        if self.testing is None:
            self.schedule.saw_test_error(self.schedule.train_err)
            return
        begun = time.perf_counter()
        err = None
        roll = RollCall(self.group)
        with roll.member():  # the others wait for signs of life, not in an exchange, which has a limit
            if self.group.leads:
                workers = 0 if isinstance(self.testing.source, Kept) else self.job.workers
                row = network.test(self.net, self.manifest, self.testing, self.group.device, workers, roll.say)
                self.last_test, err = row, row.top1_err
                self._record("test", test_err=err, test_errors=row.top1_errors, test_images=row.images)
                if self.best_err is None or err < self.best_err:
                    self._write_weights(saved.BEST)
        err = self.group.from_leader(err)
        self.best_err = err if self.best_err is None else min(err, self.best_err)
        self.schedule.saw_test_error(err)
        self.aside_s += time.perf_counter() - begun

    def _record(self, kind: str, **values: float) -> None:
        epoch = self.done * self.recipe.batch / len(self.job.training.samples)
        record = {"kind": kind, "iteration": self.done, "epoch": epoch} | values | {"seconds": self._seconds()}
        record = {name: round(value, 6) if isinstance(value, float) else value for name, value in record.items()}
        self.display.record(record)
        if self.metrics:
            self.metrics.add(record)

    def _seconds(self) -> float:
        return self.before_s + time.perf_counter() - self.begun

    def _kept(self) -> str:
        if not self.group.leads:
            return f"continue with --resume {self.job.folder}"
        if self.saved_at is None:
            return "no checkpoint had been made yet"
        return f"the checkpoint of iteration {self.saved_at} is kept; continue with --resume {self.job.folder}"

    def _save(self) -> None:
        window_N2 = self._losses()
        if not self.group.leads:
            return
        begun = time.perf_counter()
        state = saved.State(
            iteration=self.done,
            architecture=self.job.spec.to_dict(),
            recipe=self.recipe.to_dict(),
            data=asdict(self.fingerprint),
            mean_HWC=self.mean_HWC,
            weights=self.net.state_dict(),
            momentum=momentum_of(self.net, self.optimizer),
            schedule=self.schedule.state_dict(),
            window_N2=window_N2,
            best_err=self.best_err,
            seconds=self._seconds(),
        )
        try:
            saved.save_state(self.job.folder, state)
        except (OSError, ResnetInferError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            reason = getattr(cause, "strerror", None) or cause
            raise TrainingError(
                f"the checkpoint of iteration {self.done} was not written ({reason}); {self._kept()}"
            ) from error
        self.saved_at = self.done
        self._write_weights(saved.LAST)
        self.aside_s += time.perf_counter() - begun

    def _write_weights(self, name: str) -> None:
        path = self.job.folder / name
        try:
            save_checkpoint(path, self.net.state_dict(), self.manifest)
        except (OSError, safetensors.SafetensorError, ResnetInferError) as error:
            raise TrainingError(f"{path}: was not written: {error}; {self._kept()}") from error

    def _restore(self, state: saved.State) -> None:
        self.done = self.saved_at = state.iteration
        self.best_err, self.before_s = state.best_err, state.seconds
        self.net.load_state_dict(dict(state.weights))
        restore_momentum(self.net, self.optimizer, state.momentum, needed=self.recipe.momentum > 0)
        self.schedule.load_state_dict(dict(state.schedule))
        self.window = list(state.window_N2.to(self.group.device))
