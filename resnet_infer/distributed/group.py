"""Several processes on one task, as torchrun starts them, on one machine or many.

Training and evaluation meet here. Training exchanges tensors, by NCCL on GPUs and gloo on CPUs; an evaluation only what
it found, by gloo.
"""

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from resnet_infer.backends.devices import torch_device
from resnet_infer.errors import ProcessError, ReportedElsewhere, UsageError

Item = TypeVar("Item", bound=Sequence[int])

PATIENCE_S = 600.0
"""How long another process may give no sign before it is taken for dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store | None = None
    """Small values that all processes see."""
    patience_s: float = PATIENCE_S
    on_this_machine: int = 1
    """How many of them share this machine's cores."""

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes of a tensor."""
        if self.world > 1:
            value = value.to(self.device)
            with _exchange():
                dist.all_reduce(value)
                value = value / self.world
        return value

    def largest(self, flag: int) -> int:
        """The largest of the processes' values."""
        if self.world == 1:
            return flag
        flags = torch.tensor([flag], device=self.device)
        with _exchange():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
            return int(flags)

    def from_leader(self, value: Any) -> Any:
        """What the leading process has; raises ProcessError if it is gone."""
        box = [value]
        if self.world > 1:
            with _exchange():
                dist.broadcast_object_list(box, device=self._carrier)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, by rank; raises ProcessError if one is gone."""
        values: list[Any] = [value]
        if self.world > 1:
            values = [None] * self.world
            with _exchange():
                dist.all_gather_object(values, value)
        return values

    def settle(self, error: Exception | None) -> None:
        """Go on only if no process met an error: the leading one raises the first, the others ReportedElsewhere."""
        for met in self.gathered(error):
            if met is not None:
                raise met if self.leads else ReportedElsewhere(str(met))

    def send(self, value: Any, to: int) -> None:
        """Hand a value to one other process, which waits for it in `received`."""
        with _exchange():
            dist.send_object_list([value], dst=to, device=self._carrier)

    def received(self, sender: int) -> Any:
        """The value that another process sends."""
        box = [None]
        with _exchange():
            dist.recv_object_list(box, src=sender, device=self._carrier)
        return box[0]

    def share(self, items: Item) -> Item:
        """This process's part of a sequence, in order: all parts are disjoint, and together are the whole."""
        first, last = (len(items) * rank // self.world for rank in (self.rank, self.rank + 1))
        return items[first:last]  # type: ignore[return-value]

    @property
    def _carrier(self) -> torch.device:
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")


@contextmanager
def processes(device: str, *, tensors: bool = True, patience_s: float = PATIENCE_S) -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun there is one.

    `tensors` says that tensors on the device are to be exchanged, and not only objects. Raises BackendError if the
    device is not there, UsageError if torchrun's variables are incomplete, ProcessError if the others do not come.
    """
    world = _number("WORLD_SIZE", 1)
    found = torch_device(device)
    if found.type == "cuda":
        if world > 1:
            found = torch_device(f"cuda:{_number('LOCAL_RANK', None)}")
        torch.cuda.set_device(found)  # where PyTorch and libraries make what is given no device: streams, graphs
    if world == 1:
        yield Processes(device=found)
        return
    rank = _number("RANK", None)
    timeout = timedelta(seconds=patience_s)
    try:
        store, _, _ = next(rendezvous("env://", rank, world, timeout=timeout))
        dist.init_process_group(
            "nccl" if tensors and found.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=world,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"process {rank} of {world} on {platform.node()} could not reach the other processes within "
            f"{patience_s:g} s ({_first_line(error)}); start all of them, with one --master-addr that each can reach"
        ) from error
    try:
        yield Processes(
            rank=rank,
            world=world,
            device=found,
            store=PrefixStore("signs", store),
            patience_s=patience_s,
            on_this_machine=_number("LOCAL_WORLD_SIZE", 1),
        )
    finally:
        dist.destroy_process_group()


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise gone(error) from error


def gone(error: RuntimeError) -> ProcessError:
    """What a failed exchange says of the others."""
    return ProcessError(f"another process of the run is gone ({_first_line(error)}); its own error, if any, is above")


def is_of_an_exchange(error: RuntimeError) -> bool:
    """Whether an error that PyTorch raised within a step is of its exchange with another process."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)  # gloo has no kind of its own


def _number(name: str, missing: int | None) -> int:
    text = os.environ.get(name)
    if text is None and missing is not None:
        return missing
    if text is None or not text.isdecimal():
        raise UsageError(f"{name} is {text!r} in the environment, not a number; start several processes by torchrun")
    return int(text)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()
