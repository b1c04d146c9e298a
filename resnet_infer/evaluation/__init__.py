"""Errors, calibration, ensembles and comparisons, from the one path's probabilities."""
