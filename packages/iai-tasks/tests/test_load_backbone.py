"""load_backbone: which network a name asks for."""

import pytest
import torch
from iai_tasks import load_backbone
from iai_tasks.embeddings import load_backbone as module


def test_random_features_are_the_same_every_time_and_draw_no_random_numbers():
    before = torch.get_rng_state()
    one, two = (load_backbone("random", size=8) for _ in range(2))
    assert one.fingerprint == two.fingerprint and one.dim == 72
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "loader", "given"),
    [
        ("efficientnet_lite0", "efficientnet_lite0", ()),
        ("dinov2_vits14", "hub_backbone", ("facebookresearch/dinov2", "dinov2_vits14")),
        ("resnet18", "torchvision_backbone", ("resnet18", "weights.pth")),
    ],
)
def test_a_name_has_a_loader(monkeypatch, name, loader, given):
    found, calls = load_backbone("random", size=8), []
    monkeypatch.setattr(
        module, loader, lambda *args, **options: calls.append((args, options)) or found
    )
    assert load_backbone(name, size=96, weights="weights.pth") is found
    assert calls == [(given, {"size": 96})]


def test_an_architecture_needs_weights():
    with pytest.raises(ValueError, match="`weights` must name a file of weights for resnet18;"):
        load_backbone("resnet18")
