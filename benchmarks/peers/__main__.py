"""`python -m benchmarks.peers`; see run.py."""

if __name__ == "__main__":  # the sides' processes import this file as well, and need nothing of it
    import sys

    from benchmarks.peers.run import main

    sys.exit(main())
