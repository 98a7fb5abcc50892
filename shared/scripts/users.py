"""Which user a script runs as, and which files and folders that user can reach."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import msgspec

from shared.scripts.errors import ScriptSetup

DEFAULT_USER = "nobody"


class ScriptUser(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved user. `switch` is false where the service already is that user."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    switch: bool

    @property
    def owner(self) -> tuple[int, int] | None:
        """(uid, gid) to hand files to, or None where nothing needs handing over."""
        return (self.uid, self.gid) if self.switch else None

    def may(self, mode: int, *, entry: os.stat_result) -> bool:
        """Whether all of `mode` (of 4 read, 2 write, 1 execute) is granted on `entry`."""
        if entry.st_uid == self.uid:
            granted = entry.st_mode >> 6
        elif entry.st_gid == self.gid or entry.st_gid in self.groups:
            granted = entry.st_mode >> 3
        else:
            granted = entry.st_mode
        return granted & mode == mode

    def reaches(self, path: Path, mode: int) -> bool:
        """Whether this user can walk to `path` and has `mode` on what it finally names.

        Judged by mode bits: access lists are not looked at.
        """
        if not self.switch:
            return os.access(path, mode)
        try:
            real = path.resolve(strict=True)
            way = {*path.absolute().parents, *real.parents}
            return all(self.may(1, entry=step.stat()) for step in way) and self.may(
                mode, entry=real.stat()
            )
        except (OSError, RuntimeError):
            return False


def script_user(as_user: str | None) -> ScriptUser:
    """The user scripts run as: `as_user`, or `nobody` when root, or the service's own.

    Raises ScriptSetup for an unknown user, for root, and for a switch only root could make.
    """
    uid = os.geteuid()
    if as_user is None and uid != 0:
        return _own_user(uid)
    name = as_user or DEFAULT_USER
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ScriptSetup(
            f"scripts cannot run as {name!r}: there is no such user on this machine",
            remedy="create the user, or name another one as the script user",
        ) from None
    if entry.pw_uid == 0:
        raise ScriptSetup(
            f"scripts cannot run as {name!r}: that is root",
            remedy="name an unprivileged user as the script user",
        )
    if entry.pw_uid == uid:
        return _own_user(uid)
    if uid != 0:
        raise ScriptSetup(
            f"scripts cannot run as {name!r}: only a service started as root can switch users",
            remedy="start the service as root, or remove the script user from its settings",
        )
    groups = tuple(group.gr_gid for group in grp.getgrall() if name in group.gr_mem)
    return ScriptUser(name=name, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups, switch=True)


def _own_user(uid: int) -> ScriptUser:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return ScriptUser(name=name, uid=uid, gid=os.getegid(), switch=False)


def make_private_folder(path: Path, user: ScriptUser) -> None:
    """Make `path` a 0700 folder of `user`; raises OSError, PermissionError if it is another's."""
    path.mkdir(mode=0o700, exist_ok=True)
    entry = path.lstat()
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid not in (user.uid, os.geteuid()):
        raise PermissionError(f"{path} is not a folder of user {user.name}")
    if entry.st_uid != user.uid:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    path.chmod(0o700)
