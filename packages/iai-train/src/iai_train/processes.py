"""Which device, and which of several processes."""

import atexit
import os
from collections.abc import Callable
from typing import Literal, TypeVar, cast

import attrs
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

Device = Literal["auto", "cpu", "cuda"]
T = TypeVar("T")


def process_index() -> int:
    """Which of the launcher's (torchrun's) processes this is: 0, the main one, writes the files."""
    return int(os.environ.get("RANK", "0"))


def resolve_device(device: Device = "auto") -> torch.device:
    """The device that `fit` trains on: "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: CUDA is asked for and absent, or the name is another.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"`device` must be auto, cpu or cuda; got {device!r}.")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("`device` is cuda, and there is no CUDA device here.")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))


def process_generator(seed: int, device: Device = "auto") -> torch.Generator:
    """A generator for the training tasks of this process, on the device that `fit` trains on.

    Several processes must not draw the same tasks. The main process gets `seed` itself, so that a
    run in one process is the run of its seed.

    >>> process_generator(7, "cpu").initial_seed()
    7
    """
    generator = torch.Generator(resolve_device(device))
    return generator.manual_seed(seed + 1_000_003 * process_index())


@attrs.frozen
class Processes:
    """The processes that train one learner together."""

    index: int
    """Which of them this is; 0 is the main one."""
    count: int
    """How many there are."""

    def gather(self, value: T) -> list[T]:
        """The value of each process, in every process."""
        return cast(list[T], gather_object([value])) if self.count > 1 else [value]

    def on_main(self, action: Callable[[], T]) -> T:
        """Does something in the main process alone; all return what it returns, or raise."""
        if self.count == 1:
            return action()
        outcome: list[object] = [None, None]
        if self.index == 0:
            try:
                outcome[0] = action()
            except Exception as error:
                outcome[1] = error
        broadcast_object_list(outcome)
        if isinstance(outcome[1], Exception):
            raise outcome[1]
        return cast(T, outcome[0])

    def together(self, action: Callable[[], T]) -> T:
        """Does something in every process; where one of them fails, all raise its error."""
        value, failed = None, None
        try:
            value = action()
        except Exception as error:
            failed = error
        failures = [failure for failure in (failed, *self.gather(failed)) if failure is not None]
        if failures:
            raise failures[0]
        return cast(T, value)


def join_processes(device: torch.device) -> Processes:
    """Joins the processes that the launcher started, if there are several.

    They stay joined after `fit`, for the next one, until Python exits. Where the program has an
    `Accelerator` of its own, they are joined already, and whatever precision it has stays its own.

    Raises:
        RuntimeError: The processes did not find each other, or were joined on another device.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    # Without `cpu`, processes on a host without a GPU would each train alone, silently.
    state = PartialState(cpu=launched > 1 and device.type == "cpu")
    if state.num_processes != launched:
        raise RuntimeError(
            f"The launcher started {launched} processes and {state.num_processes} joined."
        )
    if launched > 1:
        if state.device.type != device.type:
            raise RuntimeError(
                f"These processes were joined on {state.device.type} earlier: train on "
                f"{device.type} in another run."
            )
        atexit.unregister(_leave)
        atexit.register(_leave)
    return Processes(index=state.process_index, count=state.num_processes)


def _leave() -> None:
    # Now and then Python aborts when it exits with an open group of processes.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
