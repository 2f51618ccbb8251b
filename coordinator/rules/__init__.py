"""Pure decisions: which transitions are legal, who is in a cohort, which versions are kept."""
