"""torchvision's networks, with drawn weights in files written here."""

import sys

import pytest
import safetensors.torch
import torch
from iai_tasks import torchvision_backbone
from iai_tasks._torchvision import import_torchvision
from torch import nn

NAME = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def models():
    try:
        return import_torchvision("models")
    except ImportError:
        pytest.skip("needs the extra `vision`")


@torch.no_grad()
def drawn(models, name, **options):
    """A network of drawn weights, normalised by what it sees: else next to nothing gets through."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.get_model(name, weights=None, **options).train()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        network(scaled(photos(64, num=8)))
    return network.eval()


@pytest.fixture(scope="module")
def original(models):
    return drawn(models, NAME)


def photos(size, num=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num, 3, size, size), generator=generator, dtype=torch.uint8)


def scaled(images):
    """What torchvision's own `transforms.Normalize` for ImageNet makes of them."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    return (images / 255 - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def save(path, content):
    torch.save(content, path)
    return path


@torch.no_grad()
def check(network, last, backbone, images):
    """The last layer over the embeddings is the whole network."""
    logits = last(backbone.embed(images))
    torch.testing.assert_close(logits, network(scaled(images)), rtol=1e-3, atol=1e-4)
    assert logits.std(dim=0).max() > 0.01


def test_the_last_layer_over_it_is_the_network(original, tmp_path):
    path = save(tmp_path / "weights.pth", original.state_dict())
    before = torch.get_rng_state()
    backbone = torchvision_backbone(NAME, str(path), size=64)
    assert torch.equal(torch.get_rng_state(), before)
    assert (backbone.name, backbone.size, backbone.dim) == (NAME, 64, 1024)
    check(original, original.classifier[-1], backbone, photos(64))


@pytest.mark.parametrize(
    ("name", "last", "size", "options"),
    [
        ("resnet18", "fc", 40, {}),
        ("vit_b_32", "heads.head", 64, {"image_size": 64}),
        ("googlenet", "fc", 64, {"init_weights": False, "transform_input": True}),
    ],
)
def test_heads_have_other_names(models, tmp_path, name, last, size, options):
    network = drawn(models, name, **options)
    layer = network.get_submodule(last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(layer.weight)  # a vision transformer begins with zeros
    path = save(tmp_path / "weights.pth", network.state_dict())
    check(network, layer, torchvision_backbone(name, path, size=size), photos(size))
    path.unlink()  # up to 350 MB


def test_a_convolution_may_be_the_last_layer(models, tmp_path):
    network = drawn(models, "squeezenet1_1")
    path = save(tmp_path / "weights.pth", network.state_dict())
    images = photos(48)
    with torch.no_grad():
        expected = network.features(scaled(images)).mean(dim=(2, 3))
    got = torchvision_backbone("squeezenet1_1", path, size=48).embed(images)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_densenet_is_published_under_old_names(models, tmp_path):
    network = drawn(models, "densenet121")
    old = {}
    for name, tensor in network.state_dict().items():
        for layer in ("norm", "conv"):
            for number in "12":
                dotted = f".{layer}.{number}."
                name = name.replace(f".{layer}{number}.", dotted) if "denselayer" in name else name
        old[name] = tensor
    assert old.keys() != network.state_dict().keys()
    path = save(tmp_path / "weights.pth", old)
    check(
        network, network.classifier, torchvision_backbone("densenet121", path, size=32), photos(32)
    )


def test_every_way_to_keep_the_same_weights(original, tmp_path):
    state = original.state_dict()
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    contents = [
        state,
        {"state_dict": state, "epoch": 3},
        {"model_state_dict": state, "loss": 0.5},
        {"model": parallel, "optimizer": {"state": {}}},
        {"state_dict": {name: tensor.double() for name, tensor in parallel.items()}},
    ]
    paths = [save(tmp_path / f"{n}.pth", content) for n, content in enumerate(contents)]
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    paths.append(tmp_path / "weights.safetensors")
    assert len({torchvision_backbone(NAME, path, size=32).fingerprint for path in paths}) == 1


def fitted(original, change):
    state = dict(original.state_dict())
    change(state)
    return state


def without_head(state):
    for name in [name for name in state if name.startswith("classifier")]:
        del state[name]


def of_another_width(state):
    state["classifier.0.weight"] = torch.zeros(10, 576)
    state["extra"] = torch.zeros(1)


def of_whole_numbers(state):
    state["classifier.0.bias"] = torch.zeros(1024, dtype=torch.int64)


def test_weights_may_be_of_any_number_of_classes(original, tmp_path):
    state = dict(original.state_dict())
    whole = torchvision_backbone(NAME, save(tmp_path / "whole.pth", state), size=32)
    state["classifier.3.weight"] = torch.zeros(10, 1024)
    state["classifier.3.bias"] = torch.zeros(10)
    tuned = torchvision_backbone(NAME, save(tmp_path / "tuned.pth", state), size=32)
    assert tuned.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            without_head,
            "missing: classifier.0.weight, classifier.0.bias.",
        ),
        (
            of_another_width,
            "unexpected: extra; misshapen: classifier.0.weight (10, 576) for (1024, 576).",
        ),
        (
            of_whole_numbers,
            "whole numbers: classifier.0.bias torch.int64 for torch.float32.",
        ),
    ],
)
def test_weights_that_do_not_fit(original, tmp_path, change, text):
    path = save(tmp_path / "weights.pth", fitted(original, change))
    with pytest.raises(ValueError, match="must fit") as caught:
        torchvision_backbone(NAME, path)
    assert str(caught.value) == f"`weights` must fit {NAME}; {text}"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.usefixtures("models")
def test_code_in_a_file_is_not_run(tmp_path):
    caught = tmp_path / "caught"
    path = save(tmp_path / "weights.pth", {"weight": torch.zeros(1), "trap": Trap(caught)})
    with pytest.raises(ValueError, match="holds other objects, which are not loaded"):
        torchvision_backbone(NAME, path)
    assert not caught.exists()


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights" * 30])
def test_a_file_of_another_kind_is_named(tmp_path, ending, content):
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights\.{ending} is damaged or holds other"):
        torchvision_backbone(NAME, path)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({}, r"weights\.pth holds none\."),
        (torch.zeros(3), r"weights\.pth holds none\."),
        ({"epoch": 3}, r"in .*weights\.pth, 'epoch' is none\."),
    ],
)
def test_a_file_of_other_things(tmp_path, content, text):
    path = save(tmp_path / "weights.pth", content)
    with pytest.raises(ValueError, match=f"`weights` must hold tensors by name; .*{text}"):
        torchvision_backbone(NAME, path)


@pytest.mark.usefixtures("models")
def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`weights` must be a file; there is none at"):
        torchvision_backbone(NAME, tmp_path / "absent.pth")


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("architecture", "size", "text"),
    [
        (
            "resnet5",
            224,
            "`architecture` must be a classification network of torchvision.models, such as "
            "resnet50, resnet152, resnet34; got 'resnet5'.",
        ),
        (NAME, 0, "`size` must be at least 1; got 0."),
        (
            "vit_b_32",
            100,
            "`size` must suit vit_b_32; got 100: Input shape indivisible by patch size!",
        ),
    ],
)
def test_calls_that_do_not_fit(original, tmp_path, architecture, size, text):
    path = save(tmp_path / "weights.pth", original.state_dict())
    with pytest.raises(ValueError, match="must") as caught:
        torchvision_backbone(architecture, path, size=size)
    assert str(caught.value) == text


def test_without_torchvision_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        ImportError, match=r"`torchvision` is not installed: pip install 'iai-tasks\[vision\]'\.$"
    ):
        torchvision_backbone(NAME, tmp_path / "weights.safetensors")
