"""Every block of datasets.yaml: small archives in the published form -> listing -> arrays; what the blocks state."""

import collections
import re

import numpy as np
import pytest
from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update
from known import BLOCKS, PUBLISHED, ROOT, archives, listing
from publications import PUBLICATIONS

from headstart import settings
from headstart.data import SPLITS, UNLABELLED
from headstart.errors import UserError
from headstart.ingest.decode import decode
from headstart.ingest.decoders import DECODERS, name_of
from headstart.ingest.pack import Packing, pack
from headstart.run.params import load_params, to_params

Held = collections.Counter


def held(split: str, label: str, pixels: np.ndarray, size: tuple[int, int]) -> tuple:
    return split, label, size, pixels.tobytes()


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_block_gives_the_published_images_labels_and_splits(tmp_path, name):
    published = PUBLICATIONS[name](tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {archive.file for archive in archives(name)}
    listed = listing(name, tmp_path)
    official = set(listed.splits.tolist())
    assert official == {split for split, _, _ in published.images}
    (tmp_path / "out").mkdir()
    done: list[int] = []
    packing = Packing(published.size, None, 0.2, 0.2, seed=0, skip_unreadable=False)
    meta = pack(listed, tmp_path / "out", packing, done.append)
    assert sum(done) == sum(meta["num_images"].values()) == len(published.images)
    arrays = {path.stem: np.load(path) for path in (tmp_path / "out").iterdir()}
    side = meta["stored_size"]
    expected = Held(
        held(split, label, decode(pixels, side)[0], pixels.shape[:2]) for split, label, pixels in published.images
    )
    found = Held(
        # what the dataset does not bring along comes out of train
        held(
            split if split in official else "train",
            meta["classes"][label] if label >= 0 else "",
            pixels,
            tuple(size),
        )
        for split in meta["num_images"]
        for pixels, label, size in zip(
            arrays[f"{split}_images"],
            arrays[f"{split}_labels"].tolist(),
            arrays[f"{split}_sizes"].tolist(),
            strict=True,
        )
    )
    assert found == expected
    assert set(meta["num_images"]) == {*SPLITS, *official}
    train = arrays["train_images"] / 255  # no dataset's statistics come from elsewhere
    np.testing.assert_allclose(meta["mean"], train.mean((0, 1, 2)), rtol=1e-9)


# ---- what they state


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_block_states(name):
    """Hashes, sizes and addresses are of the right form, and there is a licence, a citation and a page to read."""
    block = BLOCKS[name]
    assert DECODERS[name_of(block.decoder)].fetch is None and block.path is None
    for archive in archives(name):
        assert "/" not in archive.file
        assert archive.urls and all(re.match(r"https?://[\w.-]+/", url) for url in archive.urls)
        assert all(archive.file in url for url in archive.urls)
        for value in (archive.hash, *archive.also):
            assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", value)
        assert archive.num_bytes is None or archive.num_bytes > 100
    about = block.about
    assert about.licence and about.citation and about.homepage.startswith("https://")
    assert about.classes >= 2 and {"train"} <= set(about.num_images) <= {*SPLITS, UNLABELLED}


def test_blocks_that_share_archives_share_them_whole():
    assert archives("emnist_letters") == archives("emnist_byclass")
    assert archives("stl10") == archives("stl10_unlabelled")
    assert archives("fgvc_aircraft") == archives("fgvc_aircraft_variant")


def test_no_two_files_are_told_apart_by_nothing():
    hashes = [archive.hash for files in {archives(name) for name in PUBLISHED} for archive in files]
    assert len(set(hashes)) == len(hashes)


def test_every_published_block_has_a_generator_and_every_decoder_a_block():
    assert set(PUBLICATIONS) == set(PUBLISHED)
    assert {name_of(block.decoder) for block in BLOCKS.values()} | {"image_folder"} == set(DECODERS)
    assert all(block.path is None for block in BLOCKS.values())


@pytest.mark.parametrize("recipe", settings.RECIPES)
def test_no_block_mirrors_what_has_a_side(recipe):
    changes = {"recipe": recipe, "datasets": ["mnist"]}
    params = to_params(settings.with_overrides(settings.read_settings(ROOT), changes))
    sided = ("digits", "mnist", "emnist_letters", "svhn", "gtsrb", "organamnist", "organcmnist", "organsmnist")
    assert all(params.views_of(name).flip == 0 for name in sided)


# ---- the file


def test_the_file_is_written_as_dvc_writes_it(tmp_path):
    """So `-S` changes the one line that it is about, and a diff shows no other."""
    text = (ROOT / settings.DATASETS).read_text()
    tree = parse_yaml_for_update(text, settings.DATASETS)
    assert dumps_yaml(tree) == text
    tree["mine"]["path"] = "photographs.zip"
    before, after = text.splitlines(), dumps_yaml(tree).splitlines()
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [("  path:", "  path: photographs.zip")]


def refused(changes: dict) -> str:
    """The one line that answers the committed settings with changes, keys as -S spells them."""
    with pytest.raises(UserError) as error:
        to_params(settings.with_overrides(settings.read_settings(ROOT), changes))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("recipe", settings.RECIPES)
def test_every_block_is_valid_as_the_dataset_of_a_run(recipe):
    # digits are too small for the paper's stem
    changes = {"recipe": recipe, "datasets.yaml:digits.image_size": {"default": 8, "paper": 16}}
    tree = settings.with_overrides(settings.read_settings(ROOT), changes)
    for name in BLOCKS:
        params = to_params(settings.with_overrides(tree, {"datasets": [name]}))
        assert params.dataset(name).batch_size >= 2
    assert load_params(ROOT).rows == BLOCKS


NAMES = "a decoder's name, or a mapping of one name to its arguments"


@pytest.mark.parametrize(
    ("name", "decoder", "message"),
    [
        # a name
        ("mnist", "mnits", "'mnits' must be one of digits, "),
        ("mnist", "mnits", "(nearest: mnist)"),
        ("mnist", {"mnits": {}}, "{'mnits': {}} must be one of digits, "),
        ("mnist", None, "None must be a string or a mapping"),
        ("mnist", 7, "7 must be a string or a mapping"),
        ("mnist", [], "[] must be a string or a mapping"),
        ("mnist", {}, f"{{}} must be {NAMES}"),
        ("mnist", {"mnist": None}, f"{{'mnist': None}} must be {NAMES}"),
        ("mnist", {"mnist": {}, "emnist": {"split": "letters"}}, f"must be {NAMES}"),
        # its arguments: misspelt, missing, none that it takes
        (
            "emnist_letters",
            {"emnist": {"spilt": "letters"}},
            "must give emnist no spilt (nearest: split); allowed: split",
        ),
        ("emnist_letters", "emnist", "'emnist' must give emnist its arguments: missing a required argument: 'split'"),
        ("emnist_letters", {"emnist": {}}, "must give emnist its arguments: missing a required argument: 'split'"),
        ("eurosat", {"by_folder": {"file": "EuroSAT.zip"}}, "missing a required argument: 'pattern'"),
        ("cifar10", {"cifar10": {"split": "x"}}, "must give cifar10 no split; allowed: nothing"),
        ("cifar10", {"cifar10": {"folder": "x"}}, "must give cifar10 no folder; allowed: nothing"),
    ],
)
def test_decoders_that_are_none(name, decoder, message):
    found = refused({f"datasets.yaml:{name}.decoder": decoder})
    assert found.startswith(f"datasets.yaml: {name}.decoder: {decoder!r} must ")
    assert message in found


@pytest.mark.parametrize(
    ("name", "decoder", "message"),
    [
        (
            *("emnist_letters", {"emnist": {"split": "leters"}}),
            "emnist.split: 'leters' must be one of byclass, bymerge, balanced, letters, digits, mnist "
            "(nearest: letters)",
        ),
        (
            *("fgvc_aircraft", {"aircraft": {"level": "maker"}}),
            "aircraft.level: 'maker' must be one of manufacturer, family, variant",
        ),
        ("stl10", {"stl10": {"unlabelled": "yes"}}, "stl10.unlabelled: 'yes' must be a boolean"),
        ("mnist", {"mnist": {"classes": "0123456789"}}, "mnist.classes: '0123456789' must be a list"),
        ("mnist", {"mnist": {"classes": [0, 1]}}, "mnist.classes.0: 0 must be a string"),
        (
            *("eurosat", {"by_folder": {"file": "EuroSAT.zip", "pattern": "a("}}),
            "by_folder.pattern: 'a(' must be a regular expression: missing ), unterminated subpattern at position 1",
        ),
        (
            *("eurosat", {"by_folder": {"file": "EuroSAT.zip", "pattern": "2750/.*"}}),
            "by_folder.pattern: '2750/.*' must have a group that is named label",
        ),
        (
            *("eurosat", {"by_folder": {"file": "x.zip", "pattern": "(?P<label>.)", "splits": {"valid": "valid"}}}),
            "by_folder.splits.valid: 'valid' must be one of train, val, test (nearest: val)",
        ),
    ],
)
def test_arguments_that_no_decoder_takes(name, decoder, message):
    assert refused({f"datasets.yaml:{name}.decoder": decoder}) == f"datasets.yaml: {name}.decoder.{message}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("file", "../x.gz", "'../x.gz' must be the name of a file, without a folder"),
        ("file", "..", "'..' must be the name of a file, without a folder"),
        ("urls", ["ftp://x/x.gz"], "'ftp://x/x.gz' must be a URL that begins with http:// or https://"),
        ("urls", "https://x/x.gz", "'https://x/x.gz' must be a list"),
        ("hash", "f68b3c2d", "'f68b3c2d' must be md5: or sha256: and the digits of the hash"),
        ("hash", "md6:f68b3c2dcbeaaa9fbdd348bbdeb94873", "must be md5: or sha256: and the digits of the hash"),
        ("also", ["md5:1"], "'md5:1' must be md5: or sha256: and the digits of the hash"),
        ("num_bytes", 0, "0 must be at least 1"),
        ("num_bytes", "9 MB", "'9 MB' must be an integer"),
    ],
)
def test_archives_that_are_none(key, value, message):
    tree = settings.read_settings(ROOT)
    files = [dict(archive) for archive in tree[settings.DATASETS]["mnist"]["archives"]]
    files[1][key] = value
    found = refused({"datasets.yaml:mnist.archives": files})
    inner = ".0" if isinstance(value, list) else ""
    assert found.startswith(f"datasets.yaml: mnist.archives.1.{key}{inner}: ")
    assert found.endswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mnist.archives": [{"file": "x.gz"}]}, "datasets.yaml: mnist.archives.0.urls: missing key"),
        (
            {"mnist.archives": [{"file": "x.gz", "urls": [], "size": 3}]},
            "datasets.yaml: mnist.archives.0.size: unknown key; allowed here: file, urls, hash, also",
        ),
        (
            {"mnist.about.licens": "MIT"},
            "datasets.yaml: mnist.about.licens: unknown key (nearest: licence); allowed here: ",
        ),
        ({"mnist.kind": "mnist"}, "datasets.yaml: mnist.kind: unknown key; allowed here: "),
        ({"mnist": None}, "datasets.yaml: mnist: None must be a mapping: a dataset's block"),
        ({"mnist": {"decoder": "mnist"}}, "datasets.yaml: mnist.archives: missing key"),
    ],
)
def test_blocks_that_are_none(changes, message):
    assert refused({f"datasets.yaml:{key}": value for key, value in changes.items()}).startswith(message)
