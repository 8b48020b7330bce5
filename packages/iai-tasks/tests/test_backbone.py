"""Backbones: what they see, that they stay as they were, and by what they are known."""

import copy

import pytest
import torch
from iai_tasks import Backbone
from torch import nn

SCALE = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.2)}


class AsTold(nn.Module):
    """Gives what it is told to, whatever it sees."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, images):
        return self.output(images) if callable(self.output) else self.output


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2),
            nn.BatchNorm2d(6),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )


def make(module=None, **options):
    module = network() if module is None else module
    return Backbone(**{"name": "small", "module": module, "size": 16, **SCALE, **options})


def photos(num, side, channels=3):
    generator = torch.Generator().manual_seed(num + side)
    shape = (num, channels, side, side)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def test_the_network_sees_images_of_its_size_and_scale():
    images = photos(5, 16)
    backbone = make(AsTold(lambda x: x.flatten(1)))
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in SCALE.values())
    expected = ((images / 255 - mean) / std).flatten(1)
    torch.testing.assert_close(backbone.embed(images), expected, rtol=1e-5, atol=1e-5)
    assert backbone.dim == 3 * 16 * 16


def test_a_larger_image_is_averaged_over_all_its_pixels():
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::4] = 200  # without antialiasing, some columns would see all of it or nothing
    seen = make(AsTold(lambda x: x.flatten(1)), size=16, mean=(0, 0, 0), std=(1, 1, 1))
    inner = seen.embed(stripes).view(3, 16, 16)[:, :, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 50 / 255), rtol=0.06, atol=0)


def test_a_grey_image_is_one_of_three_equal_colours():
    grey = photos(4, 20, channels=1)
    backbone = make()
    coloured = grey.expand(-1, 3, -1, -1)
    assert torch.equal(backbone.embed(grey), backbone.embed(coloured))


def test_an_embedding_does_not_depend_on_the_other_images():
    images, backbone = photos(9, 24), make()
    together = backbone.embed(images)
    one_by_one = torch.cat([backbone.embed(image[None]) for image in images])
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-6)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(backbone.embed(images[order]), together[order])
    assert together.std(dim=0).min() > 0


def test_no_images_have_no_embeddings():
    backbone = make()
    for side in (16, 40):
        assert backbone.embed(photos(0, side)).shape == (0, backbone.dim)


def test_it_stays_frozen_and_a_head_over_it_learns():
    module = network().train()
    backbone = make(module)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    before = copy.deepcopy(module.state_dict())
    module.train()  # as a model that holds it would
    embeddings = backbone.embed(photos(4, 16))
    assert not module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    head = nn.Linear(backbone.dim, 2)
    head(embeddings).sum().backward()
    assert not embeddings.requires_grad
    assert head.weight.grad.abs().sum() > 0


def test_the_same_network_has_the_same_fingerprint():
    first = make()
    assert first.fingerprint == make().fingerprint == first.to("cpu").fingerprint
    assert len(first.fingerprint) == 64
    assert first.dim == 24


def changed(name, by):
    module = network()
    module.state_dict()[name].add_(by)
    return module


def with_buffer(numbers):
    module = network()
    module.register_buffer("more", numbers, persistent=False)
    return module


@pytest.mark.parametrize(
    "other",
    [
        {"name": "other"},
        {"size": 17},
        {"mean": (0.1, 0.2, 0.31)},
        {"std": (0.5, 0.25, 0.21)},
        {"module": network(seed=1)},
        {"module": changed("0.bias", by=1e-6)},
        {"module": changed("1.running_mean", by=1)},
        {"module": nn.Sequential(nn.Identity(), network())},
        {"module": with_buffer(torch.zeros(()))},
    ],
)
def test_another_network_has_another_fingerprint(other):
    assert make(**other).fingerprint != make().fingerprint


def test_a_fingerprint_tells_types_and_shapes_apart():
    numbers = [
        torch.zeros(2, 3, dtype=torch.float16),
        torch.zeros(2, 3, dtype=torch.bfloat16),
        torch.zeros(3, 2, dtype=torch.float16),
        torch.zeros(0),
    ]
    assert len({make(with_buffer(one)).fingerprint for one in numbers}) == 4
    table = torch.arange(6.0).view(2, 3)
    fingerprints = [make(with_buffer(one)).fingerprint for one in (table.T, table.T.contiguous())]
    assert fingerprints[0] == fingerprints[1]


def test_moving_copies():
    backbone = make()
    moved = backbone.to("cpu")
    with torch.no_grad():
        moved.module[0].weight.zero_()
    images = photos(3, 16)
    assert not torch.equal(moved.embed(images), backbone.embed(images))
    assert not moved.module.training
    assert "Conv2d" not in repr(backbone)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_moved_backbone_gives_the_same_embeddings_on_the_cpu():
    backbone = make()
    moved = backbone.to("cuda")
    assert moved.fingerprint == backbone.fingerprint
    images = photos(7, 40)
    for on in (images, images.cuda()):
        got = moved.embed(on)
        assert got.device.type == "cpu"
        torch.testing.assert_close(got, backbone.embed(images), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "`size` must be at least 1; got 0."),
        ({"mean": (0.5,)}, "`mean` must be three numbers; got (0.5,)."),
        ({"std": (1, 1, 0)}, "`std` must be three positive numbers; got (1.0, 1.0, 0.0)."),
        (
            {"module": AsTold(lambda x: x)},
            "`module` must give one vector an image, (1, dim); got (1, 3, 16, 16).",
        ),
        (
            {"module": AsTold(lambda x: {"token": x})},
            "`module` must give one vector an image, (1, dim); got dict.",
        ),
        (
            {"module": AsTold(lambda x: x.flatten(1) / 0)},
            "`module` must give finite numbers; the embeddings of 1 of 1 images are not.",
        ),
        (
            {"module": nn.Sequential(nn.Flatten(), nn.Linear(7, 2))},
            "`module` must take images of `size` 16; it raised: "
            "mat1 and mat2 shapes cannot be multiplied (1x768 and 7x2)",
        ),
    ],
)
def test_a_backbone_that_cannot_be(options, text):
    with pytest.raises(ValueError, match="must") as caught:
        make(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            torch.zeros(3, 16, 16, dtype=torch.uint8),
            "`images` must be square, of shape (image, 1 or 3, size, size); got (3, 16, 16).",
        ),
        (
            torch.zeros(5, 4, 16, 16, dtype=torch.uint8),
            "`images` must be square, of shape (image, 1 or 3, size, size); got (5, 4, 16, 16).",
        ),
        (
            torch.zeros(5, 3, 16, 20, dtype=torch.uint8),
            "`images` must be square, of shape (image, 1 or 3, size, size); got (5, 3, 16, 20).",
        ),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_images_that_do_not_fit(images, text):
    with pytest.raises(ValueError, match="must") as caught:
        make().embed(images)
    assert str(caught.value) == text


@pytest.mark.usefixtures("untyped")
def test_images_are_bytes():
    with pytest.raises(TypeError, match=r"`images` must be uint8; got torch\.float32\."):
        make().embed(torch.zeros(2, 3, 16, 16))


def test_embeddings_that_are_not_finite_are_counted():
    whole = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    backbone = make(AsTold(lambda x: 1 / (1 - x.amax(dim=(2, 3)))), **whole)
    images = photos(5, 16) // 2
    assert backbone.embed(images).isfinite().all()
    images[[1, 3], 2] = 255
    text = "`module` must give finite numbers; the embeddings of 2 of 5 images are not."
    with pytest.raises(ValueError, match="finite") as caught:
        backbone.embed(images)
    assert str(caught.value) == text


def test_a_network_that_mixes_its_images_is_found_out():
    backbone = make(AsTold(lambda x: x.flatten(1).mean(dim=0, keepdim=True)))
    with pytest.raises(ValueError, match=r"one vector an image, \(4, dim\); got \(1, 768\)\."):
        backbone.embed(photos(4, 16))
