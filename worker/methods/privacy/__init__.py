"""Differentially private steps: clipped gradients of single examples, noise, accounting."""
