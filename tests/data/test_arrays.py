import numpy as np
import torch

from headstart.data.arrays import Standardize, load_split
from headstart.ingest.formats import digits
from headstart.ingest.pack import Packing, pack
from headstart.ingest.tree import SPLITS


def test_load_split_gives_what_pack_wrote(tmp_path):
    meta = pack(digits(tmp_path), tmp_path, Packing(8, None, 0.1, 0.2, 0, False), lambda done: None)
    for name in SPLITS:
        split = load_split(tmp_path, name)
        number = meta["num_images"][name]
        assert (split.images.shape, split.images.dtype) == ((number, 8, 8, 3), torch.uint8)
        assert (split.labels.shape, split.labels.dtype) == ((number,), torch.int64)
        assert (split.sizes.shape, split.sizes.dtype) == ((number, 2), torch.int64)
        assert (split.images.numpy() == np.load(tmp_path / f"{name}_images.npy")).all()
        assert split.labels.unique().tolist() == list(range(10))


def test_writing_to_a_loaded_split_leaves_the_file_as_it_was(tmp_path):
    pack(digits(tmp_path), tmp_path, Packing(8, None, 0.1, 0.2, 0, False), lambda done: None)
    before = (tmp_path / "val_images.npy").read_bytes()
    load_split(tmp_path, "val").images.fill_(7)
    assert (tmp_path / "val_images.npy").read_bytes() == before


def test_standardize_makes_the_train_split_zero_mean_unit_variance(tmp_path):
    meta = pack(digits(tmp_path), tmp_path, Packing(8, None, 0.1, 0.2, 0, False), lambda done: None)
    x_BCHW = load_split(tmp_path, "train").images.permute(0, 3, 1, 2).double() / 255
    z_BCHW = Standardize(tuple(meta["mean"]), tuple(meta["std"]))(x_BCHW)
    assert z_BCHW.shape == x_BCHW.shape
    torch.testing.assert_close(z_BCHW.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(z_BCHW.std((0, 2, 3), unbiased=False), torch.ones(3).double(), atol=1e-6, rtol=0)
