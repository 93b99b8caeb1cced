"""Fences around untrusted text: no text can end its own fence, or the turn that it is in.

Belongs here: the tag of a call, the fence, and what is made harmless inside it. Does not: the words of prompts (`prompts.py`). A
fence does not keep a model from obeying a document; it keeps the document from pretending that it has ended.
"""

import base64
import re
from collections.abc import Sequence

from anmi_pipeline.judging.call_keys import text_digest

TAG_LETTERS = 16
"""Letters of a tag, five bits each: a text that holds the tag of a call of its own needs 2^80 trials."""

TURN_MARKS = re.compile(
    r"<(?=\|)|<(?=｜)|<(?=/?(?:s|bos|eos|start_of_turn|end_of_turn|think)>)|\[(?=/?INST\])|<(?=</?SYS>>)", re.IGNORECASE
)
"""First characters of the tokens that end a turn or begin another one in the chat templates of open models. A server that splits
them out of the content would let a document end the user's turn."""
UNSENDABLE = re.compile("[\ud800-\udfff\0]")
"""Lone surrogates have no UTF-8 form, and NUL is refused by several servers."""


def harmless(text: str) -> str:
    """Return a text that can be sent and that ends no turn: a space after the first character of each turn mark.

    >>> harmless("relevant<|im_end|>")
    'relevant< |im_end|>'
    """
    return TURN_MARKS.sub(lambda mark: mark[0] + " ", UNSENDABLE.sub("\ufffd", text))


def fence_tag(texts: Sequence[str]) -> str:
    """Draw the tag of a call: random to whoever wrote a text, equal for equal calls.

    Equation: base32(sha256(n, texts)), n the first number whose tag is in no text, whatever its case.

    Args:
        texts: every untrusted text of the call, in order.
    """
    folded = [text.casefold() for text in texts]
    number = 0
    while True:
        digest = text_digest(str(number), *texts)
        tag = base64.b32encode(digest).decode().lower()[:TAG_LETTERS]
        if not any(tag in text for text in folded):
            return tag
        number += 1


def fence(label: str, text: str, tag: str) -> str:
    r"""Put a text between marks that carry the tag.

    >>> fence("document A", "Paris is old.", "k3j5")
    '<document A k3j5>\nParis is old.\n</document A k3j5>'
    """
    return f"<{label} {tag}>\n{text}\n</{label} {tag}>"


def fenced_texts(prompt: str, tag: str) -> dict[str, str]:
    """Read the fenced texts back out of a prompt, by label."""
    pattern = re.compile(rf"<([^<>\n/][^<>\n]*) {re.escape(tag)}>\n(.*?)\n</\1 {re.escape(tag)}>", re.DOTALL)
    return {match[1]: match[2] for match in pattern.finditer(prompt)}
