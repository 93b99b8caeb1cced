"""A tiny chat model with random weights, for servers that need one.

Belongs here: the folder that a server loads. Does not: serving it and asking it (`real_server.py`).

The tokenizer is trained on the texts at hand and has some whole answers as single tokens, after each of which the model stops.
Left alone the model says anything, which nobody can read. A request whose `logit_bias` favours the answers of a kind gets one of
them: which one is up to the random weights. That is nonsense, but it can be read.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

VOCABULARY, SEED, POSITIONS = 4096, 0, 4096
END, START, PAD = "<|im_end|>", "<|im_start|>", "<|pad|>"
CHAT = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VALUES: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "pairwise": ("preference", (-1, -0.5, 0, 0.25, 0.75)),
    "pointwise": ("grade", (0, 1, 2, 3)),
    "listwise": ("ranking", ([2, 1, 3, 4], [4, 3, 2, 1], [1, 3, 2, 4])),
}
TOKENS = {"pairwise": ("A", "B", "T"), "pointwise": ("0", "1", "2", "3"), "listwise": ()}


def answers(kind: str, form: str) -> tuple[str, ...]:
    """The answers to a prompt that the model knows as one token, by kind of the prompt and form of the answer."""
    if form == "token":
        return TOKENS[kind]
    field, values = VALUES[kind]
    given = [json.dumps({field: value}) for value in values]
    if form == "json":
        return tuple(given)
    return tuple(f'<tool_call>{{"name": "record_{field}", "arguments": {one}}}</tool_call>' for one in given)


def all_answers() -> list[str]:
    """Every answer of every kind and form."""
    return [one for form in ("token", "json", "tool") for kind in VALUES for one in answers(kind, form)]


def make_model(folder: Path, texts: Iterable[str]) -> dict[str, int]:
    """Write tokenizer, weights and settings of the model; returns the answers' token ids.

    Args:
        folder: where to; made.
        texts: what the tokenizer is trained on.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    trained.add_tokens([AddedToken(answer, normalized=False) for answer in all_answers()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token=END, pad_token=PAD, chat_template=CHAT, model_max_length=POSITIONS
    )
    tokenizer.save_pretrained(folder)
    ids = {answer: trained.token_to_id(answer) for answer in all_answers()}
    torch.manual_seed(SEED)
    stops = {"eos_token_id": [trained.token_to_id(END), *ids.values()], "pad_token_id": trained.token_to_id(PAD)}
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=POSITIONS, initializer_range=0.5, **stops,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, **stops)
    model.save_pretrained(folder)
    return ids
