"""Measuring speed: what runs how fast, and how fast the machine would let it."""
