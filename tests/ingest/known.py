"""datasets.yaml for the tests of `ingest`: its blocks, typed, and workspaces with other ones, in which stages run."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from headstart import settings
from headstart.ingest import decoders
from headstart.ingest.formats import Listing
from headstart.ingest.sources import Archive
from headstart.run.params import Params, load_params

ROOT = Path(__file__).parents[2]
BLOCKS = load_params(ROOT).rows
PUBLISHED = [name for name, block in BLOCKS.items() if block.archives]


def archives(name: str) -> tuple[Archive, ...]:
    """The files that a dataset is published as, none for bundled ones and one's own."""
    return BLOCKS[name].archives or ()


def listing(name: str, folder: Path) -> Listing:
    """What a folder holds, read as the block of that name says."""
    return decoders.list_images(BLOCKS[name].decoder, folder)


def decoder_arguments(name: str) -> dict[str, Any]:
    """What a block gives its decoder."""
    decoder = BLOCKS[name].decoder
    return {} if isinstance(decoder, str) else decoder[decoders.name_of(decoder)]


def given(name: str) -> Path:
    """A file or folder of real data that HEADSTART_TEST_DATA names the directory of; skips the test without it."""
    folder = os.environ.get("HEADSTART_TEST_DATA")
    if not folder:
        pytest.skip(f"HEADSTART_TEST_DATA is not set: a directory that holds {name}")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"HEADSTART_TEST_DATA has no {name}: {path}")
    return path


def settle(workspace: Path, changes: dict[str, Any]) -> Params:
    """Make a folder one in which stages run: the repository's code, its settings with changes, keys as -S spells them.

    A key may name a new block. Nothing is tracked.
    """
    tree = settings.with_overrides(settings.read_settings(ROOT), {"tracking.enabled": False} | changes)
    for name, values in tree.items():
        (workspace / name).write_text(yaml.safe_dump(values, sort_keys=False))
    link_code(workspace)
    return load_params(workspace)


def copy_settings(workspace: Path, copy: Path) -> None:
    """Make another folder hold what DVC's copy of a workspace would."""
    for name in (settings.PARAMS, settings.DATASETS):
        shutil.copy(workspace / name, copy)
    link_code(copy)


def link_code(folder: Path) -> None:
    """Link what dvc.yaml names: stages note the digests of their code."""
    for name in ("dvc.yaml", "src", "stages"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
