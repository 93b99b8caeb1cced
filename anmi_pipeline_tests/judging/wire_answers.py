"""What the loopback server answers: a made-up model whose answers, faults and lengths are functions of what it is asked.

Belongs here: reading a request, answering it, counting tokens, drawing faults. Does not: HTTP (`wire_server.py`).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache

from anmi_pipeline.judging.fencing import fenced_texts
from anmi_pipeline.judging.tokens import VOCABULARY_PACKAGE

TRANSIENT = (
    *("429", "500", "529", "timeout", "disconnect", "broken"),
    *("400", "401", "402", "403", "404", "408", "409", "413", "422", "502", "503"),
)
"""Faults of one attempt: a status, no answer, a connection that breaks, or (`broken`) a body cut in two."""
GARBAGE = (
    "20 passages are provided.",
    "I'm sorry, but I can't help with that.",
    "Â\n\n[1] The Government of the",
    "",
    "A\u2028or B?",
)
TAG = re.compile(r"<query ([a-z0-9]{8,40})>\n")

Truth = Callable[[str, str], float]


@dataclass(frozen=True)
class WireSettings:
    """What the server does.

    Attributes:
        latency_s: added to every answered call.
        faults: shares of calls by kind: those of TRANSIENT, drawn per attempt, and `garbage`, drawn per content, so that a call
            asked again after a crash has the same fate.
        requests_per_s: rate of the token bucket; None without a limit.
        burst: size of the bucket, in requests.
        tokens_per_min: second bucket, over input plus the most output tokens; its size is a minute's worth.
        count_refused: refused requests take from the bucket too.
        retry_after: write the header on refusals and faults.
        retry_after_s: what it says on injected faults.
        quotes: messages of injected faults quote the key and the texts of the call, as real ones may.
        seed: seed of answers and faults.
        key: the only key that is accepted; None accepts all.
        models: the models that exist; None for all.
        context_tokens: longest input.
        output_median: median of hidden reasoning tokens, log-normal; 0 for none.
        output_sigma: sigma of their logarithm.
        sharpness: how decided the model is: logits per unit of score difference.
        position_bias: logits in favour of the document shown first.
        batch_s: seconds until a batch is ready.
        batch_reply_s: seconds between the acceptance of a batch and the reply, in which a test may kill its client.
        batch_expired: share of a batch's calls that expire.
        lost_replies: how many batches are accepted while the connection breaks before the reply.
        page: most batches in one page of a list.
    """

    latency_s: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    requests_per_s: float | None = None
    burst: float = 20.0
    tokens_per_min: float | None = None
    count_refused: bool = False
    retry_after: bool = True
    retry_after_s: float = 0.05
    quotes: bool = False
    seed: int = 0
    key: str | None = None
    models: tuple[str, ...] | None = None
    context_tokens: int = 100_000
    output_median: float = 0.0
    output_sigma: float = 1.0
    sharpness: float = 2.0
    position_bias: float = 0.0
    batch_s: float = 0.0
    batch_reply_s: float = 0.0
    batch_expired: float = 0.0
    lost_replies: int = 0
    page: int = 100

    def __post_init__(self):
        unknown = set(self.faults) - {*TRANSIENT, "garbage"}
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}")

    @classmethod
    def from_json(cls, text: str) -> "WireSettings":
        known = {one.name for one in fields(cls)}
        given = json.loads(text)
        if set(given) - known:
            raise ValueError(f"unknown settings {sorted(set(given) - known)}")
        if given.get("models") is not None:
            given["models"] = tuple(given["models"])
        return cls(**given)


@dataclass(frozen=True)
class Asked:
    """What a request asks, whatever its provider: texts by label and the form of the answer."""

    digest: str
    kind: str  # pairwise, listwise, pointwise, or talk when no document is shown
    form: str  # token, json, tool
    query: str
    documents: tuple[str, ...]
    limit: int
    input_tokens: int


@dataclass(frozen=True)
class Answered:
    """What the model says.

    Attributes:
        text: visible text.
        arguments: of the tool call, for form tool.
        alternatives: token -> probability at the answer token, for form token.
        output_tokens: billed.
        reasoning: those of them that are hidden.
        cut: stopped at the limit.
    """

    text: str
    arguments: dict | None
    alternatives: dict[str, float] | None
    output_tokens: int
    reasoning: int
    cut: bool


@lru_cache
def vocabulary():
    """The tokenizer that bills: not our counter, which over-counts on purpose."""
    from importlib import resources

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(resources.files(VOCABULARY_PACKAGE) / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def billed(text: str) -> int:
    return len(vocabulary().encode(text, add_special_tokens=False).ids)


def uniform(*parts: object) -> float:
    """A number in [0, 1) that is a function of the parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "little") / 2**56


def digest_of(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def fault_of(settings: WireSettings, digest: str, attempt: int) -> str | None:
    """The fault of an attempt, None for none; `garbage` by content alone."""
    draw = uniform(settings.seed, "fault", digest, attempt)
    for kind in TRANSIENT:
        draw -= settings.faults.get(kind, 0.0)
        if draw < 0:
            return kind
    return "garbage" if uniform(settings.seed, "garbage", digest) < settings.faults.get("garbage", 0.0) else None


def hashed_truth(query: str, document: str) -> float:
    """The score of a document nobody knows anything about: uniform in [-1, 1], a function of the texts."""
    return 2 * uniform("truth", query, document) - 1


def read_request(body: Mapping, provider: str) -> Asked:
    """Read a request of either provider."""
    user = body["messages"][-1]["content"]
    system = body.get("system", "") if provider == "anthropic" else body["messages"][0]["content"]
    tools = body.get("tools") or []
    schema = (body.get("response_format") or {}).get("json_schema")
    names = [tool.get("name") or tool["function"]["name"] for tool in tools] + ([schema["name"]] if schema else [])
    tag = TAG.search(user)
    texts = fenced_texts(user, tag[1]) if tag else {}
    documents = tuple(text for label, text in texts.items() if label != "query")
    listed = "record_ranking" in names or len(documents) > 2
    kind = "listwise" if listed else {0: "talk", 1: "pointwise"}.get(len(documents), "pairwise")
    form = "tool" if tools else "token" if body.get("logprobs") or "one letter" in user or "one digit" in user else "json"
    extra = json.dumps(tools or schema) if tools or schema else ""
    tokens = billed(f"{system}\n{user}\n{extra}") + 8
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 1024
    return Asked(digest_of(body), kind, form, texts.get("query", ""), documents, int(limit), tokens)


def answer(asked: Asked, settings: WireSettings, truth: Truth, garbage: bool) -> Answered:
    """Answer a request."""
    if garbage or asked.kind == "talk":
        text = GARBAGE[int(uniform(settings.seed, "text", asked.digest) * len(GARBAGE))]
        return Answered(text, None, None, min(billed(text), asked.limit), 0, False)
    value, alternatives = judged(asked, settings, truth)
    visible = json.dumps(value) if asked.form != "token" else max(alternatives, key=lambda token: alternatives[token])
    reasoning = hidden_tokens(asked, settings)
    wanted = reasoning + (1 if asked.form == "token" else billed(visible))
    if wanted > asked.limit:
        return Answered("", None, None, asked.limit, min(reasoning, asked.limit), True)
    if asked.form == "tool":
        return Answered("", value, None, wanted, reasoning, False)
    return Answered(visible, None, alternatives, wanted, reasoning, False)


def judged(asked: Asked, settings: WireSettings, truth: Truth) -> tuple[dict, dict[str, float]]:
    """The judgment as arguments, and as probabilities of answer tokens."""
    scores = [truth(asked.query, document) for document in asked.documents]
    if asked.kind == "pairwise":
        logit = settings.sharpness * (scores[0] - scores[1]) + settings.position_bias
        first = 1 / (1 + math.exp(-logit))
        return {"preference": round(2 * first - 1, 2)}, {"A": 0.96 * first, "B": 0.96 * (1 - first), "T": 0.02, "The": 0.02}
    if asked.kind == "listwise":
        order = sorted(range(len(scores)), key=lambda at: -scores[at])
        return {"ranking": [at + 1 for at in order]}, {}
    grade = min(int((scores[0] + 1) * 2), 3) if scores else 0
    return {"grade": grade}, {str(one): 0.94 if one == grade else 0.02 for one in range(4)}


def hidden_tokens(asked: Asked, settings: WireSettings) -> int:
    """Hidden reasoning: log-normal, so a few calls cost many times the median."""
    if settings.output_median <= 0:
        return 0
    radius = math.sqrt(-2 * math.log(1 - uniform(settings.seed, "radius", asked.digest)))
    normal = radius * math.cos(2 * math.pi * uniform(settings.seed, "angle", asked.digest))
    return round(settings.output_median * math.exp(settings.output_sigma * normal))
