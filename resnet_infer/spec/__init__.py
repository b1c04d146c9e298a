"""What a model, a test and a file are: values, no torch."""
