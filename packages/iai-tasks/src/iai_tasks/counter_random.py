"""Random numbers as a function of a seed and a counter: splitmix64 on int64 tensors.

Nothing here has a state: one tensor operation gives the numbers of many seeds, any part of a stream
can be computed without the rest, and every device gives the same integers.
"""

import math

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

# The constants of splitmix64 as int64: the numbers with the same 64 bits.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64


def bits(
    seed: Int64[Tensor, "*#batch"], counter: Int64[Tensor, "*#batch"]
) -> Int64[Tensor, "*batch"]:
    """Output number `counter` (from 0) of the splitmix64 generator seeded with `seed`.

    An output may seed another generator: `bits(seed, i)` is the seed of stream i.

    Args:
        seed: Any int64; broadcasts against the counter.
        counter: Position in the stream.

    Returns:
        64 random bits for each seed and counter, as int64.

    Source:
        Steele, Lea, Flood, 2014, "Fast Splittable Pseudorandom Number Generators", OOPSLA, with
        the constants of Vigna's splitmix64.c. int64 arithmetic wraps around as uint64 does.

    >>> bits(torch.tensor([1234567]), torch.tensor([0, 1])).tolist()
    [6457827717110365317, 3203168211198807973]
    """
    z = seed + (counter + 1) * _INCREMENT
    z.bitwise_xor_(_shift_right(z, 30)).mul_(_MULTIPLIER_1)  # in place, to save memory traffic
    z.bitwise_xor_(_shift_right(z, 27)).mul_(_MULTIPLIER_2)
    return z.bitwise_xor_(_shift_right(z, 31))


def stream(
    seed: Int64[Tensor, " task"], number: int | Int64[Tensor, " task"]
) -> Int64[Tensor, " task"]:
    """Seeds of random numbers that are independent of those of another number."""
    return bits(seed, torch.as_tensor(number, device=seed.device))


def normal(
    seed: Int64[Tensor, " task"], counter: Int64[Tensor, " n"]
) -> Float32[Tensor, "task n 2"]:
    """Two independent standard normal numbers for every seed and counter (Box and Muller).

    Args:
        seed: One seed a task.
        counter: Positions in the stream of every seed.

    Returns:
        The numbers, between -6.8 and 6.8, because the radius is computed from 32 bits.

    >>> numbers = normal(torch.arange(100), torch.arange(500))
    >>> round(numbers.mean().item(), 1), round(numbers.var().item(), 1)
    (0.0, 1.0)
    """
    random = bits(seed[:, None], counter)
    radius = _shift_right(random, 32).float().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = random.bitwise_and_(0xFFFFFFFF).float().mul_(2 * math.pi * 2.0**-32)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)


def uniform(
    seed: Int64[Tensor, " task"], counter: Int64[Tensor, " n"]
) -> Float32[Tensor, "task n"]:
    """A number from [0, 1) for every seed and counter, a multiple of 2^-24.

    >>> numbers = uniform(torch.arange(100), torch.arange(500))
    >>> round(numbers.mean().item(), 2), bool(numbers.max() < 1)
    (0.5, True)
    """
    return _shift_right(bits(seed[:, None], counter), 40).float().mul_(2.0**-24)


def permutation(seed: Int64[Tensor, " task"], size: int) -> Int64[Tensor, "task size"]:
    """A random order of 0, ..., size - 1 for every seed.

    >>> permutation(torch.tensor([0, 1]), 4).sort().values.tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    return bits(seed[:, None], torch.arange(size, device=seed.device)).argsort(dim=1)


def _shift_right(z: Tensor, count: int) -> Tensor:
    """Shifts bits and fills up with zeros; `>>` fills a signed integer up with its sign bit."""
    return (z >> count).bitwise_and_((1 << (64 - count)) - 1)
