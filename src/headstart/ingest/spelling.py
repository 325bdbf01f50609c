"""How people spell the names of splits, and how class names are spelt the same."""

import re
import unicodedata
from typing import NamedTuple

from headstart.data import UNLABELLED

WORDS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "dev", "valset"),
    "test": ("test", "testing", "testset"),
    UNLABELLED: ("unlabelled", "unlabeled"),
}
_SPLITS = {word: split for split, words in WORDS.items() for word in words}


class Spelling(NamedTuple):
    """A split that a name stands for; exact: the name is one of its words, without prefix or suffix."""

    split: str
    exact: bool


def split_of(name: str) -> Spelling | None:
    """Return the split that a folder or file is named after, None for none or several.

    Any case; words of a longer name are told apart by what is no letter and by capitals: Final_Training, seg_test,
    train2017, TestImages.
    """
    whole = name.strip().lower()
    if whole in _SPLITS:
        return Spelling(_SPLITS[whole], True)
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", unicodedata.normalize("NFC", name))
    found = {_SPLITS[word.lower()] for word in words if word.lower() in _SPLITS}
    return Spelling(found.pop(), False) if len(found) == 1 else None


def same_name(name: str) -> str:
    """Return a class's name in the one form (NFC) that what looks the same has: macOS writes NFD."""
    return unicodedata.normalize("NFC", name)
