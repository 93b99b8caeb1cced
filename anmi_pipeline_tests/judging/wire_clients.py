"""Clients of both providers against the loopback server, for tests that hold for both.

Belongs here: how tests build clients and calls. Does not: any expectation.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from anmi_pipeline.judging.anthropic_client import AnthropicClient
from anmi_pipeline.judging.anthropic_wire import AnthropicModel
from anmi_pipeline.judging.openai_client import OpenAIClient
from anmi_pipeline.judging.openai_wire import OpenAIModel
from anmi_pipeline.judging.prompts import PromptWriter, read_prompt
from anmi_pipeline_tests.judging.wire_answers import WireSettings, hashed_truth
from anmi_pipeline_tests.judging.wire_server import WireServer

PROVIDERS = ("openai", "anthropic")
PLANTED = {"openai": "sk-proj-PLANTEDKEY0123456789abcdefXYZ", "anthropic": "sk-ant-api03-PLANTEDKEY0123456789XYZ"}
VARIABLE = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def client_of(provider, server, **changes):
    if provider == "openai":
        return OpenAIClient(OpenAIModel(**{"model": "gpt-4o-mini", "base_url": server.openai_url, **changes}))
    return AnthropicClient(AnthropicModel(**{"model": "claude-haiku-4-5", "base_url": server.url, **changes}))


def writer_of(client, kind="pairwise"):
    return PromptWriter(read_prompt(kind), client._settings.form)


def call(client, query="what is x", documents=("doc one", "doc two"), kind="pairwise"):
    key = hashlib.sha256("\0".join((query, *documents)).encode("utf-8", "surrogatepass")).hexdigest()
    return client.request(key, writer_of(client, kind), query, list(documents))


def ask(provider, body: Callable[..., Awaitable], settings: WireSettings | None = None, truth=hashed_truth, **changes):
    """Run a coroutine function of (client, server)."""

    async def run():
        async with WireServer(settings, truth) as server:
            client = client_of(provider, server, **changes)
            try:
                return await body(client, server)
            finally:
                await client.close()

    return asyncio.run(run())
