"""Several processes at one evaluation or training."""
