"""A loopback server that speaks the wire formats of OpenAI and Anthropic, their batch APIs included.

Belongs here: HTTP, limits, batches, counters. Does not: what is answered (`wire_answers.py`) and the JSON of it
(`wire_formats.py`). In a running loop: `async with WireServer(settings) as server`; in a thread of its own: `with
serving(settings) as server`; as a process that a test may kill or outlive: `with spawned(settings) as server`.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from anmi_pipeline_tests.judging import wire_formats
from anmi_pipeline_tests.judging.wire_answers import (
    Asked,
    Truth,
    WireSettings,
    answer,
    digest_of,
    fault_of,
    hashed_truth,
    read_request,
    uniform,
    vocabulary,
)
from anmi_pipeline_tests.judging.wire_batches import AnthropicBatches, OpenAIBatches

FOREVER = 3600.0
Reply = web.StreamResponse


@dataclass
class Stats:
    """What the server saw.

    Attributes:
        received: calls that came, those of batches not counted.
        refused: calls that a bucket refused.
        answered: calls that were answered and billed, those of batches included.
        faults: injected faults by kind.
        attempts: attempts by digest of the content.
        queries: attempts by text of the query.
        paid: answers billed by digest of the content.
        input_tokens: billed.
        output_tokens: billed.
        in_flight: calls at work now.
        most_in_flight: the most at once.
        first_s: time of the first call, of a monotonic clock.
        last_s: time of the last answer.
    """

    received: int = 0
    refused: int = 0
    answered: int = 0
    faults: Counter = field(default_factory=Counter)
    attempts: Counter = field(default_factory=Counter)
    queries: Counter = field(default_factory=Counter)
    paid: Counter = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    @property
    def paid_twice(self) -> int:
        """Answers billed beyond the first of each content."""
        return sum(count - 1 for count in self.paid.values())


class TokenBucket:
    """A bucket that fills at a rate; `take` says how long to wait, 0 when it gave."""

    def __init__(self, per_s: float, size: float, clock: Callable[[], float] = time.monotonic):
        self._rate, self._size, self._clock = per_s, size, clock
        self._level, self._at = size, clock()

    def take(self, amount: float, forced: bool = False) -> float:
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level >= amount:
            self._level -= amount
            return 0.0
        wait = (amount - self._level) / self._rate
        if forced:
            self._level = max(self._level - amount, -self._size)
        return wait


class WireServer:
    """The server, on a free port of 127.0.0.1."""

    def __init__(self, settings: WireSettings | None = None, truth: Truth = hashed_truth, port: int = 0):
        self.truth = truth
        self.stats = Stats()
        self.change(settings or WireSettings())
        self.openai = OpenAIBatches(self)
        self.anthropic = AnthropicBatches(self)
        self._port = port
        self._runner: web.AppRunner | None = None

    def change(self, settings: WireSettings) -> None:
        """Go on with other settings; buckets are full again."""
        self.settings = settings
        rate, tokens = settings.requests_per_s, settings.tokens_per_min
        self._requests = None if rate is None else TokenBucket(rate, settings.burst)
        self._tokens = None if tokens is None else TokenBucket(tokens / 60, tokens)

    async def __aenter__(self) -> "WireServer":
        vocabulary()  # before the first call, which would wait for it
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/chat/completions", lambda request: self.call(request, "openai"))
        app.router.add_post("/v1/messages", lambda request: self.call(request, "anthropic"))
        app.router.add_get("/control/stats", self._control_stats)
        app.router.add_get("/control/counts", self._control_counts)
        app.router.add_put("/control/settings", self._control_settings)
        app.router.add_post("/control/finish", self._control_finish)
        self.openai.add_routes(app)
        self.anthropic.add_routes(app)
        # Cancelled handlers: a client that gave up must not keep a hanging call alive.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Base URL of Anthropic's API; OpenAI's is `openai_url`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    async def call(self, request: web.Request, provider: str) -> Reply:
        """One synchronous call."""
        stats = self.stats
        stats.received += 1
        stats.first_s = stats.first_s or time.monotonic()
        stats.in_flight += 1
        stats.most_in_flight = max(stats.most_in_flight, stats.in_flight)
        try:
            return await self._call(request, provider)
        finally:
            stats.in_flight -= 1
            stats.last_s = time.monotonic()

    async def _call(self, request: web.Request, provider: str) -> Reply:
        body, failed = await self.read(request, provider)
        if failed is not None:
            return failed
        asked = read_request(body, provider)
        self.stats.attempts[asked.digest] += 1
        self.stats.queries[asked.query] += 1
        attempt = self.stats.attempts[asked.digest]
        name = digest_of({"call": asked.digest, "attempt": attempt})
        wait = self._limit(asked.input_tokens + asked.limit)
        if wait > 0:
            self.stats.refused += 1
            return self.error(provider, 429, "Rate limit reached.", name, {"retry-after": f"{wait:.3f}"})
        fault = fault_of(self.settings, asked.digest, attempt)
        if fault is not None:
            self.stats.faults[fault] += 1
        too_long = asked.input_tokens > self.settings.context_tokens
        # Billed before the latency: a client that dies or gives up in the meantime has paid, as at a real provider.
        refused = fault is not None and fault.isdecimal()
        good = not refused and fault != "timeout" and not too_long
        reply = self.answered(body, asked, provider, fault == "garbage") if good else {}
        if self.settings.latency_s:
            await asyncio.sleep(self.settings.latency_s)
        if refused:
            wait = {"retry-after": f"{self.settings.retry_after_s:g}"}
            return self.error(provider, int(fault), self._said(request, asked), name, wait)
        if fault == "timeout":
            await asyncio.sleep(FOREVER)
        if fault == "disconnect":
            request.transport.abort()
        if too_long:
            return self._too_long(provider, asked.input_tokens, name)
        text = json.dumps(reply)
        headers = self.headers(provider, name)
        return web.Response(
            text=text[: len(text) // 2] if fault == "broken" else text, content_type="application/json", headers=headers
        )

    def answered(self, body: Mapping, asked: Asked, provider: str, garbage: bool) -> dict:
        """The body of an answer, which is billed."""
        said = answer(asked, self.settings, self.truth, garbage)
        stats = self.stats
        stats.answered += 1
        stats.paid[asked.digest] += 1
        stats.input_tokens += asked.input_tokens
        stats.output_tokens += said.output_tokens
        if provider == "openai":
            return wire_formats.completion(body, asked, said, asked.digest, int(time.time()))
        return wire_formats.message(body, asked, said, asked.digest)

    def batch_fault(self, digest: str) -> str | None:
        """Fault of a batch's call."""
        self.stats.attempts[digest] += 1
        fault = fault_of(self.settings, digest, self.stats.attempts[digest])
        if uniform(self.settings.seed, "expired", digest, self.stats.attempts[digest]) < self.settings.batch_expired:
            fault = "expired"
        if fault is not None:
            self.stats.faults[fault] += 1
        return fault

    async def read(self, request: web.Request, provider: str) -> tuple[dict, Reply | None]:
        """Body of a call, and the reply when it is refused for its key, its model or its form."""
        refused = self.refuse_key(request, provider)
        if refused is not None:
            return {}, refused
        try:
            body = await request.json()
        except ValueError:
            return {}, self.error(provider, 400, "The body is not JSON.")
        return body, self.refuse_body(body, provider)

    def refuse_key(self, request: web.Request, provider: str) -> Reply | None:
        given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if not given or (self.settings.key is not None and given != self.settings.key):
            # As the real ones do, it quotes the key.
            return self.error(provider, 401, f"Incorrect API key provided: {given}.")
        if provider == "anthropic" and "anthropic-version" not in request.headers:
            return self.error(provider, 400, "anthropic-version: header is required")
        return None

    def refuse_body(self, body: Mapping, provider: str) -> Reply | None:
        model = body.get("model")
        if not model or not body.get("messages"):
            return self.error(provider, 400, "model: Field required")
        if self.settings.models is not None and model not in self.settings.models:
            return self.error(provider, 404, f"The model {model} does not exist.")
        if provider == "anthropic" and "max_tokens" not in body:
            return self.error(provider, 400, "max_tokens: Field required")
        if re.match(r"o\d|gpt-5|claude-opus-4-7", model) and "temperature" in body:
            return self.error(provider, 400, "Unsupported parameter: 'temperature' is not supported with this model.")
        return None

    def error(self, provider: str, status: int, message: str, name: str = "", more: Mapping[str, str] | None = None) -> Reply:
        headers = {**self.headers(provider, name), **(more or {})}
        if not self.settings.retry_after:
            headers.pop("retry-after", None)
        body = wire_formats.error(provider, status, message, request_id=f"req_{name[:24]}")
        return web.json_response(body, status=status, headers=headers)

    def headers(self, provider: str, name: str) -> dict[str, str]:
        request_id = f"req_{name[:24]}"
        limit = str(int(self.settings.requests_per_s * 60)) if self.settings.requests_per_s else "100000"
        if provider == "anthropic":
            return {"request-id": request_id, "anthropic-ratelimit-requests-limit": limit}
        return {"x-request-id": request_id, "x-ratelimit-limit-requests": limit, "openai-version": "2020-10-01"}

    def _said(self, request: web.Request, asked: Asked) -> str:
        """Message of an injected fault."""
        if not self.settings.quotes:
            return "Injected fault."
        key = request.headers.get("x-api-key") or request.headers.get("authorization", "")
        return f"Injected fault for {key}: {asked.query} {' '.join(asked.documents)}"

    def _limit(self, tokens: int) -> float:
        forced = self.settings.count_refused
        waits = [
            self._requests.take(1, forced) if self._requests else 0.0,
            self._tokens.take(tokens, forced) if self._tokens else 0.0,
        ]
        return max(waits)

    def _too_long(self, provider: str, tokens: int, name: str) -> Reply:
        most = self.settings.context_tokens
        if provider == "anthropic":
            return self.error(provider, 400, f"prompt is too long: {tokens} tokens > {most} maximum", name)
        body = wire_formats.error(provider, 400, f"maximum context length is {most} tokens", "context_length_exceeded")
        return web.json_response(body, status=400, headers=self.headers(provider, name))

    def report(self) -> dict:
        """The counters and the batches, as JSON."""
        stats = vars(self.stats) | {"paid_twice": self.stats.paid_twice}
        return stats | {"batches": [*self.openai.report(), *self.anthropic.report()]}

    def counts(self) -> dict:
        """The counters alone: cheap enough to be asked for a hundred times a second."""
        known = {name: value for name, value in vars(self.stats).items() if isinstance(value, int | float)}
        return known | {"faults": self.stats.faults, "batches": len(self.openai.batches) + len(self.anthropic.batches)}

    async def _control_counts(self, _: web.Request) -> Reply:
        return web.json_response(self.counts())

    async def _control_stats(self, _: web.Request) -> Reply:
        return web.json_response(self.report())

    async def _control_settings(self, request: web.Request) -> Reply:
        self.change(WireSettings.from_json(await request.text()))
        return web.json_response({})

    def finish(self) -> None:
        """End all batches now."""
        self.openai.finish()
        self.anthropic.finish()

    async def _control_finish(self, _: web.Request) -> Reply:
        self.finish()
        return web.json_response({})


@contextlib.contextmanager
def serving(settings: WireSettings | None = None, truth: Truth = hashed_truth) -> Generator[WireServer]:
    """Serve from a thread with its own loop."""
    server, ready, loop = WireServer(settings, truth), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run():
        async with server:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


@dataclass(frozen=True)
class SpawnedServer:
    """A server in a process of its own."""

    url: str
    pid: int

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def report(self) -> dict:
        return json.loads(self._control("GET", "stats"))

    def counts(self) -> dict:
        """The counters without what they are counted by."""
        return json.loads(self._control("GET", "counts"))

    def change(self, settings: WireSettings) -> None:
        self._control("PUT", "settings", json.dumps(dataclasses.asdict(settings)).encode())

    def finish(self) -> None:
        """End all batches now."""
        self._control("POST", "finish", b"{}")

    def _control(self, method: str, name: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}/control/{name}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read()


@contextlib.contextmanager
def spawned(settings: WireSettings | None = None) -> Generator[SpawnedServer]:
    """Serve from another process, so that neither shares a processor's lock with the other."""
    given = json.dumps(dataclasses.asdict(settings or WireSettings()))
    command = [sys.executable, "-m", "anmi_pipeline_tests.judging.wire_server", "--settings", given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[2]) as process:
        try:
            yield SpawnedServer(process.stdout.readline().strip(), process.pid)
        finally:
            process.terminate()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--settings", default="{}")
    arguments = parser.parse_args()
    async with WireServer(WireSettings.from_json(arguments.settings), port=arguments.port) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
