"""From PyTorch to files that other runtimes load."""
