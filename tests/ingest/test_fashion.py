"""The real Fashion-MNIST, as Debian's package carries it: its content is upstream's, and it is read right."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from known import archives, given, listing

from headstart.ingest.pack import Packing, pack

FASHION_MNIST = archives("fashion_mnist")
WRITTEN = {"train": 0x59A7E9DE, "t10k": 0x59A7E9F3}  # 2017-08-31 10:50:06 and 10:50:27 UTC, upstream's headers


@pytest.fixture(scope="module")
def debian() -> Path:
    """What the package dataset-fashion-mnist installs below /usr/share/datasets, linked or copied."""
    return given("fashion-mnist")


@pytest.mark.parametrize("archive", FASHION_MNIST, ids=lambda archive: archive.file)
def test_debians_content_is_upstreams_byte_for_byte(debian, archive):
    """With name and time, which Debian's build takes out, back in the gzip header, upstream's md5 and size come out."""
    data = (debian / archive.file).read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" in archive.also
    name = archive.file.removesuffix(".gz")
    header = struct.pack("<2sBBIBB", b"\x1f\x8b", 8, 8, WRITTEN[name.split("-")[0]], 0, 3) + name.encode() + b"\0"
    upstream = header + data[10:]
    assert f"md5:{hashlib.md5(upstream).hexdigest()}" == archive.hash
    assert len(upstream) == archive.num_bytes


def test_real_images(debian, tmp_path):
    for archive in FASHION_MNIST:
        (tmp_path / archive.file).symlink_to(debian / archive.file)
    found = listing("fashion_mnist", tmp_path)
    (tmp_path / "out").mkdir()
    meta = pack(found, tmp_path / "out", Packing(28, None, 0.1, 0.2, 0, False), lambda done: None)
    assert meta["num_images"] == {"train": 54000, "val": 6000, "test": 10000}
    assert np.bincount(found.labels[:60000]).tolist() == [6000] * 10
    assert np.bincount(found.labels[60000:]).tolist() == [1000] * 10
    # the published statistics are 0.2860 and 0.3530 over all of train; this is nine tenths of it
    np.testing.assert_allclose((meta["mean"], meta["std"]), ([0.2860] * 3, [0.3530] * 3), atol=0.001)
    images = np.load(tmp_path / "out" / "test_images.npy")
    labels = np.load(tmp_path / "out" / "test_labels.npy")
    assert (images[..., 0] == images[..., 2]).all()
    # boots are the broadest below, trousers leave a gap between the legs: neither is turned on its side
    trousers, boots = (images[labels == label, :, :, 0].mean(0) for label in (1, 9))
    assert trousers[24:, 9:18].mean() > 3 * trousers[24:, :8].mean()
    assert boots[18:24].mean() > 2 * boots[:6].mean()
