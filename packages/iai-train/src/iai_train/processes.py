"""Which device, and which of several processes."""

import atexit
import os
from typing import Literal

import torch
from accelerate import Accelerator

Device = Literal["auto", "cpu", "cuda"]


def num_processes() -> int:
    """Return how many processes the launcher (torchrun) started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Return which of them this is: 0 is the main one, which alone writes files."""
    return int(os.environ.get("RANK", "0"))


def resolve_device(device: Device = "auto") -> torch.device:
    """Return the device that `fit` trains on: "auto" is CUDA where there is one, else the CPU.

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
    """Return a generator of this process's own, on the device that `fit` trains on.

    Several processes must not draw the same tasks. The main process gets `seed` itself, so that a
    run in one process is the run of its seed.

    >>> process_generator(7, "cpu").initial_seed()
    7
    """
    generator = torch.Generator(resolve_device(device))
    return generator.manual_seed(seed + 1_000_003 * process_index())


def join_processes(device: torch.device) -> Accelerator:
    """Join the processes of this run, or stand alone.

    The group outlives `fit`, for the next one, and is left when Python exits.

    Raises:
        RuntimeError: The processes did not find each other, or were joined on another device.
    """
    launched = num_processes()
    accelerator = Accelerator(
        # Without `cpu`, processes on a host without GPU would each train alone and say nothing.
        cpu=launched > 1 and device.type == "cpu",
        mixed_precision="no",  # `fit` opens the autocast itself: `prepare` would patch the learner
        device_placement=False,
    )
    if accelerator.num_processes != launched:
        raise RuntimeError(
            f"The launcher started {launched} processes and {accelerator.num_processes} joined."
        )
    if launched > 1:
        if accelerator.device.type != device.type:
            raise RuntimeError(
                f"These processes were joined on {accelerator.device.type} earlier: train on "
                f"{device.type} in another run."
            )
        atexit.unregister(_leave)
        atexit.register(_leave)
    return accelerator


def _leave() -> None:
    # A group that is still open when Python exits aborts the process now and then.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
