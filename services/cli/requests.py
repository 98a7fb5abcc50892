"""What most commands do: one request, one line told."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from services.cli.client import Client
from services.cli.output import Format, machine, out
from services.cli.run import DONE, run


def api_path(*parts: str) -> str:
    """A path below /v1, its parts quoted."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


async def with_plan(client: Client, page: dict[str, Any], plan: str | None) -> dict[str, Any]:
    """A listing of a plan's; where it is empty the plan must exist. Raises ApiError, 404."""
    if plan is not None and not page["items"]:
        await client.get(api_path("plans", plan))
    return page


def ask(
    path: str,
    told: str,
    form: Format,
    *,
    method: str = "POST",
    body: dict[str, Any] | None = None,
) -> None:
    """Ask for something and say that it is done; programs get the answer itself."""

    async def work(client: Client) -> int:
        answer = await client.command(path, body, method=method)
        if not machine(answer, form):
            out.print(told, markup=False)
        return DONE

    run(work)
