"""Our client of chat completions against servers that others wrote: `transformers serve`, and the LiteLLM proxy before it.

    python benchmarks/real_server.py --serve PYTHON [--proxy PYTHON] [--pairs 100]
    python benchmarks/real_server.py --url http://127.0.0.1:8000/v1 --model NAME [--key-env VARIABLE]

PYTHON: one with `transformers[serving]`, and one with `litellm[proxy]`; they need not be the project's. With `--url` one that
runs is asked instead, without the biases that make the tiny model's answers readable. Prints what happened, case by case, over
pairs of nfcorpus texts (seed 0), and demands nothing. The figures of docs/servers.md are this script's.
"""

import argparse
import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tiny_model import answers, make_model

from anmi_pipeline.errors import JudgeError
from anmi_pipeline.judging.dispatch import Dispatcher
from anmi_pipeline.judging.dispatch_config import DispatchConfig
from anmi_pipeline.judging.openai_client import OpenAIClient
from anmi_pipeline.judging.openai_wire import OpenAIModel
from anmi_pipeline.judging.parsing import grade, p_first, ranking
from anmi_pipeline.judging.prompts import PromptLimits, PromptWriter, read_prompt
from anmi_pipeline.judging.requests import ANSWERED, Answer, Outcome, Request

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("ANMI_DATA", REPOSITORY.parent / "shared" / "data")) / "nfcorpus"
SHOWN = {"pairwise": 2, "pointwise": 1, "listwise": 4}
UP_SECONDS, WORKERS, DOCUMENT_TOKENS = 300.0, 8, 256
PROXY_KEY = "sk-loopback-only"
QUICK = {"attempts": 2, "backoff_seconds": 0.05, "breaker_failures": 1000, "workers": WORKERS}


@dataclass(frozen=True)
class Case:
    """One way to ask.

    Attributes:
        name: what it is called in the table.
        kind: prompt.
        settings: of the model.
        favoured: favour the answers of this form by `logit_bias`; None: let the model say anything.
        calls: how many; None: all.
        tokens: longest document.
    """

    name: str
    kind: str = "pairwise"
    settings: Mapping[str, object] = field(default_factory=dict)
    favoured: str | None = None
    calls: int | None = None
    tokens: int = DOCUMENT_TOKENS


@dataclass(frozen=True)
class Target:
    """A server: what to call it, its settings, the answers' token ids where its model is the tiny one."""

    name: str
    settings: Mapping[str, object]
    ids: Mapping[str, int]


def read_texts() -> tuple[list[str], list[str]]:
    """Queries and documents of nfcorpus."""
    with (DATA / "queries.jsonl").open(encoding="utf-8") as lines:
        queries = [str(json.loads(line)["text"]) for line in lines]
    with gzip.open(DATA / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return queries, [f"{row['title']}\n{row['text']}" for row in rows]


FORMS = [
    Case("token", settings={"form": "token"}, favoured="token"),
    Case("token, any words", settings={"form": "token"}),
    *(Case(f"json, {how}", settings={"form": "json", "structured": how}, favoured="json")
      for how in ("json_schema", "json_object", "none")),
    Case("json, any words", settings={"form": "json"}),
    Case("tool", settings={"form": "tool"}, favoured="tool"),
    Case("tool, answered by text", settings={"form": "tool"}, favoured="json"),
    Case("pointwise token", "pointwise", {"form": "token"}, "token"),
    Case("pointwise json", "pointwise", {"form": "json"}, "json"),
    Case("listwise json, 4", "listwise", {"form": "json"}, "json"),
    Case("listwise tool, 4", "listwise", {"form": "tool"}, "tool"),
]  # fmt: skip
MISTAKES = [
    Case("unknown model", settings={"model": "no-such-model"}, calls=3),
    Case("unknown field", settings={"extra": {"guided_choice": ["A", "B"]}}, calls=3),
    Case("prompt over the context", calls=3, tokens=3_000, settings={"form": "json"}),
    Case("timeout of 20 ms", settings={"timeout_s": 0.02}, calls=3),
]


def requests_of(client: OpenAIClient, case: Case, texts: tuple[list[str], list[str]], number: int) -> list[Request]:
    """The requests of a case: texts drawn with seed 0."""
    rng = np.random.default_rng(0)
    limits = PromptLimits(document_tokens=case.tokens, query_tokens=64)
    writer = PromptWriter(read_prompt(case.kind), client._settings.form, "", limits)
    made: list[Request] = []
    for at in range(number):
        query = texts[0][rng.integers(len(texts[0]))]
        shown = [texts[1][place] for place in rng.integers(len(texts[1]), size=SHOWN[case.kind])]
        if case.tokens > DOCUMENT_TOKENS:
            shown = [" ".join(texts[1][:200]) for _ in shown]
        made.append(client.request(hashlib.sha256(f"{case.name}/{at}".encode()).hexdigest(), writer, query, shown))
    return made


async def ask(case: Case, target: Target, texts: tuple[list[str], list[str]], pairs: int) -> tuple[list[Outcome], str, float]:
    """Outcomes, error and seconds of a case."""
    bias = {str(target.ids[one]): 100.0 for one in answers(case.kind, case.favoured)} if case.favoured and target.ids else {}
    settings = OpenAIModel.model_validate({"extra": {"logit_bias": bias} if bias else {}, **target.settings, **case.settings})
    client, found = OpenAIClient(settings), []
    started = time.perf_counter()
    try:
        requests = requests_of(client, case, texts, case.calls or pairs)
        async for part in Dispatcher(client, DispatchConfig.model_validate(QUICK)).parts(requests):
            found += part
    except JudgeError as error:
        return found, str(error), time.perf_counter() - started
    finally:
        await client.close()
    return found, "", time.perf_counter() - started


def read(case: Case, answer: Answer) -> object:
    """What the answer says, None for nothing."""
    if case.kind == "pairwise":
        return p_first(answer)
    return grade(answer) if case.kind == "pointwise" else ranking(answer, SHOWN[case.kind])


def row(case: Case, found: Sequence[Outcome], error: str, seconds: float) -> str:
    """One line of the table."""
    given = [(one, Answer.from_stored(one.text)) for one in found if one.status == ANSWERED and one.text is not None]
    statuses = ", ".join(f"{status} {count}" for status, count in sorted(Counter(one.status for one in found).items()))
    cells = [
        case.name, statuses or "-", sum(read(case, answer) is not None for _, answer in given),
        sum(answer.logprobs is not None for _, answer in given), sum(answer.arguments is not None for _, answer in given),
        sum(one.usage.input > 0 and one.usage.output > 0 for one, _ in given),
        sum(one.request_id is not None for one, _ in given),
        f"{statistics.median(one.latency_ms or 0 for one in found):.0f}" if found else "-",
        f"{len(found) / seconds:.1f}" if found else "-", error or "",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


HEADER = "| case | outcomes | can be read | log-probabilities | tool calls | usage | request id | ms | calls/s | error |"


def table(target: Target, cases: Sequence[Case], texts: tuple[list[str], list[str]], pairs: int) -> None:
    """Ask all cases and print what happened."""
    print(f"\n## {target.name}\n\n{HEADER}\n|---|---|---|---|---|---|---|---|---|---|", flush=True)
    stored: list[str] = []
    for case in cases:
        found, error, seconds = asyncio.run(ask(case, target, texts, pairs))
        print(row(case, found, error, seconds), flush=True)
        stored += [f"{case.name}: {one.text}" for one in found[:1] if one.text is not None]
    print("\nThe first answer of each case, as it is stored:\n\n" + "\n".join(stored))


async def try_batch(target: Target, texts: tuple[list[str], list[str]]) -> str:
    """What happens to a batch."""
    client = OpenAIClient(OpenAIModel.model_validate({**target.settings}))
    try:
        submitted = await client.submit(requests_of(client, Case("batch"), texts, 3), "token-of-intent")
        return f"accepted, {submitted.status}"
    except JudgeError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        await client.close()


@contextlib.contextmanager
def running(command: Sequence[str], url: str, log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A server process, ready when the URL answers.

    Raises:
        SystemExit: it did not start.
    """
    with (
        log.open("w") as stream,
        subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | environment) as process,
    ):
        try:
            until = time.monotonic() + UP_SECONDS
            while not answers_at(url):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.5)
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def loopback(settings: Mapping[str, object]) -> Iterator[str]:
    """The tests' own server as a process; its base URL."""
    command = [sys.executable, "-m", "anmi_pipeline_tests.judging.wire_server", "--settings", json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        try:
            yield f"{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()


def answers_at(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_and_ask(folder: Path, python: Path, proxy: Path | None, pairs: int) -> None:
    """Start `transformers serve`, ask it, then through the proxy."""
    texts, port = read_texts(), free_port()
    root = f"http://127.0.0.1:{port}"
    ids = make_model(folder / "model", texts[1])
    command = [str(python.with_name("transformers")), "serve", str(folder / "model"), "--host", "127.0.0.1", "--port", str(port)]
    served = {"model": str(folder / "model"), "base_url": f"{root}/v1", "api_key_env": None}
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    direct = Target("transformers serve", served, ids)
    with running([*command, "--device", "cpu"], f"{root}/health", folder / "serve.log", offline):
        cut = Case("base_url without /v1", settings={"base_url": root}, calls=3)
        table(direct, [*FORMS, *MISTAKES, cut], texts, pairs)
        print(f"\nBatch: {asyncio.run(try_batch(direct, texts))}")
        if proxy is not None:
            through_proxy(folder, proxy, direct, texts, pairs)
    table(Target("transformers serve, stopped", served, ids), [Case("stopped", calls=3)], texts, pairs)


def through_proxy(folder: Path, python: Path, direct: Target, texts: tuple[list[str], list[str]], pairs: int) -> None:
    """The LiteLLM proxy before `transformers serve`, and before the loopback server, which gives log-probabilities."""
    port = free_port()
    with loopback({}) as good, loopback({"faults": {"429": 0.1, "500": 0.05}, "context_tokens": 4000}) as faulty:
        upstream = {
            "tiny": {"model": f"openai/{direct.settings['model']}", "api_base": str(direct.settings["base_url"])},
            "good": {"model": "openai/gpt-4o-mini", "api_base": good},
            "faulty": {"model": "openai/gpt-4o-mini", "api_base": faulty},
            "limited": {"model": "openai/gpt-4o-mini", "api_base": good, "rpm": 20},
        }
        models = [{"model_name": name, "litellm_params": {"api_key": "none", **of}} for name, of in upstream.items()]
        config = {
            "model_list": models, "general_settings": {"master_key": PROXY_KEY}, "litellm_settings": {"num_retries": 0},
            "router_settings": {"optional_pre_call_checks": ["enforce_model_rate_limits"]},
        }  # fmt: skip
        (folder / "litellm.yaml").write_text(json.dumps(config))
        command = [str(python.with_name("litellm")), "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1"]
        offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        ready = f"http://127.0.0.1:{port}/health/liveliness"
        with running([*command, "--port", str(port)], ready, folder / "litellm.log", offline):
            ask_proxy(f"http://127.0.0.1:{port}/v1", direct.ids, texts, pairs)


def ask_proxy(url: str, ids: Mapping[str, int], texts: tuple[list[str], list[str]], pairs: int) -> None:
    """All models behind the proxy."""
    os.environ["PROXY_KEY"], os.environ["WRONG_KEY"] = PROXY_KEY, "sk-wrong-key-0123456789"
    settings = {"base_url": url, "api_key_env": "PROXY_KEY"}
    wrong = Case("wrong key", settings={"api_key_env": "WRONG_KEY"}, calls=3)
    tiny = Target("LiteLLM before transformers serve", {**settings, "model": "tiny"}, ids)
    table(tiny, [*FORMS, *MISTAKES, wrong], texts, pairs)
    plain = [case for case in FORMS if "any words" not in case.name and "by text" not in case.name]
    table(Target("LiteLLM before the loopback server", {**settings, "model": "good"}, {}), plain, texts, pairs)
    flawed = Target("LiteLLM before a loopback server that fails (10 % 429, 5 % 500)", {**settings, "model": "faulty"}, {})
    table(flawed, [FORMS[0], *(case for case in MISTAKES if "context" in case.name)], texts, pairs)
    limited = Target("LiteLLM with rpm: 20, two attempts a call", {**settings, "model": "limited"}, {})
    table(limited, [Case("token", settings={"form": "token"}, calls=24)], texts, 24)
    print(f"\nBatch: {asyncio.run(try_batch(flawed, texts))}")


def main() -> None:
    """Ask what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", type=Path, help="python with transformers[serving]")
    parser.add_argument("--proxy", type=Path, help="python with litellm[proxy]")
    parser.add_argument("--url", help="base URL of a server that runs")
    parser.add_argument("--model", help="its model")
    parser.add_argument("--key-env", help="environment variable with its key")
    parser.add_argument("--pairs", type=int, default=100)
    given = parser.parse_args()
    if given.url:
        settings = {"base_url": given.url, "model": given.model, "api_key_env": given.key_env}
        return table(Target(given.url, settings, {}), [*FORMS, *MISTAKES], read_texts(), given.pairs)
    if given.serve is None:
        parser.error("give --serve PYTHON or --url URL")
    with tempfile.TemporaryDirectory() as folder:
        serve_and_ask(Path(folder), given.serve.absolute(), given.proxy and given.proxy.absolute(), given.pairs)
    return None


if __name__ == "__main__":
    main()
