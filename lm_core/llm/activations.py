"""Read and write the residual stream: what every block puts out, and adding to it while the model runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lm_core.concepts import Example
from lm_core.errors import ParameterError
from lm_core.llm.model import LanguageModel

BATCH = 16


@contextmanager
def on_blocks(lm: LanguageModel, see: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `see(layer, resid_post [batch, pos, d_model])` after every block; what it returns takes the output's place.

    The hooks are gone afterwards, whatever happens.
    """

    def hook(layer: int) -> Callable:
        def after(module: Any, inputs: Any, output: Any) -> Any:
            several = isinstance(output, tuple)
            changed = see(layer, output[0] if several else output)
            if changed is None:
                return None
            return (changed, *output[1:]) if several else changed

        return after

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(lm.blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def steered(lm: LanguageModel, shift: Callable[[], Tensor | None]) -> Iterator[None]:
    """Steer: add `shift()[layer]` to every position of every block's output (h ← h + ε v, Beaglehole et al. 2025).

    Args:
        shift: returns [layer, batch, d_model], read anew at every forward pass; None to leave the model alone.
    """

    def add(layer: int, resid: Tensor) -> Tensor | None:
        table = shift()
        return None if table is None else resid + table[layer][:, None].to(resid.dtype)

    with on_blocks(lm, add):
        yield


def left_pad(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, attention mask and positions [batch, pos] of rows that all end at the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def collect(
    lm: LanguageModel,
    examples: Sequence[Example],
    check: Callable[[float], None] = lambda share: None,
) -> tuple[Tensor, Tensor]:
    """Read what every block puts out at each example's site.

    Without a response that is the prompt's last token, with one the mean over the response's tokens.

    Args:
        check: called with the share done; may raise to cancel.

    Returns:
        activations [example, layer, d_model] and residual norms [example, layer] (mean over the same tokens), float32.
    """
    if not examples:
        raise ParameterError("No examples are given; give at least eight with and eight without the concept.")
    rows, widths = zip(*(_tokens(lm, one) for one in examples), strict=True)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out = torch.zeros(len(rows), lm.n_layers, lm.d_model)
    norms = torch.zeros(len(rows), lm.n_layers)
    for first in range(0, len(order), BATCH):
        check(first / len(order))
        part = order[first : first + BATCH]
        ids, mask, positions = left_pad([rows[i] for i in part], lm.pad_id, lm.device)
        site = torch.zeros_like(mask, dtype=torch.float32)
        for row, i in enumerate(part):
            site[row, -widths[i] :] = 1 / widths[i]

        def see(layer: int, resid: Tensor, part=part, site=site) -> None:
            resid = resid.float()
            out[part, layer] = torch.einsum("bp,bpd->bd", site, resid).cpu()
            norms[part, layer] = (site * resid.norm(dim=-1)).sum(1).cpu()

        with on_blocks(lm, see):
            lm.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
    return out, norms


def _tokens(lm: LanguageModel, example: Example) -> tuple[list[int], int]:
    """Return the tokens of prompt and response, and how many of the last ones are the site."""
    prompt = lm.prompt_ids(example.prompt)
    if example.start:
        prompt = prompt + lm.tokenizer(example.start, add_special_tokens=False)["input_ids"]
    if example.response is None:
        return prompt, 1
    response = lm.tokenizer(example.response, add_special_tokens=False)["input_ids"]
    return prompt + response, max(len(response), 1)
