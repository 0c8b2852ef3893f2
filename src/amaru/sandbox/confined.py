"""The process that `sandbox.run` starts: takes limits upon itself, then runs the program that it reads from its input.

    python confined.py SECONDS BYTES < program.py

Exits with `NO_LIMITS` when the network cannot be taken from it, and runs nothing then; with `ENDED` when the program ran to its last line.
A program that leaves earlier, by `sys.exit(0)` before its tests, has not.
"""

import ctypes
import errno
import platform
import resource
import struct
import sys

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # prctl's names for them
FILE_BYTES, FILES = 2**20, 32
NO_LIMITS, ENDED = 97, 96
SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # as seccomp names the machine, and the call that makes sockets
IO_URING, OTHER_CALLS = 425, 0x40000000  # sockets by another way; and calls of another numbering
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES


def confine(seconds: int, memory: int) -> bool:
    """Time of the processor, address space, files, and no network: whether all of it could be had."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, wanted in limits.items():
        given = resource.getrlimit(kind)[1]
        most = wanted if given == resource.RLIM_INFINITY else min(wanted, given)
        resource.setrlimit(kind, (most, most))
    return without_network() or without_sockets()


def without_network() -> bool:
    """A network namespace of its own, in which there is nothing; not every system lets a user make one."""
    return ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK) == 0


def without_sockets() -> bool:
    """A filter of system calls in which no socket can be made; allowed in containers where namespaces are not."""
    if platform.machine() not in SOCKET:
        return False
    machine, socket = SOCKET[platform.machine()]
    program = [
        (LOAD, 0, 0, 4),
        (EQUAL, 0, 5, machine),  # else five further, to the refusal
        (LOAD, 0, 0, 0),
        (AT_LEAST, 3, 0, OTHER_CALLS),
        (EQUAL, 2, 0, socket),
        (EQUAL, 1, 0, IO_URING),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    whole = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    control = ctypes.CDLL(None).prctl
    return control(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and control(SECCOMP, FILTER, whole, 0, 0) == 0


if __name__ == "__main__":
    source = sys.stdin.read()
    if not confine(int(sys.argv[1]), int(sys.argv[2])):
        sys.exit(NO_LIMITS)
    exec(compile(source, "answer.py", "exec"), {"__name__": "__main__"})
    sys.exit(ENDED)
