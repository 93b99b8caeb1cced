"""The batch APIs of the loopback server.

Belongs here: files, batches, their lists and results. Does not: answering a call, which is the server's.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web

from anmi_pipeline_tests.judging import wire_formats
from anmi_pipeline_tests.judging.wire_answers import read_request


@dataclass
class Stored:
    """A batch."""

    id: str
    created: float
    calls: list[tuple[str, dict]]
    metadata: dict
    file: str = ""
    done: list[dict] | None = None
    failed: list[dict] = field(default_factory=list)
    finished: bool = False


class Batches:
    """What both APIs share."""

    provider = ""
    prefix = ""

    def __init__(self, server):
        self.server = server
        self.batches: list[Stored] = []
        self._lost = 0

    def report(self) -> list[dict]:
        return [
            {"id": batch.id, "provider": self.provider, "metadata": batch.metadata, "keys": [key for key, _ in batch.calls]}
            for batch in self.batches
        ]

    def finish(self) -> None:
        for batch in self.batches:
            batch.finished = True

    def accept(self, calls: list[tuple[str, dict]], metadata: dict, file: str = "") -> Stored:
        batch = Stored(f"{self.prefix}{len(self.batches):08d}{'x' * 16}", time.time(), calls, metadata, file)
        self.batches.append(batch)
        return batch

    async def reply(self, request: web.Request, batch: Stored) -> web.StreamResponse:
        """The reply to an accepted batch, unless this one is to be lost."""
        if self.server.settings.batch_reply_s:
            await asyncio.sleep(self.server.settings.batch_reply_s)
        if self._lost < self.server.settings.lost_replies:
            self._lost += 1
            request.transport.abort()
        return web.json_response(self.described(batch))

    def described(self, batch: Stored) -> dict:
        raise NotImplementedError

    def line(self, key: str, body: dict) -> tuple[dict, bool]:
        raise NotImplementedError

    def ended(self, batch: Stored) -> bool:
        """Whether a batch is ready; works through its calls the first time it is."""
        if not batch.finished and time.time() - batch.created < self.server.settings.batch_s:
            return False
        if batch.done is None:
            lines = [self.line(key, body) for key, body in batch.calls]
            batch.done = [line for line, good in lines if good]
            batch.failed = [line for line, good in lines if not good]
        return True

    def find(self, batch_id: str) -> Stored | None:
        return next((batch for batch in self.batches if batch.id == batch_id), None)

    def page(self, request: web.Request, cursor: str) -> tuple[list[dict], bool]:
        """One page of the list, newest first, after the batch that the cursor names."""
        newest = self.batches[::-1]
        after = request.query.get(cursor)
        start = next((at + 1 for at, batch in enumerate(newest) if batch.id == after), 0)
        size = min(int(request.query.get("limit", 20)), self.server.settings.page)
        shown = newest[start : start + size]
        return [self.described(batch) for batch in shown], start + size < len(newest)

    def guarded(self, handler):
        """A handler that refuses a wrong key."""

        async def run(request: web.Request) -> web.StreamResponse:
            refused = self.server.refuse_key(request, self.provider)
            return refused if refused is not None else await handler(request)

        return run

    def missing(self) -> web.StreamResponse:
        return self.server.error(self.provider, 404, "No such batch or file.")


class OpenAIBatches(Batches):
    """Files and batches of OpenAI."""

    provider = "openai"
    prefix = "batch_"

    def __init__(self, server):
        super().__init__(server)
        self.files: dict[str, bytes] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self.guarded(self.upload))
        app.router.add_get("/v1/files/{id}/content", self.guarded(self.content))
        app.router.add_post("/v1/batches", self.guarded(self.create))
        app.router.add_get("/v1/batches", self.guarded(self.listed))
        app.router.add_get("/v1/batches/{id}", self.guarded(self.retrieve))

    async def upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        data = form["file"].file.read()
        name = f"file-{len(self.files):08d}"
        self.files[name] = data
        return web.json_response({
            "id": name, "object": "file", "bytes": len(data), "created_at": int(time.time()), "filename": "anmi.jsonl",
            "purpose": form["purpose"], "status": "processed",
        })  # fmt: skip

    async def content(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        if name in self.files:
            return web.Response(body=self.files[name], content_type="application/octet-stream")
        side, _, batch_id = name.partition("-of-")
        batch = self.find(batch_id)
        if batch is None or not self.ended(batch):
            return self.missing()
        lines = batch.done if side == "output" else batch.failed
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return web.Response(body=text.encode(), content_type="application/octet-stream")

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        data = self.files.get(body.get("input_file_id"))
        if data is None or body.get("endpoint") != "/v1/chat/completions" or body.get("completion_window") != "24h":
            return self.server.error("openai", 400, "Invalid batch.")
        lines = [json.loads(line) for line in data.decode().splitlines() if line]
        calls = [(line["custom_id"], line["body"]) for line in lines]
        if len({key for key, _ in calls}) < len(calls) or any(line["url"] != body["endpoint"] for line in lines):
            return self.server.error("openai", 400, "Duplicate custom_id, or another url.")
        return await self.reply(request, self.accept(calls, body.get("metadata") or {}, body["input_file_id"]))

    async def listed(self, request: web.Request) -> web.StreamResponse:
        shown, more = self.page(request, "after")
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        return web.json_response({"object": "list", "data": shown, "has_more": more, **ends})

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        batch = self.find(request.match_info["id"])
        return self.missing() if batch is None else web.json_response(self.described(batch))

    def described(self, batch: Stored) -> dict:
        ended = self.ended(batch)
        done, failed = (len(batch.done or []), len(batch.failed)) if ended else (0, 0)
        return {
            "id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions", "errors": None,
            "input_file_id": batch.file, "completion_window": "24h", "created_at": int(batch.created),
            "status": "completed" if ended else "in_progress", "metadata": batch.metadata,
            "output_file_id": f"output-of-{batch.id}" if done else None,
            "error_file_id": f"errors-of-{batch.id}" if failed else None,
            "request_counts": {"total": len(batch.calls), "completed": done, "failed": failed},
        }  # fmt: skip

    def line(self, key: str, body: dict) -> tuple[dict, bool]:
        asked = read_request(body, "openai")
        digest, fault = asked.digest, self.server.batch_fault(asked.digest)
        head, request_id = {"id": f"batch_req_{digest[:16]}", "custom_id": key}, f"req_{digest[:24]}"
        if fault == "expired":
            error = {
                "code": "batch_expired",
                "message": "This request could not be executed in time.",
            }
            return {**head, "response": None, "error": error}, False
        if fault not in (None, "garbage"):
            failed = wire_formats.error("openai", 500, "Injected fault.")
            return {
                **head,
                "response": {"status_code": 500, "request_id": f"req_{digest[:24]}", "body": failed},
                "error": None,
            }, False
        said = self.server.answered(body, asked, "openai", fault == "garbage")
        return {**head, "response": {"status_code": 200, "request_id": request_id, "body": said}, "error": None}, True


class AnthropicBatches(Batches):
    """Message batches of Anthropic."""

    provider = "anthropic"
    prefix = "msgbatch_"

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/messages/batches", self.guarded(self.create))
        app.router.add_get("/v1/messages/batches", self.guarded(self.listed))
        app.router.add_get("/v1/messages/batches/{id}", self.guarded(self.retrieve))
        app.router.add_get("/v1/messages/batches/{id}/results", self.guarded(self.results))

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        calls = [(call["custom_id"], call["params"]) for call in body.get("requests") or []]
        good = calls and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", key) for key, _ in calls)
        if not good or len({key for key, _ in calls}) < len(calls):
            return self.server.error("anthropic", 400, "requests: custom_id must match ^[a-zA-Z0-9_-]{1,64}$ and be unique")
        return await self.reply(request, self.accept(calls, {}))

    async def listed(self, request: web.Request) -> web.StreamResponse:
        shown, more = self.page(request, "after_id")
        ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
        return web.json_response({"data": shown, "has_more": more, **ends})

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        batch = self.find(request.match_info["id"])
        return self.missing() if batch is None else web.json_response(self.described(batch))

    async def results(self, request: web.Request) -> web.StreamResponse:
        batch = self.find(request.match_info["id"])
        if batch is None or not self.ended(batch):
            return self.missing()
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*batch.failed, *batch.done])
        return web.Response(body=text.encode(), content_type="application/x-jsonl")

    def described(self, batch: Stored) -> dict:
        ended = self.ended(batch)
        kinds = [line["result"]["type"] for line in [*(batch.done or []), *batch.failed]] if ended else []
        names = ("succeeded", "errored", "canceled", "expired")
        counts: Mapping[str, int] = {name: kinds.count(name) for name in names}
        return {
            "id": batch.id, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": {"processing": 0 if ended else len(batch.calls), **counts},
            "created_at": moment(batch.created), "expires_at": moment(batch.created + 86400),
            "ended_at": moment(time.time()) if ended else None, "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{self.server.url}/v1/messages/batches/{batch.id}/results" if ended else None,
        }  # fmt: skip

    def line(self, key: str, body: dict) -> tuple[dict, bool]:
        asked = read_request(body, "anthropic")
        digest, fault = asked.digest, self.server.batch_fault(asked.digest)
        if fault == "expired":
            return {"custom_id": key, "result": {"type": "expired"}}, False
        if fault not in (None, "garbage"):
            error = wire_formats.error("anthropic", 500, "Injected fault.", request_id=f"req_{digest[:24]}")
            return {"custom_id": key, "result": {"type": "errored", "error": error}}, False
        said = self.server.answered(body, asked, "anthropic", fault == "garbage")
        return {"custom_id": key, "result": {"type": "succeeded", "message": said}}, True


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
