"""The confusion picture: the same as ever for plain names, and readable for all others."""

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from headstart.study import pictures

ODD = ["$5_to_$10", 'a,b "q"', "日本", "x^{", "-lead", "a|b<c>&", "\\frac{", "_", "%d", "new\nline", "\t", "n" * 300]


def test_no_name_is_mathematics_or_ends_in_a_traceback(tmp_path):
    counts = np.eye(len(ODD), dtype=np.int64)
    pictures.confusion_picture(tmp_path / "odd.png", counts, ODD, "$mine_{: linear probe")
    pictures.confusion_picture(tmp_path / "again.png", counts, ODD, "$mine_{: linear probe")
    assert (tmp_path / "odd.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "odd.png") as picture:
        assert picture.width == 100 * (4 + 0.3 * len(ODD))


def test_different_names_are_different_pictures(tmp_path):
    """What stands between dollars is drawn as it is: as mathematics x_1 and $x_1$ would only differ in shape."""
    seen = set()
    for number, name in enumerate(["x_1", "$x_1$", "$x_1", "<b>x</b>", "x"]):
        pictures.confusion_picture(tmp_path / f"{number}.png", np.eye(2, dtype=np.int64), [name, "b"], "t")
        seen.add((tmp_path / f"{number}.png").read_bytes())
    assert len(seen) == 5


def test_a_font_that_has_the_characters_is_used_where_there_is_one(monkeypatch):
    usual = pictures._fonts("plain Grün")
    assert len(usual) == 1
    file = font_manager.findfont("DejaVu Sans")

    class Font:
        def __init__(self, path):
            self.path = path

        def get_charmap(self):
            return {ord(c): 1 for c in ("plain日本" if self.path == "/cjk.ttf" else "plain")}

    entries = [font_manager.FontEntry(fname=name, name=name[1:4]) for name in ("/abc.ttf", "/cjk.ttf")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    monkeypatch.setattr("matplotlib.ft2font.FT2Font", Font)
    monkeypatch.setattr(font_manager, "findfont", lambda name: file)
    assert pictures._fonts("plain 日本") == [*usual, "cjk"]
    assert pictures._fonts("plain") == usual


@pytest.mark.parametrize("text", ["日本", "\U0001f600"])
def test_characters_that_no_font_has_are_no_error(text, tmp_path, monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    pictures.confusion_picture(tmp_path / "x.png", np.eye(2, dtype=np.int64), [text, "b"], text)
    assert (tmp_path / "x.png").stat().st_size > 1000
