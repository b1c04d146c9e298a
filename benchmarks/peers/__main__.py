"""`python -m benchmarks.peers`; see run.py."""

if __name__ == "__main__":  # the sides' processes import this file as well, and need nothing of it
    import signal
    import sys

    from benchmarks.peers.run import main

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was measured is kept, the rest removed
    sys.exit(main())
