"""A font drawn by the tests, each letter a pattern of squares."""

import random

WIDTH = 5  # squares of a pattern's side


def pattern(seed):
    """Which squares of WIDTH x WIDTH are inked: about half, a corner to each side among them."""
    rng = random.Random(seed)
    inked = {(x, y) for x in range(WIDTH) for y in range(WIDTH) if rng.random() < 0.5}
    return inked | {(0, 0), (WIDTH - 1, WIDTH - 1)}


def write_font(path, letters, *, name="Drawn", weight=400):
    """Writes a TrueType font.

    Args:
        path: Where to.
        letters: The pattern of each character; the same object for characters of one glyph.
        name: The font's full name.
        weight: 400 is regular.
    """
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    glyph_of = {}
    for squares in letters.values():
        glyph_of.setdefault(id(squares), (f"glyph{len(glyph_of)}", squares))
    builder = FontBuilder(1000, isTTF=True)
    box = {(x, y) for x in range(WIDTH) for y in range(WIDTH) if x % 4 == 0 or y % 4 == 0}
    glyphs = {".notdef": box, **dict(glyph_of.values())}
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap(
        {ord(character): glyph_of[id(squares)][0] for character, squares in letters.items()}
    )
    outlines = {}
    for glyph, squares in glyphs.items():
        pen = TTGlyphPen(None)
        for x, y in sorted(squares):
            left, bottom = 140 * x, 140 * y
            pen.moveTo((left, bottom))
            for corner in ((left, bottom + 140), (left + 140, bottom + 140), (left + 140, bottom)):
                pen.lineTo(corner)
            pen.closePath()
        outlines[glyph] = pen.glyph()
    builder.setupGlyf(outlines)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular", "fullName": name})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200, usWeightClass=weight)
    builder.setupPost()
    builder.save(path)
    return path
