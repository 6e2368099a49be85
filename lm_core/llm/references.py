"""What a detector must beat: the model asked outright, and a bag of words that knows nothing of the model."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lm_core.concepts import Example
from lm_core.llm.activations import BATCH, left_pad
from lm_core.llm.detect import shorten, tokens_of
from lm_core.llm.model import LanguageModel

YES, NO = (("Yes", "yes", " Yes", " yes"), ("No", "no", " No", " no"))
DIGITS = tuple((str(digit),) for digit in range(1, 6))
WORDS = r"(?u)\b\w+\b"  # words of one letter too


@torch.inference_mode()
def judge_scores(
    lm: LanguageModel,
    examples: Sequence[Example],
    question: str,
    real: bool,
    check: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Ask the model about every example and return its verdicts [n], read off the logits of the answer's first token.

    Two classes: log P(yes) − log P(no), each over upper and lower case, with and without a space. A scale: the expected
    digit from 1 to 5.

    Args:
        question: with {prompt} and {response} in it; yes means the larger label.
        check: called with the share done before every batch; may raise to cancel.
    """
    reserve = len(tokens_of(lm, question.format(prompt="", response="")))
    short = [shorten(lm, one, reserve) for one in examples]
    rows = [lm.prompt_ids(question.format(prompt=one.prompt, response=one.response or "")) for one in short]
    words = [_starts(lm, kind) for kind in (DIGITS if real else (YES, NO))]
    order, scores = sorted(range(len(rows)), key=lambda i: len(rows[i])), np.zeros(len(rows))
    for first in range(0, len(order), BATCH):
        check(first / len(order))
        part = order[first : first + BATCH]
        ids, mask, positions = left_pad([rows[i] for i in part], lm.pad_id, lm.device)
        out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
        logits = out.logits[:, -1].float().cpu()
        said = torch.stack([logits[:, kind].logsumexp(-1) for kind in words], -1)
        scores[part] = (said.softmax(-1) @ torch.arange(1.0, 6.0) if real else said[:, 0] - said[:, 1]).numpy()
    return scores


def _starts(lm: LanguageModel, words: Sequence[str]) -> list[int]:
    return sorted({tokens_of(lm, word)[0] for word in words})


def word_scores(examples: Sequence[Example], targets: Tensor, folds: Sequence[Sequence[int]], real: bool) -> np.ndarray:
    """Return the scores [n] of logistic regression on word counts (ridge regression if real), fitted without a fold."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    texts, wanted = [f"{one.prompt}\n{one.response or ''}" for one in examples], targets.numpy()
    scores = np.zeros(len(texts))
    for test in map(list, folds):
        train = np.setdiff1d(np.arange(len(texts)), test)
        counter = CountVectorizer(token_pattern=WORDS)
        try:
            counts = counter.fit_transform([texts[i] for i in train])
        except ValueError:  # no words at all, in some texts of punctuation: the scores stay equal, which is chance
            continue
        model = Ridge() if real else LogisticRegression(max_iter=1000)
        model.fit(counts, wanted[train] if real else wanted[train] > 0)
        new = counter.transform([texts[i] for i in test])
        scores[test] = model.predict(new) if isinstance(model, Ridge) else model.decision_function(new)
    return scores
