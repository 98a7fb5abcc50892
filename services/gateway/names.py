"""Names that people choose and ids that they send back, checked before they reach a stream.

What cannot name anything names nothing: it is answered here, and no service ever sees it.
"""

from __future__ import annotations

import re

from aiohttp import web

from schemas.rules import is_name
from services.gateway.parameters import check_parameters
from services.gateway.problems import Handler, Invalid, NotFound

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}")


def checked_name(value: str, field: str) -> str:
    """`value` if it may name a site, plan or VM; Invalid otherwise."""
    if not is_name(value):
        raise Invalid(
            f"{field}: found {value!r}",
            remedy=f"{field} is 1 to 63 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit",
        )
    return value


def name_in_path(request: web.Request, kind: str) -> str:
    """The `{name}` of the request's path, for a command to the `kind` of that name: its key.

    Raises NotFound, with the owner's own code, for what can be the name of none.
    """
    value = request.match_info["name"]
    if not is_name(value):
        raise NotFound(
            f"no {kind} is named {value!r}",
            code=f"unknown-{kind}",
            remedy=f"see GET /v1/{kind}s",
        )
    return value


@web.middleware
async def ids_in_paths(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a path with a name or id in it that nothing can have, or parameters it has not."""
    for kind, value in request.match_info.items():
        if not _ID.fullmatch(value):
            raise NotFound(
                f"{value[:60]!r} cannot be the {kind} of anything",
                remedy="ids and names are letters, digits, dots, dashes, underscores and colons",
            )
    check_parameters(request)
    return await handler(request)
