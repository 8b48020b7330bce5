"""Error of flow-matching targets, by the number of samples that each averages over.

The error is the squared distance to the true field, summed over dimensions, on mixtures of
Gaussians; it is shown for each fifth of the time t. "of 512" is 512 times the error of the mean of
512 targets of one task. Targets that share samples are not independent, so it falls less than the
error of one target. The last column is the time of a target, divided by that in the first row.
"""

import torch
from iai_tasks import Examples, MixtureOfGaussians, straight_path
from torch import Tensor
from workbench import Row, bare_arguments, in_turn, ratio, report

TOGETHER = 512


def main() -> None:
    parser = bare_arguments(__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 8, 64, 512], help="of 512")
    parser.add_argument("--points", type=int, default=2**17, help="points of the field in all")
    parser.add_argument("--components", type=int, nargs=2, default=[2, 5])
    options = parser.parse_args()
    sampler = MixtureOfGaussians(num_components=tuple(options.components))
    generator = torch.Generator(options.device).manual_seed(0)
    counts = {"num_support": 0, "num_query": 0}
    tasks = sampler.sample(options.points // TOGETHER, **counts, generator=generator).latent
    assert tasks is not None
    drawn = {}
    for number in options.samples:
        latent = tasks.repeat_interleave(TOGETHER // number, dim=0)
        counts = {"num_support": number, "num_query": number}
        drawn[number] = sampler.sample(len(latent), **counts, generator=generator, latent=latent)
    times = in_turn(
        {
            str(number): lambda samples=batch.support: straight_path(samples, generator)
            for number, batch in drawn.items()
        },
        options,
    )
    rows: list[Row] = []
    for number, batch in drawn.items():
        error = batch.query.y - sampler.oracle(batch)
        by_time = in_fifths(error.square().sum(-1), batch.query)
        means = error.reshape(len(tasks), TOGETHER, -1).mean(1)
        together = TOGETHER * means.square().sum(-1).mean().item()
        cost = ratio(times[str(number)], times[str(options.samples[0])])
        shown = {"samples": number, **by_time, f"of {TOGETHER}": together, "time / first": cost}
        rows.append(shown)
    report("squared distance of targets from the field", rows, options)


def in_fifths(apart: Tensor, query: Examples) -> dict[str, float]:
    """The mean of `apart` over the points in each fifth of the time."""
    fifth = (query.x[..., -1] * 5).long()
    return {
        f"t {k / 5:.1f} to {(k + 1) / 5:.1f}": apart[fifth == k].mean().item() for k in range(5)
    }


if __name__ == "__main__":
    main()
