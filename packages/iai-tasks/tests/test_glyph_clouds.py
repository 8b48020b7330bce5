"""Points on letters: where the ink is, turned as the latent says."""

import math

import pytest
import torch
from drawn_font import WIDTH, pattern, write_font
from iai_tasks import GlyphClouds
from iai_tasks.letters import glyph_clouds

pytest.importorskip("fontTools", reason="needs the extra `fonts`")
pytest.importorskip("PIL", reason="needs the extra `fonts`")

LETTERS = {letter: pattern(number) for number, letter in enumerate("ABC")}


@pytest.fixture
def font(tmp_path):
    return write_font(tmp_path / "drawn.ttf", LETTERS)


def draw(sampler, num_tasks=4, num_support=500, num_query=3, latent=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = {"num_support": num_support, "num_query": num_query}
    return sampler.sample(num_tasks, **counts, generator=generator, latent=latent)


def test_points_are_where_the_ink_is(font, monkeypatch):
    monkeypatch.setattr(glyph_clouds, "_RESOLUTION", 10 * WIDTH)
    sampler = GlyphClouds([font], "ABC", scale=2.0, noise=0.0)
    latent = torch.tensor([[0.0, 0], [1, 0], [2, 0]])
    x = draw(sampler, 3, latent=latent).support.x
    assert x.abs().max() < 2.0
    square = ((x + 2.0) / 4.0 * WIDTH).floor().long()  # each letter fills its box
    for points, letter in zip(square.tolist(), "ABC", strict=True):
        assert set(map(tuple, points)) == LETTERS[letter]


def test_a_task_turns_its_letter(font):
    options = {"noise": 0.0}
    straight, turned = (
        draw(GlyphClouds([font], "ABC", **options), 1, latent=torch.tensor([[1.0, angle]]))
        for angle in (0.0, math.pi / 2)
    )
    x, y = straight.support.x.unbind(-1)
    assert torch.allclose(turned.support.x, torch.stack([-y, x], dim=-1), atol=1e-5)
    angles = draw(GlyphClouds([font], "ABC"), 500, 0, 0).latent[:, 1]
    assert 0 <= angles.min() < 0.1 and 6.2 < angles.max() < 2 * math.pi


def test_the_longer_side_fills_the_box_and_the_aspect_is_kept(tmp_path):
    tall = {(0, y) for y in range(4)}
    sampler = GlyphClouds([write_font(tmp_path / "tall.ttf", {"l": tall})], "l", noise=0.0)
    x = draw(sampler, 1, latent=torch.zeros(1, 2)).support.x[0]
    assert x[:, 1].abs().max().item() == pytest.approx(3.0, abs=0.06)
    assert x[:, 0].abs().max().item() == pytest.approx(0.75, abs=0.06)


def test_noise_has_its_size(font):
    latent = torch.tensor([[0.0, 0.0]])
    clean, noisy = (
        draw(GlyphClouds([font], "A", noise=noise), 1, 20_000, latent=latent).support.x
        for noise in (0.0, 0.2)
    )
    assert (noisy - clean).std().item() == pytest.approx(0.2, rel=0.02)


def test_glyphs_are_counted_through_the_letters_of_each_font(tmp_path, font, monkeypatch):
    monkeypatch.setattr(glyph_clouds, "_RESOLUTION", 10)
    swapped = {"A": LETTERS["B"], "B": LETTERS["A"]}
    other = write_font(tmp_path / "other.ttf", swapped, name="Other")
    sampler = GlyphClouds([font, other], "AB", noise=0.0)
    assert draw(sampler, 99, 0, 0).latent[:, 0].unique().tolist() == [0, 1, 2, 3]
    latent = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    looks = [{tuple(p) for p in task} for task in draw(sampler, latent=latent).support.x.tolist()]
    near = [[len(a & b) / len(a | b) > 0.5 for b in looks] for a in looks]
    assert near == [
        [True, False, False, True],
        [False, True, True, False],
        [False, True, True, False],
        [True, False, False, True],
    ]


def test_what_cannot_be_drawn(tmp_path, font, untyped):
    with pytest.raises(ValueError, match=r"`letters` must all be in every font; .* has no 'D'"):
        GlyphClouds([font], "AD")
    with pytest.raises(ValueError, match=r"has no ' '"):
        GlyphClouds([font], " ")
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    with pytest.raises(ValueError, match="`fonts` must be font files"):
        GlyphClouds([broken], "A")
    with pytest.raises(ValueError, match=r"list of at least one font file; got 'drawn\.ttf'"):
        GlyphClouds("drawn.ttf", "A")
    for options, text in (
        ({"letters": ""}, "`letters` must hold at least one character"),
        ({"scale": 0.0}, "`scale` must be above 0; got 0.0"),
        ({"noise": -1.0}, "`noise` must be at least 0; got -1.0"),
    ):
        with pytest.raises(ValueError, match=text):
            GlyphClouds([font], **{"letters": "A", **options})


def test_a_latent_must_name_a_glyph(font):
    with pytest.raises(ValueError, match=r"glyphs from 0 to 0; got \[1\]"):
        draw(GlyphClouds([font], "A"), 1, latent=torch.tensor([[1.0, 0.0]]))


def test_the_fingerprint_is_of_the_letters_and_not_of_the_file(font, tmp_path):
    fingerprint = GlyphClouds([font], "AB").fingerprint
    moved = write_font(tmp_path / "moved.ttf", LETTERS)
    other = write_font(tmp_path / "other.ttf", LETTERS | {"B": LETTERS["C"]})
    assert GlyphClouds([moved], "AB").fingerprint == fingerprint
    assert GlyphClouds([other], "AB").fingerprint != fingerprint
    assert GlyphClouds([font], "BA").fingerprint != fingerprint
