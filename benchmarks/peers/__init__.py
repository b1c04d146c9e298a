"""The other tools at the same work: same machine, same files, same weights, in turns, each with its best settings."""
