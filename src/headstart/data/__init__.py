"""The prepared images: one uint8 array per split, and views of them on the device."""

SPLITS = ("train", "val", "test")
UNLABELLED = "unlabelled"  # a split for pretraining alone, where a dataset publishes one
