"""resnet-infer: a ResNet from checkpoint to measured deployment, tested as its paper tested it."""

__version__ = "0.1.0"
