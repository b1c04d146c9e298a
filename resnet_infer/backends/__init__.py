"""What runs a network: one file a backend, all behind one protocol."""
