"""Leave the machine's network: what the guard of a script does that is allowed none.

The process gets a network namespace of its own. Its loopback is up, so that programs which talk to
themselves on 127.0.0.1 work; nothing answers there but what the script itself started. Sockets in
the file system are not cut off: file permissions guard those.

Standard library only, and cheap to import: it runs in the guard process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import sys

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
NOT_APART = "not kept from the network"
"""How the text begins that says so."""

_AF_INET = 2
_SOCK_DGRAM = 2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_libc = ctypes.CDLL(None, use_errno=True)


def leave_network() -> str:
    """Cut this process off, and all it starts from now on; "" or why the system does not let it.

    Root asks for a network namespace alone. Whoever is not may have one only inside a user
    namespace; half of that cannot be taken back, so a child tries it first.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid != 0:
            _try_in_child(uid, gid)
        _leave(uid, gid)
    except OSError as error:
        return (
            f"{NOT_APART}: the system refuses scripts a network namespace of its own "
            f"({error.strerror}), which takes a service that runs as root with CAP_SYS_ADMIN, or "
            "unprivileged user namespaces"
        )
    return ""


def _leave(uid: int, gid: int) -> None:
    if _libc.unshare(CLONE_NEWNET | (CLONE_NEWUSER if uid != 0 else 0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if uid != 0:
        # The same ids inside as outside: the script is who it was, and has no power in there.
        for name, text in (
            ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")
        ):  # fmt: skip
            descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
    # A loopback that stays down isolates no less.
    with contextlib.suppress(OSError):
        _raise_loopback()


def _raise_loopback() -> None:
    descriptor = _libc.socket(_AF_INET, _SOCK_DGRAM, 0)
    if descriptor < 0:
        return
    try:
        # struct ifreq: the name in 16 bytes, then the flags; 40 bytes in all.
        request = b"lo".ljust(16, b"\0") + _IFF_UP.to_bytes(2, sys.byteorder)
        fcntl.ioctl(descriptor, _SIOCSIFFLAGS, request.ljust(40, b"\0"))
    finally:
        os.close(descriptor)


def _try_in_child(uid: int, gid: int) -> None:
    """Raise the OSError that leaving would raise."""
    pid = os.fork()
    if pid == 0:
        number = 0
        try:
            _leave(uid, gid)
        except OSError as error:
            number = error.errno or 1
        finally:
            os._exit(number)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if number != 0:
        raise OSError(abs(number), os.strerror(abs(number)))


def main() -> int:
    """Print what `leave_network` says here."""
    sys.stdout.write(leave_network())
    return 0
