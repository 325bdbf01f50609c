"""WebDataset shards: tar files in which the members of one name before the first dot are a sample.

What belongs together is webdataset's own rule; the bytes come by archives.py, which checks them.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import UserError, reason
from headstart.ingest.archives import list_members, read_members
from headstart.ingest.formats import Listing, Read, of_entries
from headstart.ingest.spelling import same_name, split_of
from headstart.ingest.tree import Entry, Layout, in_order, is_image, settle

FOLDER, SUFFIX = "shards", ".tar"  # in data/raw/<dataset>


def is_shard(path: Path) -> bool:
    """Whether a tar holds samples with labels: a member <key>.cls."""
    return any(member.name.endswith(".cls") for member in list_members(path))


def read_shards(files: Mapping[str, Path]) -> Layout:
    """Return the layout of the samples of shards, by name, each called `<shard>/<key>.<suffix>`.

    A sample's image is its member with an image's suffix; its label is <key>.cls, or `label` in <key>.json. Splits are
    those of the shards' names, as train-000000.tar. Raises UserError for a sample with two images.
    """
    spelt = any(split_of(Path(name).stem) for name in files)
    entries, without = list[Entry](), 0
    passed: dict[str, tuple[int, int]] = {}
    for name, path in sorted(files.items()):
        list_members(path)
        spelling = split_of(Path(name).stem)
        for key, suffix, sample in _samples(name, path):
            if not suffix:
                without += 1
            elif spelt and spelling is None:
                passed[f"{name}/"] = (passed.get(f"{name}/", (0, 0))[0] + 1, 0)
            else:
                split = spelling.split if spelling else "train"
                entries.append(Entry(split, _label(sample, f"{path}: {key}"), f"{name}/{key}.{suffix}"))
    if not entries:
        raise UserError(f"{next(iter(files.values()), '')}: no sample of it has an image")
    notes = [f"{without} samples have no image"] if without else []
    return Layout(in_order(settle(entries, notes)), notes, passed)


def _samples(name: str, path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield key, the image's suffix ("" for none) and the members of each sample."""
    from webdataset.tariterators import group_by_keys  # with torch's loaders: a second

    members = ({"fname": member, "data": data, "__url__": name} for member, data in read_members(path))
    try:
        for sample in group_by_keys(members):
            key = sample["__key__"]
            images = [suffix for suffix in sample if suffix[:2] != "__" and is_image((key, f"x.{suffix}"))]
            plain = [suffix for suffix in images if "." not in suffix] or images
            if len(plain) > 1:
                raise UserError(f"{path}: sample {key!r} has several images ({', '.join(plain)}); leave one in it")
            yield key, plain[0] if plain else "", sample
    except ValueError as error:
        raise UserError(f"{path}: {reason(error, 120)}; write the shards anew") from None


def _label(sample: Mapping[str, Any], where: str) -> str:
    try:
        if "cls" in sample:
            return same_name(sample["cls"].decode().strip())
        value = json.loads(sample["json"]).get("label") if "json" in sample else None
        return "" if value is None else same_name(str(value))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{where}: its label cannot be read ({' '.join(str(error).split())[:60]})") from None


def list_shards(folder: Path) -> Listing:
    """Return the images of the shards that lie in a folder."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob(f"*{SUFFIX}")}
    layout = read_shards(files)
    index = {entry.name: number for number, entry in enumerate(layout.entries)}
    num_bytes = sum(path.stat().st_size for path in files.values())
    return of_entries(str(folder), layout.entries, num_bytes, functools.partial(_read, files, index))


def _read(files: Mapping[str, Path], index: Mapping[str, int]) -> Read:
    for name, path in sorted(files.items()):
        for key, suffix, sample in _samples(name, path):
            if (number := index.get(f"{name}/{key}.{suffix}")) is not None:
                yield number, sample[suffix]
