"""`python -m benchmarks.gpu`; see run.py."""

if __name__ == "__main__":  # processes that are spawned import this file as well, and need nothing of it
    import sys

    from benchmarks.gpu.run import main

    sys.exit(main())
