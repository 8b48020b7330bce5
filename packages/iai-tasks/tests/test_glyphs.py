"""Letters from fonts: which ones, what their images look like, and what is kept of them."""

import sys
from importlib.util import find_spec

import pytest
import torch
from drawn_font import pattern, write_font
from iai_tasks import glyphs, split_classes
from iai_tasks.letters._font import installed_fonts
from iai_tasks.letters._glyph_warp import warp
from safetensors.torch import load_file

needs_fonts = pytest.mark.skipif(
    not (find_spec("fontTools") and find_spec("PIL")), reason="needs the extra `fonts`"
)

LATIN, GREEK = "ABCDEFGHIJKL", "ΓΔΘΛΞΠΣΦΨΩ"
HEBREW = "אבגד"  # too few
PATTERNS = {character: pattern(ord(character)) for character in LATIN + GREEK + HEBREW}


@pytest.fixture
def font(tmp_path):
    box, small = pattern(0), PATTERNS["A"]
    letters = {
        **PATTERNS,
        "Α": set(PATTERNS["A"]),  # a Greek letter that looks like a Latin one  # noqa: RUF001
        "a": small,  # the very glyph of its capital
        "z": set(),  # blank
        **dict.fromkeys("mnopqrstuvwxy", box),  # a placeholder
        "é": pattern(1),
        "7": pattern(2),
        "\u0301": pattern(3),  # a mark
        "µ": pattern(4),  # of no one script
    }
    return write_font(tmp_path / "drawn.ttf", letters)


@needs_fonts
def test_classes_are_the_letters_that_look_like_no_other(font):
    letters = glyphs([font], images_per_class=3)
    assert letters.class_names == tuple(LATIN + GREEK)
    assert letters.groups == ("Latin",) * 12 + ("Greek",) * 10
    assert letters.images.dtype == torch.uint8
    assert letters.images.shape == (3 * 22, 1, 28, 28)
    assert letters.counts.tolist() == [3] * 22
    assert len(letters.images.unique(dim=0)) == 3 * 22


@needs_fonts
def test_a_limit_chooses_letters_and_changes_no_image(font):
    every = glyphs([font], images_per_class=4)
    some = glyphs([font], images_per_class=2, max_letters=10)
    assert some.class_names == (*LATIN[:10], *GREEK[:10])
    for number, name in enumerate(some.class_names):
        place = every.class_names.index(name)
        ours, theirs = some.images[some.labels == number], every.images[every.labels == place]
        assert torch.equal(ours, theirs[:2])


@needs_fonts
@pytest.mark.parametrize("size", [28, 20])
def test_images_are_their_letters_white_on_black_in_the_middle(font, size):
    letters = glyphs([font], size=size)
    images = letters.images.reshape(22, 20, size, size).float() / 255
    assert images[..., 0].mean() < 0.05
    assert images.amax(dim=(2, 3)).min() > 0.9
    at = torch.arange(size) - (size - 1) / 2
    ink = images.sum(dim=(2, 3))
    assert (images.sum(dim=2) @ at / ink).mean().abs() < 0.05 * size
    # The pattern of each letter, cut out of the mean of its images, is what the font was given.
    side = size * 5 // 7
    first = (size - side) // 2
    middle = images.mean(dim=1)[:, first : first + side, first : first + side]
    seen = torch.nn.functional.adaptive_avg_pool2d(middle[:, None], 5)[:, 0]
    for picture, name in zip(seen, letters.class_names, strict=True):
        given = torch.zeros(5, 5)
        for x, y in PATTERNS[name]:
            given[4 - y, x] = 1
        assert torch.corrcoef(torch.stack((picture.flatten(), given.flatten())))[0, 1] > 0.8


@needs_fonts
def test_fonts_take_turns_the_plain_one_first(font, tmp_path):
    others = {name: pattern(name) for name in LATIN}  # quite different ones
    bold = write_font(tmp_path / "a.ttf", others, name="Another", weight=700)
    both = glyphs([bold, font], images_per_class=4)
    plain, alone = glyphs([font], images_per_class=4), glyphs([bold], images_per_class=4)
    assert both.class_names == plain.class_names
    for letter in range(12):
        rows = torch.arange(4 * letter, 4 * letter + 4)
        assert torch.equal(both.images[rows[::2]], plain.images[rows[::2]])
        own = rows - 4 * letter + 4 * alone.class_names.index(both.class_names[letter])
        assert torch.equal(both.images[rows[1::2]], alone.images[own[1::2]])
    again = glyphs([font, tmp_path, font], images_per_class=4)  # once each, in any order
    assert torch.equal(again.images, both.images)


@needs_fonts
def test_a_cache_is_used_if_it_is_whole_and_fits(font, tmp_path, monkeypatch):
    cache = tmp_path / "new" / "cache"
    drawn = glyphs([font], images_per_class=2, cache=cache)
    (file,) = cache.iterdir()
    module = sys.modules["iai_tasks.letters.glyphs"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_draw", None)
        kept = glyphs([font], images_per_class=2, cache=cache)
    assert torch.equal(kept.images, drawn.images)
    assert (kept.class_names, kept.groups) == (drawn.class_names, drawn.groups)
    glyphs([font], images_per_class=3, cache=cache)
    assert len(list(cache.iterdir())) == 2

    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    for content in (damaged, damaged[:100], b""):
        file.write_bytes(content)
        anew = glyphs([font], images_per_class=2, cache=cache)
        assert torch.equal(anew.images, drawn.images)
        assert set(load_file(file)) == {"codes", "images"}
    assert len(list(cache.iterdir())) == 2


@needs_fonts
def test_installed_fonts_can_be_split_by_script():
    if not installed_fonts():
        pytest.skip("no font is installed")
    letters = glyphs(images_per_class=2, max_letters=12)
    if len(set(letters.groups)) < 3:
        pytest.skip("the fonts here have fewer than three scripts")
    split = split_classes(letters.groups)
    assert min(len(split.train), len(split.validation), len(split.test)) >= 5
    assert len(letters.images.unique(dim=0)) == len(letters.images)


def test_a_warp_without_noise_is_the_picture_in_the_middle(monkeypatch):
    module = sys.modules[warp.__module__]
    monkeypatch.setattr(module, "_normal", lambda seeds, _, num: torch.zeros(len(seeds), num))
    zero = torch.zeros(1, dtype=torch.int64)
    picture = torch.full((1, 56, 56), 255, dtype=torch.uint8)
    (image,) = warp(picture, zero, zero, zero, 28)
    expected = torch.zeros(28, 28)
    expected[4:24, 4:24] = 255
    assert (image - expected).abs().max() < 128  # at the edge, where ink is cut
    assert torch.equal(image[5:23, 5:23], expected[5:23, 5:23].to(torch.uint8))
    assert abs(image.sum().item() / expected.sum().item() - 1) < 0.1


@needs_fonts
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 7}, "`size` must be at least 8; got 7."),
        ({"images_per_class": 0}, "`images_per_class` must be at least 1; got 0."),
        ({"max_letters": 9}, "`max_letters` must be at least 10; got 9."),
        ({"fonts": []}, "`fonts` must have a script of at least 10 letters; the 0 fonts"),
    ],
)
def test_calls_that_do_not_fit(font, options, text):
    with pytest.raises(ValueError, match="must") as caught:
        glyphs(**{"fonts": [font], **options})
    assert str(caught.value).startswith(text)


@needs_fonts
def test_a_script_of_few_letters_is_left_out(tmp_path):
    few = write_font(tmp_path / "few.ttf", {letter: PATTERNS[letter] for letter in LATIN[:9]})
    with pytest.raises(ValueError, match="script of at least 10 letters; the 1 fonts that were"):
        glyphs([few])


@needs_fonts
def test_a_file_that_is_no_font(font, tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(font.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"`fonts` must be font files; .*broken.ttf cannot be"):
        glyphs([font, broken])
    with pytest.raises(ValueError, match=r"`fonts` must be font files; .*absent.ttf cannot be"):
        glyphs([tmp_path / "absent.ttf"])


@pytest.mark.parametrize("module", ["fontTools", "PIL"])
def test_without_its_libraries_it_says_what_to_install(request, module, monkeypatch):
    path = request.getfixturevalue("font") if module == "PIL" and find_spec("fontTools") else None
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'iai-tasks\[fonts\]'"):
        glyphs([path] if path else [])
