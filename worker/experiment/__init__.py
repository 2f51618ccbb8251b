"""Grids of federations on this machine, and how they compare with the paper."""
