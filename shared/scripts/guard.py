"""The guard process: stands between a service and one script, and outlives neither.

Owns the limits, network, output pipe and whole process tree of the script; ends the tree and
removes its folder when the script ends, its time is over, or the service goes away. Decides
nothing about outcomes and masks nothing: it reports how the script ended and the raw end of its
output.

Runs as `python -I -S -c BOOT` (client.py; standard library only, cheap imports only: about 18 ms
to start). Standard input: 8 bytes length, a marshalled job, then `G` to start the script; end of
file at any time means the service is gone or has cancelled. Standard output: `R <folder>` when
everything but the script's process exists (or `E <text>`), and at the end `<reason> <status>
<bytes> <left> ` in one line followed by the last bytes of output.
"""

from __future__ import annotations

import ctypes
import fcntl
import marshal
import os
import resource
import select
import signal
import sys
import time

from shared.scripts.folder import CONTEXT_NAME, fill_folder, make_folder, remove_folder
from shared.scripts.network import leave_network

TYPE_CHECKING = False  # importing `typing` for the real one would cost a third of the start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

READ_BYTES = 256 * 1024
TICK_S = 0.25
USAGE_EVERY_S = 0.5
KILL_S_MAX = 5.0
DRAIN_S_MAX = 2.0
GRACE_S = 0.25  # a script that is at its end when its service dies may reach it, and is known
JOB_S_MAX = 10.0
START_FAILED_STATUS = 127
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


class Usage:
    """One process as /proc shows it."""

    def __init__(self, field: list[bytes]) -> None:
        """From the fields of /proc/PID/stat behind the command name."""
        self.zombie = field[0] in (b"Z", b"X")
        self.parent = int(field[1])
        self.cpu_ticks = sum(int(value) for value in field[11:15])
        self.threads = int(field[17])
        self.started = field[19]
        self.rss_pages = int(field[21])


class Ending:
    """How the script ended: reason is exit, signal, timeout, stopped, cpu, memory, processes."""

    def __init__(self, reason: str, status: int) -> None:
        self.reason = reason
        self.status = status


# -- processes ---------------------------------------------------------------------------------


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _read_usage(pid: str) -> Usage | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command name may hold spaces and brackets; fields count from the last bracket.
            field = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Usage(field) if len(field) >= 22 else None


def descendants(root: int) -> dict[int, Usage]:
    """Every process below `root`, by pid; found by parent links, so sessions do not hide one."""
    table = {int(n): u for n in os.listdir("/proc") if n.isdigit() and (u := _read_usage(n))}
    children: dict[int, list[int]] = {}
    for pid, usage in table.items():
        children.setdefault(usage.parent, []).append(pid)
    found: dict[int, Usage] = {}
    queue = list(children.get(root, ()))
    while queue:
        pid = queue.pop()
        if pid not in found:
            found[pid] = table[pid]
            queue.extend(children.get(pid, ()))
    return found


def _signal_one(pid: int, is_meant: Callable[[int], bool], number: int) -> bool:
    """Signal a process if it still is the one that is meant: pids are soon given to others."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if meant := is_meant(pid):
            signal.pidfd_send_signal(handle, number)
        return meant
    except OSError:
        return False
    finally:
        os.close(handle)


def _signal_all(tree: dict[int, Usage], pids: set[int], number: int) -> None:
    def is_meant(pid: int) -> bool:
        return (now := _read_usage(str(pid))) is not None and now.started == tree[pid].started

    for pid in pids:
        _signal_one(pid, is_meant, number)


def kill_with_context(context_path: str) -> int:
    """Kill what a guard that died left: processes begun with the context; return how many."""
    marker = b"SEAWALL_CONTEXT=" + os.fsencode(context_path)

    def is_meant(pid: int) -> bool:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return marker in file.read(READ_BYTES).split(b"\0")

    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
    return sum(_signal_one(pid, is_meant, signal.SIGKILL) for pid in pids)


def tasks_of_user(uid: int) -> int:
    """Threads that belong to `uid` now: what the kernel counts against its process limit."""
    count = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                count += os.stat(f"/proc/{name}/task").st_nlink - 2
        except OSError:
            continue
    return count


# -- the script's process ----------------------------------------------------------------------


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _set_limits(job: dict[str, Any]) -> None:
    # RLIMIT_DATA counts private writable memory; RLIMIT_AS would also count what Go and Java
    # only reserve. Shared memory is caught by the guard's own look at the tree.
    _limit(resource.RLIMIT_DATA, job["memory_bytes_max"])
    _limit(resource.RLIMIT_FSIZE, job["file_bytes_max"])
    _limit(resource.RLIMIT_NPROC, job["tasks_before"] + job["processes_max"])
    _limit(resource.RLIMIT_CORE, 0)
    soft = job["cpu_s_max"]
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    ceiling = soft + 1 if hard == resource.RLIM_INFINITY else min(soft + 1, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, ceiling), ceiling))


def _become_script_user(job: dict[str, Any]) -> None:
    if job["owner"] is not None:
        uid, gid = job["owner"]
        os.setgroups(job["groups"])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _run_script(folder: str, job: dict[str, Any], guard_pid: int, output: int) -> NoReturn:
    os.setsid()
    os.dup2(os.open(f"{folder}/{CONTEXT_NAME}", os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _set_limits(job)
    _become_script_user(job)
    # Set last: the kernel forgets it when the user changes.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard_pid:
        os._exit(START_FAILED_STATUS)
    os.umask(0o077)
    os.chdir(f"{folder}/work")
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    environment = {**job["environment"], "SEAWALL_CONTEXT": f"{folder}/{CONTEXT_NAME}"}
    if job["build"]:
        build_environment = {**environment, **_placed(job["build_environment"], folder)}
        argv = list(_placed(dict(enumerate(job["build"])), folder).values())
        status = os.waitpid(os.posix_spawn(argv[0], argv, build_environment), 0)[1]
        if status != 0:
            os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)
    argv = list(_placed(dict(enumerate(job["argv"])), folder).values())
    os.execve(argv[0], argv, environment)


def _placed(values: dict[Any, str], folder: str) -> dict[Any, str]:
    return {key: value.replace("{folder}", folder) for key, value in values.items()}


def _fork_script(folder: str, job: dict[str, Any], output: int, failure: int) -> int:
    guard_pid = os.getpid()
    pid = os.fork()
    if pid != 0:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        _run_script(folder, job, guard_pid, output)
    except OSError as error:
        os.write(failure, str(error).encode()[:512])
    finally:
        os._exit(START_FAILED_STATUS)


class Script:
    """One running script: its tree, its output tail, its limits."""

    def __init__(self, folder: str, job: dict[str, Any]) -> None:
        self._job = job
        self._tail = bytearray()
        self._total = 0
        self._status: int | None = None
        self._stop = False
        self.left: set[int] = set()
        self._reaped_cpu_s = 0.0
        self._wake, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._output, output_in = os.pipe2(os.O_CLOEXEC)
        self._failure, failure_in = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._output, False)
        os.set_blocking(self._failure, False)
        self._started = time.monotonic()
        self._pid = _fork_script(folder, job, output_in, failure_in)
        os.close(output_in)
        os.close(failure_in)

    def _on_sigterm(self, *_: object) -> None:
        self._stop = True

    def supervise(self) -> Ending:
        """Drain output until the script ends or must end; then no process of it is left."""
        ending = self._watch()
        if self._reap():
            self.left = self._kill_tree()
        self._drain()
        if ending.reason == "stopped" and self._status is not None and os.WIFEXITED(self._status):
            return self._ended(self._status)
        return ending

    def _watch(self) -> Ending:
        poller = select.poll()
        for descriptor in (0, self._wake, self._output):
            poller.register(descriptor, select.POLLIN)
        parent, gone = os.getppid(), False
        usage_due = self._started + USAGE_EVERY_S
        deadline = self._started + self._job["timeout_s"]
        while True:
            now = time.monotonic()
            ready = dict(poller.poll(1000 * max(0.0, min(TICK_S, deadline - now))))
            if self._output in ready and not self._read_output():
                poller.unregister(self._output)
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
            if self._status is not None:
                return self._ended(self._status)
            # Nothing more is sent after `G`, so input that is readable has ended. The parent is
            # looked at too: a forked child of the service may hold the pipe open. (The kernel's
            # parent-death signal is no use here: it fires when the starting *thread* ends.)
            now = time.monotonic()
            if not gone and (0 in ready or os.getppid() != parent):
                gone = True
                poller.unregister(0)
                deadline = min(deadline, now + GRACE_S)
            if self._stop:
                return Ending("stopped", 0)
            if now >= deadline:
                return Ending("stopped" if gone else "timeout", 0)
            if now >= usage_due:
                usage_due = now + USAGE_EVERY_S
                if reason := self._broken_limit():
                    return Ending(reason, 0)

    def _ended(self, status: int) -> Ending:
        if os.WIFSIGNALED(status):
            return Ending("signal", os.WTERMSIG(status))
        return Ending("exit", os.waitstatus_to_exitcode(status))

    def _broken_limit(self) -> str | None:
        tree = descendants(os.getpid()).values()
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        cpu_s = sum(usage.cpu_ticks for usage in tree) / ticks_per_s + self._reaped_cpu_s
        if cpu_s > self._job["cpu_s_max"]:
            return "cpu"
        if sum(usage.rss_pages for usage in tree) * page_bytes > self._job["memory_bytes_max"]:
            return "memory"
        if sum(usage.threads for usage in tree) > self._job["processes_max"]:
            return "processes"
        return None

    def _read_output(self) -> bool:
        try:
            chunk = os.read(self._output, READ_BYTES)
        except BlockingIOError:
            return True
        self._total += len(chunk)
        self._tail += chunk
        keep = self._job["keep_bytes"]
        if len(self._tail) > 2 * keep + READ_BYTES:
            del self._tail[:-keep]
        return bool(chunk)

    def _reap(self) -> bool:
        """Collect ended children; False when no child, so no process of the tree, is left."""
        try:
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return True
                self._reaped_cpu_s += used.ru_utime + used.ru_stime
                if pid == self._pid:
                    self._status = status
        except ChildProcessError:
            return False

    def _kill_tree(self) -> set[int]:
        """End every descendant; orphans are ours because the guard is their subreaper.

        All are stopped before any is killed: a stopped one cannot fork away. Ended ones are not
        collected until nothing runs: a chain that forks faster than we look then meets its own
        process limit. Returns what was still there after KILL_S_MAX (hung in the kernel).
        """
        deadline = time.monotonic() + KILL_S_MAX
        stopped: set[int] = set()
        while True:
            tree = descendants(os.getpid())
            alive = {pid for pid, usage in tree.items() if not usage.zombie}
            if not alive and not self._reap():
                return set()
            if time.monotonic() > deadline:
                return alive
            if alive - stopped:
                _signal_all(tree, alive - stopped, signal.SIGSTOP)
                stopped |= alive
                continue
            _signal_all(tree, alive, signal.SIGKILL)
            time.sleep(0.001)

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_S_MAX
        poller = select.poll()
        poller.register(self._output, select.POLLIN)
        while time.monotonic() < deadline and poller.poll(100):
            if not self._read_output():
                return

    def start_failure(self) -> str:
        """Why the script's program could not be executed, or nothing."""
        try:
            return os.read(self._failure, 512).decode(errors="replace").replace("\n", " ")
        except BlockingIOError:
            return ""

    def output(self) -> tuple[int, bytes]:
        """(bytes the script wrote in all, the last `keep_bytes` of them)."""
        return self._total, bytes(self._tail[-self._job["keep_bytes"] :])


# -- record ------------------------------------------------------------------------------------


class Record:
    """What is left of this run for whoever comes after the service died (see record.py).

    Locked while the guard lives. Not synced: it counts in the boot it names only.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600) if path else None
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)

    def add(self, line: str) -> None:
        """Note one more step of the run; nothing of what the script printed."""
        if self._fd is not None:
            os.write(self._fd, f"{line}\n".encode())


# -- protocol ----------------------------------------------------------------------------------


def _receive(length: int) -> bytes | None:
    """Exactly `length` bytes from the service, or None when it is gone."""
    data = bytearray()
    while len(data) < length:
        chunk = os.read(0, min(length - len(data), READ_BYTES))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _send(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _serve(job: dict[str, Any], folder: str, record: Record) -> None:
    record.add(f"prepared {job['boot']}")
    # Before anything of the script exists: whatever it starts has the network of this process.
    apart = "" if job["network"] else leave_network()
    # Keeps a script of the same user from reaching the guard's pipes through /proc. Not earlier:
    # a process closed in this way cannot write the id maps of a namespace of its own.
    _prctl(_PR_SET_DUMPABLE, 0)
    _send(f"R {folder}\n".encode())
    if _receive(1) != b"G":
        return
    record.add(f"started {time.time()}")
    if apart:
        record.add(f"note {apart}")
    script = Script(folder, job)
    ending = script.supervise()
    failure = script.start_failure()
    if failure:
        ending = Ending("start-failed", START_FAILED_STATUS)
    total, tail = script.output()
    asides = (failure, apart, _left_text(script.left), _clean(folder))
    note = "; ".join(filter(None, asides)).encode()
    header = f"{ending.reason} {ending.status} {total} {len(note)}\n".encode()
    told = b'"outputs"' in tail.rstrip().rpartition(b"\n")[2]
    record.add(f"ended {time.time()} {ending.reason} {ending.status} {int(told)}")
    _send(header + note + tail)


def _left_text(left: set[int]) -> str:
    return f"its processes {sorted(left)} hang and could not be ended" if left else ""


def _clean(folder: str) -> str:
    """Remove the folder; the text of what stopped that, or nothing.

    The context goes first and by itself: it must be gone even where the rest cannot be removed.
    """
    try:
        os.unlink(f"{folder}/{CONTEXT_NAME}")
    except OSError:
        pass  # the script may have removed it; what remains is reported by the next line
    try:
        remove_folder(folder)
    except OSError as error:
        return f"its folder could not be removed: {error}"
    return ""


def _leave(*_: object) -> NoReturn:
    sys.exit(1)


def main() -> int:
    """Serve one script, then end. Exit code 0 also when the service is gone."""
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    length = _receive(8)
    raw = _receive(int.from_bytes(length, "big")) if length is not None else None
    if raw is None:
        return 0
    job = marshal.loads(raw)
    folder = ""
    try:
        uid = os.getuid() if job["owner"] is None else job["owner"][0]
        job["tasks_before"] = tasks_of_user(uid)
        folder, _lock = make_folder(job["folder_root"])
        fill_folder(folder, job)
        _serve(job, folder, Record(job["record"]))
    except BrokenPipeError:
        return 0
    except OSError as error:
        _send(f"E {error}\n".encode())
        return 1
    finally:
        if folder:
            _clean(folder)
    return 0
