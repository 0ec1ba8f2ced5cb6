"""Loads one decoder in a process of its own and prints the seconds and the peak memory as JSON.

usage: load.py MODEL.onnx THREADS
"""

import json
import sys
import time

import decoder


def peak_mib():
    """Peak resident memory of this process so far, MiB."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    bare, start = peak_mib(), time.perf_counter()
    session = decoder.session(path, threads)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": peak_mib(), "bare": bare, "inputs": len(session.get_inputs())}))


if __name__ == "__main__":
    main()
