"""Training of a whole model that is shared in part or in full."""
