"""One round's updates made into the next version of the weights."""
