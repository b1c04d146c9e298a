"""Measurements of resnet-infer against other ways to do the same work."""
