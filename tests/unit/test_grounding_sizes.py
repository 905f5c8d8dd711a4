"""The benchmark of real sizes, on a small one: it trains, saves, loads, locates and counts."""

from pathlib import Path

import grounding_sizes


def test_every_figure_is_there(tmp_path: Path) -> None:
    figures = grounding_sizes.measure("owlv2", tmp_path, side=48, batch=2, steps=3, quick=True)
    assert len(figures["losses"]) == 3
    assert figures["step_seconds"] > 0
    assert figures["peak_mb"] > 100
    assert 0 < figures["trainable_per_task"] < 42_000  # below half a million for twelve tasks
    assert figures["stored_bytes_per_task"] > 4 * figures["trainable_per_task"]
    left, top, right, bottom = figures["located"]["box"]
    assert 0 <= left <= right <= 224
    assert 0 <= top <= bottom <= 224
    assert figures["located"]["task"] == "food"


def test_the_spelling_tokenizer_has_the_delimiters_that_the_detector_knows() -> None:
    tokenizer = grounding_sizes.spelling_tokenizer()
    assert len(tokenizer) == 30_522
    ids = tokenizer("a dog.")["input_ids"]
    assert ids[0] == 101
    assert ids[-2:] == [1012, 102]
    assert tokenizer.unk_token_id not in ids
