"""Random language models of a few thousand parameters, a tokenizer of bytes, and a small concept: nothing is read."""

from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from lm_core.llm.model import LanguageModel, find_blocks

SPECIALS = ["<pad>", "<end>", "<user>", "<reply>"]
VOCABULARY = len(SPECIALS) + 256
LAYERS, WIDTH = 3, 16
TEMPLATE = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<reply>{% endif %}"
CPU = torch.device("cpu")

_ids = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
_sizes = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_grouped = {"num_key_value_heads": 2, "head_dim": 4}  # heads share keys
CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (LlamaConfig, _sizes | _grouped),
    "gemma3": (Gemma3TextConfig, _sizes | _grouped | {"sliding_window": 12, "layer_types": ["sliding_attention"] * 3}),
    "qwen3": (Qwen3Config, _sizes | _grouped),
    "mistral": (MistralConfig, _sizes | _grouped | {"sliding_window": 12}),
    "gpt_neox": (GPTNeoXConfig, _sizes),
    "gpt2": (GPT2Config, {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 256}),
    "phi": (PhiConfig, _sizes),
}
FAMILIES = tuple(CONFIGS)


def tiny_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte, with or without a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*SPECIALS, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "eos_token": "<end>", "additional_special_tokens": SPECIALS[2:]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **names)
    tokenizer.chat_template = TEMPLATE if chat else None
    return tokenizer


def build(family: str = "llama", *, chat: bool = True, seed: int = 0, **settings: Any) -> LanguageModel:
    """Return a fresh random model, drawn wide enough that its tokens differ; `settings` go into its configuration."""
    kind, defaults = CONFIGS[family]
    model = AutoModelForCausalLM.from_config(kind(**(defaults | _ids | settings)))
    source = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=source)
        parameter.data = 0.4 * drawn if parameter.dim() > 1 else parameter.data + 0.1 * drawn  # norms stay near one
    model = model.eval().requires_grad_(False)
    return LanguageModel(f"tiny-{family}", model, tiny_tokenizer(chat=chat), find_blocks(model), "0" * 64, CPU)


@lru_cache
def tiny(family: str = "llama") -> LanguageModel:
    """Return the one shared model of a family; tests that change a model `build` their own."""
    return build(family)


def concept_source(**changes: Any) -> dict[str, Any]:
    """Return what a user's concept file may say; None as a change leaves the field out."""
    numbers = range(10)
    source = {
        "id": "shouting",
        "name": "Shouting",
        "with": ["{statement} Shout.", "Shout about this: {statement}", "Continue: {half}"],
        "without": ["{statement}"],
        "statements": [f"What is {n}?" for n in numbers],
        "texts_with": [f"WOW, IT IS {n}!" for n in numbers],
        "texts_without": [f"it is {n}." for n in numbers],
        "ask": "Shout.",
        "judge": {"metric": "lexicon", "words": ["wow"]},
        "prompts": [f"Say {n}." for n in range(28)],
    }
    return {key: value for key, value in (source | changes).items() if value is not None}


def rating_source(**changes: Any) -> dict[str, Any]:
    """Return a real-valued concept; changes as in `concept_source`."""
    source = {
        "id": "stars",
        "label": "real",
        "template": "Rate this: {text} Rating:",
        "examples": [{"text": f"Fine, {n} times.", "target": 1 + n % 5} for n in range(10)],
        "judge": {"metric": "rating"},
        "prompts": [f"Good, {n} times." for n in range(28)],
    }
    return {key: value for key, value in (source | changes).items() if value is not None}


def is_one_sentence(error: BaseException) -> bool:
    """Tell whether a message can stand before a user: one line, ending as a sentence does."""
    text = str(error)
    return "\n" not in text and "Traceback" not in text and text.endswith(".") and 20 < len(text) < 400
