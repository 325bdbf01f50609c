"""Prepared arrays are verified by the digest in their meta.json before a stage computes with them."""

import json
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import UserError
from headstart.ingest.bring import META, pack_source
from headstart.ingest.pack import Packing
from headstart.run import inputs
from headstart.run.inputs import check_arrays
from headstart.run.stage import progress


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    pack_source("digits", "digits", folder, folder, Packing(16, None, 0.1, 0.2, 0, False), progress, lambda note: None)
    return folder


def test_whole_arrays_pass(packed):
    check_arrays(packed)
    check_arrays(packed / "absent")


def test_a_flipped_bit_of_any_array_is_told(packed):
    files, random = sorted(packed.glob("*.npy")), np.random.default_rng(0)
    assert len(files) == 9
    for file in files:
        whole = file.read_bytes()
        for place in random.integers(0, 8 * len(whole), 5).tolist():
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            file.write_bytes(flipped)
            with pytest.raises(UserError) as error:
                check_arrays(packed)
            assert str(error.value).startswith(f"{packed}: not the arrays whose digest meta.json has")
        file.unlink()
        with pytest.raises(UserError, match="damaged; remove the folder, then dvc repro"):
            check_arrays(packed)
        file.write_bytes(whole)
    check_arrays(packed)


def test_what_has_no_digest_or_would_cost_too_much_is_not_read(packed, monkeypatch):
    meta = (packed / META).read_text()
    (packed / META).write_text(json.dumps({name: value for name, value in json.loads(meta).items() if name != "hash"}))
    check_arrays(packed)
    (packed / META).write_text(meta.replace('"hash": "', '"hash": "0'))
    with pytest.raises(UserError):
        check_arrays(packed)
    monkeypatch.setattr(inputs, "VERIFIED_BYTES", 0)
    check_arrays(packed)
    (packed / META).write_text(meta)
