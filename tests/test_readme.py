"""README's commands name what exists; test_pipeline runs them."""

import re
import shlex

from headstart import settings
from tests.checkouts import README_BLOCKS, ROOT


def test_every_make_target_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make (\w+)", "\n".join(README_BLOCKS)))
    assert named
    assert named <= targets


def test_every_override_names_a_key_of_the_settings():
    tree = settings.read_settings(ROOT)
    overrides = [
        word
        for block in README_BLOCKS
        for word in shlex.split(block, comments=True)
        if re.match(r"[a-z_.0-9:]+=", word)
    ]
    assert len(overrides) >= 8
    for override in overrides:
        settings.lookup(tree, override.partition("=")[0])  # KeyError: no such key
