"""The process that `sandbox.run` starts: takes limits upon itself, then runs the program that it reads from its input.

    python confined.py SECONDS BYTES < program.py
"""

import ctypes
import resource
import sys

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
FILE_BYTES, FILES = 2**20, 32


def confine(seconds: int, memory: int) -> None:
    """Time of the processor, address space, files; and no network where the system lets a user have a namespace of its own."""
    ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    program = sys.stdin.read()
    confine(int(sys.argv[1]), int(sys.argv[2]))
    exec(compile(program, "answer.py", "exec"), {"__name__": "__main__"})
