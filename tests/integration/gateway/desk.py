"""A gateway as it runs, with every service behind it, and a client that sees whole answers."""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson
import yaml

from shared.databases import Databases
from shared.process import Part, Process
from shared.settings import Settings

BEHIND = ("scheduler", "replicator", "recovery", "notifier", "projector")
ASK_S_MAX = 40.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP answer; `body` is decoded, or None where it is not JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def code(self) -> str:
        """The problem's code."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        code: str = self.body["code"]
        return code


class Desk:
    """Asks a running gateway."""

    def __init__(self, root: Path, url: str, token: str, parts: Mapping[str, Part]) -> None:
        self.root = root
        self.url = url
        self.token = token
        self.parts = parts
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S_MAX))

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> Answer:
        """One request; bytes go as they are. `If_Match="3"` becomes the header If-Match."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token != "":
            sent.setdefault("Authorization", f"Bearer {token or self.token}")
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        large = io.BytesIO(data) if data is not None and len(data) > 1 << 20 else None
        async with self.session.request(
            method,
            self.url + path,
            data=large or data,
            headers=sent,
            allow_redirects=False,
        ) as answer:
            raw = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return Answer(
                status=answer.status,
                headers=answer.headers,
                body=orjson.loads(raw) if is_json and raw else None,
            )

    async def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return await self.ask("GET", path, **headers)

    async def command(self, path: str, body: Any = None, **headers: str) -> Answer:
        """POST and wait for the decision."""
        return await self.ask("POST", f"{path}?wait=20s", body or {}, **headers)

    async def site(self, name: str, *vms: str) -> Path:
        """A lab site with VMs of one small disk, registered."""
        folder = self.root / name
        folder.mkdir(mode=0o755)
        for vm in vms:
            (folder / "vms" / vm).mkdir(parents=True)
            document = {"name": vm, "disks": [{"name": "sda", "file": "sda.raw"}]}
            (folder / "vms" / vm / "vm.yaml").write_text(yaml.safe_dump(document))
            (folder / "vms" / vm / "sda.raw").write_bytes(vm.encode() * 4096)
        body = {"name": name, "platform": "lab", "settings": {"path": str(folder)}}
        answer = await self.command("/v1/sites", body)
        assert answer.status == 200, answer
        return folder

    async def plan(self, name: str, *vms: str, **fields: Any) -> Answer:
        """A plan over VMs of `<name>-east`, whose sites are made too."""
        await self.site(f"{name}-east", *vms)
        await self.site(f"{name}-west")
        return await self.command("/v1/plans", plan_body(name, *vms, **fields))

    async def limited(self, budget: str) -> None:
        """Return once the work queue keeps a budget that the site's files set."""
        async with asyncio.timeout(ASK_S_MAX):
            while True:
                budgets = (await self.get("/v1/queue")).body["budgets"]
                if budget in {each["name"] for each in budgets}:
                    return
                await asyncio.sleep(0.1)

    async def ended(self, job: str) -> dict[str, Any]:
        """A job once it has ended."""
        async with asyncio.timeout(ASK_S_MAX):
            while True:
                found = await self.get(f"/v1/jobs/{job}")
                if found.status == 200 and found.body["ended_at"]:
                    document: dict[str, Any] = found.body
                    return document
                await asyncio.sleep(0.05)


def plan_body(name: str, *vms: str, scripts: Any = None, **fields: Any) -> dict[str, Any]:
    """The body of `POST /v1/plans`."""
    plan = {
        "name": name,
        "protected_site": f"{name}-east",
        "recovery_site": f"{name}-west",
        "replication": {"interval": "12h"},
        "vms": [{"name": vm} for vm in vms],
        **fields,
    }
    contents = {
        path: base64.b64encode(text.encode()).decode() for path, text in (scripts or {}).items()
    }
    return {"plan": plan, "scripts": contents}


@asynccontextmanager
async def open_desk(dsn: str, root: Path) -> AsyncIterator[Desk]:
    """All services in this loop, the gateway on a free port."""
    settings = Settings(home=root / "home", port=0, lease_s=5.0, heartbeat_s=1.0)
    async with Process(settings, Databases(dsn)) as process:
        parts: dict[str, Part] = {}
        for name in ("gateway", *BEHIND):
            parts[name] = await importlib.import_module(f"services.{name}.main").build(process)
        running = [asyncio.create_task(part.run(), name=name) for name, part in parts.items()]
        news = asyncio.create_task(process.hear())
        home = settings.home
        url, token = (home / "endpoint").read_text().strip(), (home / "token").read_text().strip()
        desk = Desk(root, url, token, parts)
        try:
            yield desk
        finally:
            await desk.session.close()
            for part in parts.values():
                part.stop()
            await asyncio.wait(running, timeout=15)
            news.cancel()
            await asyncio.gather(*running, return_exceptions=True)
