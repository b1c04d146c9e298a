"""The process that runs the steps: `python -m benchmarks.gpu.worker JSON`, started by run.py and watched by it.

It is a process of its own because a device or a library can take it down; run.py then starts another for the steps
that are left.
"""

if __name__ == "__main__":  # processes that are spawned import this file as well, and need nothing of it
    import json
    import sys

    from benchmarks.gpu.work import work

    work(json.loads(sys.argv[1]))
