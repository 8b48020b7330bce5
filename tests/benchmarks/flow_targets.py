"""How far the targets of flow matching lie from the true field, by how many samples they average.

Squared distance, summed over dimensions, on mixtures of Gaussians, in fifths of the time; and the
time that a target takes over that of a single sample's.
"""

import torch
from iai_tasks import Examples, MixtureOfGaussians, straight_path
from torch import Tensor
from workbench import Row, bare_arguments, in_turn, ratio, report


def main() -> None:
    parser = bare_arguments(__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--points", type=int, default=2**17, help="points of the field in all")
    parser.add_argument("--components", type=int, nargs=2, default=[2, 5])
    options = parser.parse_args()
    sampler = MixtureOfGaussians(num_components=tuple(options.components))
    generator = torch.Generator(options.device).manual_seed(0)
    drawn = {
        number: sampler.sample(
            options.points // number, num_support=number, num_query=number, generator=generator
        )
        for number in options.samples
    }
    times = in_turn(
        {
            str(number): lambda samples=batch.support: straight_path(samples, generator)
            for number, batch in drawn.items()
        },
        options,
    )
    rows: list[Row] = []
    for number, batch in drawn.items():
        apart = (batch.query.y - sampler.oracle(batch)).square().sum(-1)
        by_time = in_fifths(apart, batch.query)
        cost = ratio(times[str(number)], times[str(options.samples[0])])
        rows.append({"samples": number, **by_time, "time / first": cost})
    report("squared distance of targets from the field", rows, options)


def in_fifths(apart: Tensor, query: Examples) -> dict[str, float]:
    """Means over the points of each fifth of the time."""
    fifth = (query.x[..., -1] * 5).long()
    return {
        f"t {k / 5:.1f} to {(k + 1) / 5:.1f}": apart[fifth == k].mean().item() for k in range(5)
    }


if __name__ == "__main__":
    main()
