"""Frozen features -> numbers."""
