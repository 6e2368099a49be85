"""Read many example texts: a prompt that many of them answer is read once for a whole batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lm_core.concepts import Example
from lm_core.llm.activations import BATCH, collect, on_blocks
from lm_core.llm.model import LanguageModel

LONGEST_TEXT = 256  # tokens of an example that are read
MARGIN = 8  # tokens that a text may gain when it is cut and written out again

Tell = Callable[[float], None]


def read_examples(
    lm: LanguageModel, examples: Sequence[Example], tell: Tell = lambda share: None
) -> tuple[Tensor, Tensor]:
    """Return what `collect` returns, faster where several examples answer the same prompt.

    Args:
        tell: called with the share done; may raise to cancel.

    Returns:
        activations [example, layer, d_model] and residual norms [example, layer], float32.

    Cost: one pass over the responses' tokens and, a batch, over the prompt's.
    """
    answering: dict[str, list[int]] = {}
    for i, one in enumerate(examples):
        if one.response and not one.start:
            answering.setdefault(one.prompt, []).append(i)
    shared = [rows for rows in answering.values() if len(rows) > 1]
    activations = torch.zeros(len(examples), lm.n_layers, lm.d_model)
    norms, done = torch.zeros(len(examples), lm.n_layers), 0
    for rows in (*shared, sorted(set(range(len(examples))).difference(*shared))):

        def part(share: float, rows=rows, done=done) -> None:
            tell((done + share * len(rows)) / len(examples))

        if rows:
            read = _answers if rows in shared else collect
            activations[rows], norms[rows] = read(lm, [examples[i] for i in rows], part)
        done += len(rows)
    return activations, norms


@torch.inference_mode()
def _answers(lm: LanguageModel, examples: Sequence[Example], tell: Tell) -> tuple[Tensor, Tensor]:
    """Read answers to one prompt, shortest first: means over their tokens."""
    head = torch.tensor([lm.prompt_ids(examples[0].prompt)], device=lm.device)
    texts = [one.response or "" for one in examples]
    rows = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] or [lm.pad_id] for text in texts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    activations, norms = torch.zeros(len(rows), lm.n_layers, lm.d_model), torch.zeros(len(rows), lm.n_layers)
    for first in range(0, len(order), BATCH):
        tell(first / len(order))
        part = order[first : first + BATCH]
        longest = len(rows[part[-1]])
        ids = torch.tensor([rows[i] + [lm.pad_id] * (longest - len(rows[i])) for i in part], device=lm.device)
        real = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in part], device=lm.device)
        site = real / real.sum(1, keepdim=True)
        cache = lm.model(input_ids=head, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(part))

        def see(layer: int, resid: Tensor, part=part, site=site) -> None:
            resid = resid.float()
            activations[part, layer] = torch.einsum("bp,bpd->bd", site, resid).cpu()
            norms[part, layer] = (site * resid.norm(dim=-1)).sum(1).cpu()

        places = head.shape[1] + torch.arange(longest, device=lm.device).expand(len(part), -1)
        mask = torch.cat([real.new_ones(len(part), head.shape[1]), real], 1)
        with on_blocks(lm, see):
            lm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
    return activations, norms


def longest_text(lm: LanguageModel, prompt: str) -> int:
    """Return how many tokens of an example are read: 256, or what the model's context leaves beside a prompt."""
    config = lm.model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or LONGEST_TEXT + 10**6
    return max(1, min(LONGEST_TEXT, context - len(lm.prompt_ids(prompt)) - MARGIN))


def cut(lm: LanguageModel, text: str, tokens: int) -> str:
    """Return the start of a text, at most so many tokens of it; a broken last letter is dropped."""
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) <= tokens:
        return text
    return lm.tokenizer.decode(ids[:tokens], skip_special_tokens=True).rstrip("\ufffd").strip() or text[:1]
