"""Headstart: what SimCLR's projection head owes to how its first layer was initialised."""

__version__ = "0.1.0"
