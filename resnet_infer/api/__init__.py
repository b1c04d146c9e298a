"""The Python API: what `resnet_infer` itself offers, on the path that the command line runs too."""
