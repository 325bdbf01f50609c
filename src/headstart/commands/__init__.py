"""What `python -m headstart` runs: a module per command."""
