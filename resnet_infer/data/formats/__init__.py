"""One kind of file or folder a module; none knows how a source is found by name."""
