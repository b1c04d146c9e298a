"""Where images come from and how they are decoded, rendered and batched."""
