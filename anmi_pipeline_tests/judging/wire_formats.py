"""The bodies of both providers: answers, errors, batches, as they stand on the wire.

Belongs here: JSON. Does not: what is answered (`wire_answers.py`) and HTTP (`wire_server.py`).
"""

import json
import math

from anmi_pipeline_tests.judging.wire_answers import Answered, Asked

OPENAI_ERRORS = {
    400: ("invalid_request_error", None), 401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "model_not_allowed"), 404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"), 500: ("server_error", None), 503: ("server_error", None),
    529: ("server_error", None),
}  # fmt: skip
ANTHROPIC_ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error",
}  # fmt: skip


def error(provider: str, status: int, message: str, code: str | None = None, request_id: str = "") -> dict:
    if provider == "anthropic":
        body = {"type": ANTHROPIC_ERRORS.get(status, "api_error"), "message": message}
        return {"type": "error", "error": body, "request_id": request_id}
    kind, usual = OPENAI_ERRORS.get(status, ("server_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code or usual}}


def completion(body: dict, asked: Asked, answered: Answered, name: str, created: int) -> dict:
    """A chat completion."""
    message = {"role": "assistant", "content": answered.text, "refusal": None, "annotations": []}
    stop = "length" if answered.cut else "stop"
    if answered.arguments is not None:
        function = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps(answered.arguments)}
        message |= {"content": None, "tool_calls": [{"id": f"call_{name[:24]}", "type": "function", "function": function}]}
    choice = {"index": 0, "message": message, "logprobs": logprobs(body, answered), "finish_reason": stop}
    usage = {
        "prompt_tokens": asked.input_tokens,
        "completion_tokens": answered.output_tokens,
        "total_tokens": asked.input_tokens + answered.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": answered.reasoning, "audio_tokens": 0},
    }
    return {
        "id": f"chatcmpl-{name[:29]}", "object": "chat.completion", "created": created, "model": body["model"],
        "choices": [choice], "usage": usage, "service_tier": "default", "system_fingerprint": "fp_loopback",
    }  # fmt: skip


def logprobs(body: dict, answered: Answered) -> dict | None:
    if not body.get("logprobs"):
        return None
    if answered.alternatives is None:
        return {"content": [], "refusal": None}
    listed = [one(token, probability) for token, probability in sorted(answered.alternatives.items(), key=lambda item: -item[1])]
    top = listed[: body.get("top_logprobs", 0)]
    return {"content": [{**listed[0], "top_logprobs": top}], "refusal": None}


def one(token: str, probability: float) -> dict:
    return {"token": token, "logprob": math.log(max(probability, 1e-12)), "bytes": list(token.encode())}


def message(body: dict, asked: Asked, answered: Answered, name: str) -> dict:
    """A message."""
    content: list[dict] = [{"type": "text", "text": answered.text}] if answered.text else []
    stop = "max_tokens" if answered.cut else "end_turn"
    if answered.arguments is not None:
        content.append({
            "type": "tool_use", "id": f"toolu_{name[:24]}", "name": body["tools"][0]["name"], "input": answered.arguments,
        })  # fmt: skip
        stop = "tool_use"
    usage = {
        "input_tokens": asked.input_tokens, "output_tokens": answered.output_tokens, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0, "service_tier": "standard",
    }  # fmt: skip
    return {
        "id": f"msg_{name[:24]}", "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": stop, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
