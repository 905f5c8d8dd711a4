import pytest
from PIL import Image

from lpi.data.records import FilePicture, normal_caption
from lpi.errors import DataError, MissingFileError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red  boat, at sea.", "a red boat at sea"),
        ("a red boat at sea", "a red boat at sea"),
        (" T-shirt\n", "t shirt"),
        ("ﬁne — “quoted”", "fine quoted"),
        ("Straße", "strasse"),
        ("एक मोती की सीप", "एक मोती की सीप"),
        ("🥇", "🥇"),
        ("C++", "c++"),
        ("!!!", "!!!"),
    ],
)
def test_captions_are_compared_without_case_punctuation_and_space(text, expected):
    assert normal_caption(text) == expected


def test_different_captions_of_punctuation_only_stay_different():
    assert normal_caption("!!!") != normal_caption("?")


def test_a_truncated_jpeg_names_the_file(tmp_path):
    path = tmp_path / "boat.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"boat\.jpg: the picture can't be read"):
        FilePicture(path, "boat.jpg").open()


def test_a_vanished_picture_names_the_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"gone\.jpg: there is no such picture"):
        FilePicture(tmp_path / "gone.jpg", "gone.jpg").open(32)


def test_a_cut_out_is_seen_on_white(tmp_path):
    path = tmp_path / "cut.png"
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(path)
    assert FilePicture(path, "cut.png").open().getpixel((1, 1)) == (255, 255, 255)


def test_a_photograph_lying_on_its_side_is_turned_upright(tmp_path):
    path = tmp_path / "side.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    assert FilePicture(path, "side.jpg").open().size == (10, 20)
