"""Gradients of single examples: clipped each, summed, noised."""
