"""Which errors of the database pass by themselves, which need a person, which are our bugs."""

from __future__ import annotations

import asyncpg
import pytest
from asyncpg import exceptions as pg

from shared.errors import InvariantBroken, Permanent, SeawallError, Transient
from shared.postgres import translated


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        # A database that is restored or renamed takes no connections for a while.
        (pg.ObjectNotInPrerequisiteStateError, Transient),
        (pg.ObjectInUseError, Transient),
        (pg.LockNotAvailableError, Transient),
        (pg.CannotConnectNowError, Transient),
        (pg.TooManyConnectionsError, Transient),
        (pg.DeadlockDetectedError, Transient),
        (pg.ReadOnlySQLTransactionError, Transient),
        (pg.InvalidPasswordError, Permanent),
        (pg.UndefinedTableError, Permanent),
        (pg.CantChangeRuntimeParamError, InvariantBroken),
        (pg.NotNullViolationError, InvariantBroken),
    ],
)
def test_an_error_is_told_by_who_can_mend_it(
    error: type[asyncpg.PostgresError], meant: type[SeawallError]
) -> None:
    with pytest.raises(meant) as raised, translated("commit a step"):
        raise error("it was so")
    assert raised.value.message == "could not commit a step: it was so"
