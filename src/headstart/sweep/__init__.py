"""Grids of experiments: what a sweep holds, what of it is finished, and the engines that run the rest."""
