"""Issue 4: a loopback server speaks the real wire formats and is driven through the unmodified official SDKs.

Both providers, every form of answer and every prompt; both batch APIs; every status that an API answers with, timeouts, broken
connections and bodies, Retry-After. Each case is a judge as a YAML file describes it, from the plan to the ledger, and the
figure is what became of its calls there. The SDKs' files are compared with the hashes that their packages were published with,
and every function in them with those of a process that only imports them. What happened against servers that we did not write
is the result of `benchmarks/real_server.py`. About a minute of one core.
"""

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata

from harness import Figures, arguments, at_least, at_most, exactly
from sdks import PACKAGES, loaded, patched, unpublished
from wire_cases import KEYS, PROVIDERS, VARIABLE, Case, Listening, Seen, run

from anmi_pipeline.judging.batches import BatchPending
from anmi_pipeline.judging.verdicts import OK
from anmi_pipeline_tests.judging.wire_answers import WireSettings, hashed_truth

AGENT = {"openai": "AsyncOpenAI/Python", "anthropic": "AsyncAnthropic/Python"}


# What is asked and answered


def expected_p(seen: Seen, row: Mapping[str, str], graded: bool) -> float:
    """What the server's model thinks of a row: P(first), or the grade as a share of 3."""
    queries = dict(seen.evidence.queries.select("query_id", "text").iter_rows())
    texts = {name: f"{title}\n{text}" for name, title, text in seen.evidence.corpus.select("doc_id", "title", "text").iter_rows()}
    first, second = (hashed_truth(queries[row["query_id"]], texts[row[side]]) for side in ("first_id", "second_id"))
    return min(int((first + 1) * 2), 3) / 3 if graded else 1 / (1 + math.exp(-2 * (first - second)))


def worst_error(seen: Seen, case: Case) -> float:
    """Largest difference between a verdict and what the server's model thinks."""
    rows = seen.rows.iter_rows(named=True)
    if case.judge.get("prompt") == "listwise":  # a ranking says which, not how much
        return max(float((row["p_first"] > 0.5) != (expected_p(seen, row, graded=False) > 0.5)) for row in rows)
    return max(abs(row["p_first"] - expected_p(seen, row, case.grades)) for row in rows)


LISTS = {"design": "lists", "list_size": 4, "degree": 3}
FORMATS = {
    "openai": {
        "log-probabilities of one token": ({"form": "token"}, ("logprobs", "top_logprobs")),
        "json_schema": ({"form": "json"}, ("response_format",)),
        "json_object": ({"form": "json", "structured": "json_object"}, ("response_format",)),
        "json in the text": ({"form": "json", "structured": "none"}, ()),
        "forced tool": ({"form": "tool"}, ("tools", "tool_choice", "parallel_tool_calls")),
    },
    "anthropic": {
        "forced tool": ({"form": "tool"}, ("tools", "tool_choice")),
        "json in the text": ({"form": "json"}, ()),
    },
}
"""Form of the answer -> settings, and the fields of the body that ask for it."""


def formats(figures: Figures, providers: Sequence[str] = PROVIDERS) -> None:
    """Every form of answer with every prompt that can have it."""
    for provider in providers:
        for name, (judge, fields) in FORMATS[provider].items():
            cases = {"pairwise": Case(provider, judge), "pointwise": Case(provider, judge, grades=True)}
            if judge["form"] != "token":
                cases["listwise"] = Case(provider, judge | {"prompt": "listwise"}, judging=LISTS)
            for prompt, case in cases.items():
                seen = run(case)
                what = f"{provider}, {name}, {prompt}"
                answered = seen.rows.height and (seen.rows["status"] == OK).all() and seen.error is None
                figures.claim(f"{what}: every call answered", bool(answered), detail=f"{seen.received} calls, {said(seen)}")
                # The server rounds to .01, and leaves some probability to other answers; more to other grades.
                bound = at_most(0.05 if case.grades else 0.02)
                figures.check(f"{what}: largest error of a verdict", worst_error(seen, case), bound)
                asked = all(wanted in body for body in seen.bodies for wanted in fields)
                by_sdk = all(is_from_sdk(provider, headers) for headers in seen.headers)
                figures.claim(f"{what}: asked for as the API wants it, by the SDK", asked and by_sdk, detail=", ".join(fields))


def is_from_sdk(provider: str, headers: Mapping[str, str]) -> bool:
    """Whether a call came from the installed SDK, with the key."""
    key = KEYS[VARIABLE[provider]]
    given = key in (headers.get("x-api-key"), headers.get("authorization", "").removeprefix("Bearer "))
    version = metadata.version(provider)
    return given and headers["user-agent"].startswith(AGENT[provider]) and headers["x-stainless-package-version"] == version


def said(seen: Seen) -> str:
    """Statuses, or the error."""
    return str(seen.error) if seen.error is not None else ", ".join(f"{name} {count}" for name, count in seen.statuses.items())


# What goes wrong

STOPS = {
    "400": "refused the request (400)",
    "401": "{variable} was refused",
    "402": "{variable} has no credit left",
    "403": "{variable} may not use",
    "404": "does not exist (404)",
    "422": "refused the request (422)",
}
"""Status -> what the one error says: no retry, and nobody else is asked."""
RETRIED = {
    **{status: f"http_{status}" for status in ("408", "409", "429", "500", "502", "503", "529")},
    "timeout": "timeout",
    "disconnect": "connection",
    "broken": "bad_body",
}
"""Fault -> status on record when all attempts failed."""
ONCE = {"413": "too_long", "garbage": "unparsed"}
"""Fault -> status on record after one attempt: another would change nothing."""
PATIENCE = {"timeout": {"timeout_s": 1.0}}
"""Only calls that never end are given up soon: on a busy machine any may take a second."""


def failures(figures: Figures, providers: Sequence[str] = PROVIDERS, faults: Sequence[str] | None = None) -> None:
    """Every status of an error, timeouts, broken connections and bodies."""
    for provider in providers:
        for fault, text in STOPS.items():
            if faults is None or fault in faults:
                stops(figures, provider, fault, text.format(variable=VARIABLE[provider]))
        for fault, status in (ONCE | RETRIED).items():
            if faults is None or fault in faults:
                attempts = 1 if fault in ONCE else 2
                fails(figures, provider, fault, status, attempts)
                if attempts > 1:
                    passes(figures, provider, fault)


def stops(figures: Figures, provider: str, fault: str, text: str) -> None:
    """A fault that no retry mends: one clear error, one call."""
    seen = run(Case(provider, {"dispatch": {"workers": 1}}, WireSettings(faults={fault: 1.0}, quotes=True)))
    message = str(seen.error)
    texts = [*KEYS.values(), *seen.evidence.queries["text"], *seen.evidence.corpus["text"]]
    clear = text in message and not any(one in message for one in texts) and not getattr(seen.error, "retryable", True)
    figures.claim(f"{provider}, {fault} for every call: one clear error that quotes nothing", clear, detail=message)
    once = (seen.received, seen.filed) == (1, 0)
    figures.claim(f"{provider}, {fault}: asked once, nothing on record", once, detail=f"{seen.received} calls, {seen.filed} rows")


def fails(figures: Figures, provider: str, fault: str, status: str, attempts: int) -> None:
    """A fault in every attempt: a row with its status for each call, never a vote."""
    judge = PATIENCE.get(fault, {}) | {"dispatch": {"attempts": 2}}
    seen = run(Case(provider, judge, WireSettings(faults={fault: 1.0}, retry_after_s=0.01)))
    count = seen.rows.height
    recorded = count > 0 and seen.statuses == {status: count} and seen.rows["p_first"].null_count() == count
    figures.claim(f'{provider}, {fault} for ever: recorded as "{status}", no vote', recorded, detail=said(seen))
    calls = seen.rows["call_key"].n_unique() if count else 1
    figures.check(f"{provider}, {fault} for ever: attempts per call", seen.received / calls, exactly(attempts))


def passes(figures: Figures, provider: str, fault: str) -> None:
    """A fault in half of the attempts: in the end every call has its answer, once."""
    wire = WireSettings(faults={fault: 0.5}, retry_after_s=0.01)
    seen = run(Case(provider, PATIENCE.get(fault, {}) | {"dispatch": {"attempts": 30}}, wire))
    answered = seen.rows.height and seen.statuses == {OK: seen.rows.height} and seen.filed == seen.rows["call_key"].n_unique()
    name, detail = f"{provider}, {fault} in half of the attempts", f"{seen.received} attempts for {seen.filed} calls"
    figures.claim(f"{name}: every call answered and on record once", bool(answered), detail=detail)
    # An answer that was cut off was billed by the server and is not known here.
    if fault not in ("timeout", "disconnect", "broken"):
        figures.check(f"{name}: paid twice", seen.paid_twice, exactly(0))


def waits(figures: Figures, providers: Sequence[str] = PROVIDERS) -> None:
    """Retry-After is kept, by the call and by its pace; without it the wait is ours."""
    for provider in providers:
        for header in (True, False):
            wire = WireSettings(faults={"429": 0.4}, retry_after=header, retry_after_s=0.4)
            seen = run(Case(provider, {"dispatch": {"attempts": 30}}, wire))
            shortest = min(seen.gaps)
            name = f"{provider}, 429 {'with Retry-After .4' if header else 'without Retry-After'}: shortest wait, s"
            figures.check(name, shortest, at_least(0.4) if header else at_most(0.39), detail=f"{len(seen.gaps)} waits")


# Batches


def batches(figures: Figures, providers: Sequence[str] = PROVIDERS) -> None:
    """Both batch APIs: submitted once, waited for, collected, failures submitted again, lost replies found."""
    settled = {"batch": {"calls": 20, "settle_seconds": 0}}
    for provider in providers:
        waiting = WireSettings(batch_s=3600.0)
        first = run(Case(provider, settled, waiting))
        pending = isinstance(first.error, BatchPending)
        figures.claim(f"{provider}, batches: the step ends while they run", pending, detail=str(first.error))
        cases = {
            "all well": (waiting, {OK}),
            "a fifth fails, a fifth expires": (
                replace(waiting, faults={"500": 0.2}, batch_expired=0.2), {OK, "http_500", "batch_expired"},
            ),
            "a fifth is garbage": (replace(waiting, faults={"garbage": 0.2}), {OK, "unparsed"}),
            "two replies are lost": (replace(waiting, lost_replies=2), {OK}),
        }  # fmt: skip
        for name, (wire, statuses) in cases.items():
            seen = run(Case(provider, settled, wire), turns=6)
            kept = seen.error is None and set(seen.statuses) <= statuses and seen.received == 0
            figures.claim(f"{provider}, batches, {name}: every call on record", kept, detail=said(seen))
            figures.check(f"{provider}, batches, {name}: paid twice", seen.paid_twice, exactly(0))
        server = Listening(waiting)  # one address: it is part of every call's name
        sync, batch = run(Case(provider), server=server), run(Case(provider, settled), turns=2, server=server)
        columns = ["call_key", "status", "p_first"]
        same = sync.rows.select(columns).equals(batch.rows.select(columns))
        figures.claim(f"{provider}, batches: the same verdicts under the same keys as single calls", same)
        refused = run(Case(provider, settled, WireSettings(key="another")))
        named, text = VARIABLE[provider] in str(refused.error), str(refused.error)
        figures.claim(f"{provider}, batches: a refused key is named", named, detail=text)


def unpatched(figures: Figures) -> None:
    """Neither files nor functions of the SDKs are other than published; call it after everything else."""
    for package in PACKAGES:
        wrong = unpublished(package)
        name = f"{package} {metadata.version(package)}: files that are not as published"
        figures.check(name, len(wrong), exactly(0), detail=", ".join(wrong[:3]))
    modules = loaded()
    changed, compared = patched(modules)
    detail = ", ".join(changed[:3]) or f"{compared} functions of {len(modules)} modules compared"
    figures.check("functions of the SDKs that differ from a fresh import", len(changed), exactly(0), detail=detail)


def main() -> int:
    """All of it."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--provider", choices=PROVIDERS, action="append", help="only this one")

    options = arguments(__doc__ or "", add=more)
    os.environ.update(KEYS)
    figures, providers = Figures("4.1 wire formats"), options.provider or PROVIDERS
    formats(figures, providers)
    failures(figures, providers)
    waits(figures, providers)
    batches(figures, providers)
    unpatched(figures)
    figures.say("servers that others wrote: python benchmarks/real_server.py --serve PYTHON --proxy PYTHON")
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
