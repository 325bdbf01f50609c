"""Bytes on a host -> one uint8 array per split -> views on the device."""
