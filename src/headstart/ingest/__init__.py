"""Bytes on a host -> archives -> images: one uint8 array per split."""
