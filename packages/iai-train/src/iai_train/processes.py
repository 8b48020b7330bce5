"""Which device, and which of several processes."""

import atexit
import os
from typing import Literal

import torch
from accelerate import Accelerator

Device = Literal["auto", "cpu", "cuda"]


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


def join_processes(device: torch.device) -> Accelerator:
    """Joins the processes that the launcher started, if there are several.

    They stay joined after `fit`, for the next one, until Python exits.

    Raises:
        RuntimeError: The processes did not find each other, or were joined on another device.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = Accelerator(
        # Without `cpu`, processes on a host without a GPU would each train alone, silently.
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
    # Now and then Python aborts when it exits with an open group of processes.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
