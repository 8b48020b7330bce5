"""torch.hub: a repository written here, and a network that leads nowhere."""

import urllib.error

import pytest
import torch
from iai_tasks import hub_backbone

HUBCONF = """
import torch
from torch import nn

from parts import DIM


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 14, stride=14)

    def forward(self, images):
        return self.patch(images).flatten(2).transpose(1, 2)[:, 0]


def tokens(pretrained=True):
    return Tokens()


def words():
    return "no network"


def absent():
    raise FileNotFoundError("weights that the repository should have")
"""


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    (folder / "parts.py").write_text("DIM = 5")
    return folder


def test_a_local_repository_makes_the_network(repository):
    before = torch.get_rng_state()
    backbone = hub_backbone(str(repository), "tokens", source="local", size=28)
    assert torch.equal(torch.get_rng_state(), before)
    assert (backbone.name, backbone.dim, backbone.size) == ("tokens", 5, 28)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, 28, 28), generator=generator, dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = backbone.module((images / 255 - mean) / std)
    torch.testing.assert_close(backbone.embed(images), expected)


def test_a_size_that_the_network_cannot_take(repository):
    with pytest.raises(ValueError, match="`module` must take images of `size` 10; it raised: "):
        hub_backbone(str(repository), "tokens", source="local", size=10)


def test_an_entry_that_makes_no_network(repository):
    with pytest.raises(
        TypeError, match=r"`entry` must make a torch\.nn\.Module; words makes .*str"
    ):
        hub_backbone(str(repository), "words", source="local")


def test_errors_of_the_repository_are_its_own(repository):
    with pytest.raises(FileNotFoundError, match="weights that the repository should have"):
        hub_backbone(str(repository), "absent", source="local")
    with pytest.raises(RuntimeError, match="Cannot find callable nothing in hubconf"):
        hub_backbone(str(repository), "nothing", source="local")


def test_a_folder_without_a_hubconf(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*hubconf\.py"):
        hub_backbone(str(tmp_path), "tokens", source="local")


@pytest.mark.usefixtures("untyped")
def test_a_source_is_one_of_two(tmp_path):
    with pytest.raises(ValueError, match='Unknown source: "web"'):
        hub_backbone(str(tmp_path), "tokens", source="web")


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), ConnectionResetError("no route")]
)
def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch, error):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    text = r"^dinov2_vits14 of facebookresearch/dinov2 could not be fetched: .*source='local'"
    with pytest.raises(ConnectionError, match=text):
        hub_backbone("facebookresearch/dinov2", "dinov2_vits14")
