"""Rounds where training has no network: what two kinds of machines leave each other in a folder."""
