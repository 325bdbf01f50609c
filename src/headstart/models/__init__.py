"""Backbones, autoencoders and projectors."""
