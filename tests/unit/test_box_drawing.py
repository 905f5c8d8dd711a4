"""Boxes drawn on pictures: in their place and colour, with labels that can be read."""

import numpy as np
import pytest
from PIL import Image

from lpi.data.expressions.drawing import DrawnBox, draw_boxes
from lpi.errors import ConfigError, DataError


def test_boxes_are_drawn_where_they_are_in_their_colours():
    image = Image.new("RGB", (400, 400), "grey")
    drawn = draw_boxes(image, [DrawnBox((50, 60, 150, 160), kind="true"), DrawnBox((200, 200, 350, 390))])
    assert drawn.size == (400, 400)
    assert image.getpixel((50, 60)) == (128, 128, 128)  # a copy
    pixels = np.asarray(drawn)
    orange = (pixels == (213, 94, 0)).all(2).nonzero()
    assert (orange[1].min(), orange[0].min(), orange[1].max(), orange[0].max()) == (200, 200, 350, 390)
    green = (pixels == (0, 158, 115)).all(2)
    rows, columns = green.nonzero()
    assert max(abs(columns.min() - 50), abs(rows.min() - 60), abs(columns.max() - 150), abs(rows.max() - 160)) <= 2
    edge = green[60:62, 50:151].any(0)
    assert 0.3 < edge.mean() < 0.8  # a broken line
    assert (pixels[100, 100] == 128).all()


def test_a_small_picture_is_enlarged_and_its_caption_wrapped_below():
    image = Image.new("RGB", (40, 20), "white")
    plain = draw_boxes(image, [])
    assert plain.size == (720, 360)
    one, more = (draw_boxes(image, [], caption=" ".join(["word"] * count)) for count in (3, 60))
    assert one.width == more.width == 720
    assert 360 < one.height < more.height
    assert np.asarray(one)[360:].min() < 60  # something is written


def test_labels_do_not_cover_each_other_or_leave_the_picture():
    image = Image.new("RGB", (400, 400), (128, 128, 128))
    boxes = [DrawnBox((2, 2, 60, 60), "one", kind) for kind in ("true", "predicted", "other")]
    labelled, bare = (
        np.asarray(draw_boxes(image, [DrawnBox(box.box, box.label if text else "", box.kind) for box in boxes]))
        for text in (True, False)
    )
    for colour in ((0, 158, 115), (213, 94, 0), (0, 114, 178)):
        filled = (labelled == colour).all(2).sum() - (bare == colour).all(2).sum()
        assert filled > 200  # each label's ground is seen, none is hidden
    long = draw_boxes(image, [DrawnBox((380, 380, 399, 399), "a very long label " * 9)])
    assert long.size == (400, 400)


def test_boxes_that_cannot_be_drawn_are_refused():
    with pytest.raises(DataError, match=r"rising order; got \[9, 0, 1, 5\]"):
        DrawnBox((9, 0, 1, 5))
    with pytest.raises(DataError, match="nan"):
        DrawnBox((0, 0, float("nan"), 5))
    with pytest.raises(ConfigError, match=r"'truth'.*Did you mean 'true'"):
        DrawnBox((0, 0, 1, 5), kind="truth")
    with pytest.raises(ConfigError, match="got 0"):
        draw_boxes(Image.new("RGB", (4, 4)), [], least_side=0)
