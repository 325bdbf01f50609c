"""Headstart: what SimCLR's projection head owes to how its first layer was initialised."""
