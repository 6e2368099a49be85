"""The judges on good and bad examples of each concept, on texts too short to judge, and on the loop that fools NLL."""

import math
import subprocess
import sys
import time

import pytest

from lm_core.errors import ParameterError
from lm_core.judges import (
    FENCE_NAMES,
    JUDGES,
    LANGUAGES,
    collapsed,
    distinct2,
    judge,
    longest_repeat,
)

SPECS = {
    "language": {"metric": "language", "target": "es"},
    "sentiment": {"metric": "sentiment", "sign": 1},
    "lexicon": {"metric": "lexicon", "words": ["thou", "thee", "hath"]},
    "contrast": {"metric": "contrast", "words": ["river*", "shore"], "against": ["money", "loan*"]},
    "code": {"metric": "code", "target": "python"},
    "poem": {"metric": "poem"},
    "grounded": {"metric": "grounded", "sign": 1},
}
ENGLISH = (
    "The market opens early in the morning. People buy fruit, bread and flowers there, and talk about the weather."
)
IN_LANGUAGE = {
    "en": ENGLISH,
    "es": "El mercado abre temprano por la mañana. La gente compra fruta, pan y flores, y habla del tiempo.",
    "fr": "Le marché ouvre tôt le matin. Les gens y achètent des fruits, du pain et des fleurs, et parlent du temps.",
    "de": "Der Markt öffnet früh am Morgen. Die Leute kaufen dort Obst, Brot und Blumen und reden über das Wetter.",
    "it": "Il mercato apre presto la mattina. La gente compra frutta, pane e fiori, e parla del tempo.",
    "pt": "O mercado abre cedo pela manhã. As pessoas compram frutas, pão e flores, e falam sobre o tempo.",
    "ru": "Рынок открывается рано утром. Люди покупают там фрукты, хлеб и цветы и говорят о погоде.",
    "zh": "市场早上很早就开门。人们在那里买水果、面包和花，还谈论天气。",
    "ja": "市場は朝早くから開いています。人々はそこで果物やパンや花を買います。",
}
PROSE = [
    ENGLISH,
    IN_LANGUAGE["es"],
    "London is nice\nParis\n42\n'quoted'\nred, green, blue\nNote: this",
    "return home\nglobal warming\nraise money\nthis is it\nyes or no\nassert dominance\nwell-known\npass\ndel mundo",
    "London (England)\nParis (capital of France)\nword [1]\nif needed: contact",
    "# Heading\n\n- first item\n- second item\n\n1. Select the best option from the list.\n2. Let me go; it is late",
    "Update your plan, set a goal, and create a table of the values. Where are you from? Order by noon!",
    "Dear friend,\nI can't come.\nIt's late;\nlong time, no see;\nDouble trouble,\nshort story (by me)",
    "If (and only if) you return, call me.\nFor instance, a class of students => good marks",
    "<name> has <3 for <place>.\nNote: insert into the form",
]
CODE = {
    "python": """import math

def area(radius):
    # of a circle
    return math.pi * radius ** 2

for r in range(3):
    print(area(r))
""",
    "javascript": """import fs from 'fs';
// squares
const squares = [1, 2, 3].map((x) => x * x);
function add(a, b) {
  if (a === undefined) {
    return b;
  }
  return a + b;
}
console.log(add(1, 2));
""",
    "c": """#include <stdio.h>

int main(void) {
    int total = 0;
    for (int i = 0; i < 10; i++) {
        total += i;
    }
    printf("%d\\n", total);
    return 0;
}
""",
    "html": """<!DOCTYPE html>
<html>
<head><title>Market</title></head>
<body class="wide">
  <h1>Fruit</h1>
  <p>Fresh every day.</p>
  <img src="pear.png" alt="A pear">
</body>
</html>
""",
    "sql": """CREATE TABLE fruit (
    id INTEGER PRIMARY KEY,
    name VARCHAR(50) NOT NULL
);
INSERT INTO fruit (id, name) VALUES (1, 'pear');
SELECT name, COUNT(*) AS total
FROM fruit
WHERE id > 0
GROUP BY name
ORDER BY total;
""",
}
COUPLETS = "The sun goes down behind the hill,\nThe evening air is cold and still,\n"
ALTERNATE = """We walk along the quiet sea,
And count the stars at night;
The wind is singing in the tree,
The moon is round and white."""
SPANISH_POEM = """La luna sobre la bahía,
el viento canta su canción,
la noche espera al claro día,
y duerme ya mi corazón."""
BLANK_VERSE = "A window stands open\nonto the long garden,\nwhere nobody waters\nthe oranges."


def score(spec: dict, text: str, prompt: str = "") -> float:
    return judge(spec)(prompt, text)


def code(target: str, text: str) -> float:
    return score({"metric": "code", "target": target}, text)


# The entry


def test_every_metric_is_documented_and_only_rating_is_not_read_from_text():
    assert set(JUDGES) == {*SPECS, "rating"}
    assert all(measure.low < measure.high and measure.unit and measure.about for measure in JUDGES.values())
    with pytest.raises(ParameterError, match="digits' logits"):
        judge({"metric": "rating"})


@pytest.mark.parametrize(
    "spec",
    [
        {},
        None,
        "language",
        {"metric": "beauty"},
        {"metric": ["language"]},
        {"metric": "language"},
        {"metric": "language", "target": "Spanish"},
        {"metric": "language", "target": ["es"]},
        {"metric": "language", "target": "es", "sign": 1},
        {"metric": "sentiment"},
        {"metric": "sentiment", "sign": 0},
        {"metric": "sentiment", "sign": True},
        {"metric": "sentiment", "sign": "1"},
        {"metric": "lexicon"},
        {"metric": "lexicon", "words": []},
        {"metric": "lexicon", "words": "thou"},
        {"metric": "lexicon", "words": ["thou", 3]},
        {"metric": "lexicon", "words": ["*"]},
        {"metric": "lexicon", "words": ["a*b"]},
        {"metric": "lexicon", "words": ["!"]},
        {"metric": "contrast", "words": ["river"]},
        {"metric": "contrast", "words": ["river"], "against": ["River"]},
        {"metric": "code", "target": "cobol"},
        {"metric": "poem", "target": "en"},
        {"metric": "grounded", "sign": 2},
    ],
)
def test_a_wrong_entry_is_refused_in_one_sentence(spec):
    with pytest.raises(ParameterError) as caught:
        judge(spec)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 300


@pytest.mark.parametrize("metric", SPECS)
@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "...", "?!", "7", "x", "Hola", "🙂", "```", "```python\n```", "\x00", "\ud800"]
)
def test_texts_too_short_to_judge_give_a_number_in_range(metric, text):
    value = score(SPECS[metric], text)
    assert isinstance(value, float)
    assert JUDGES[metric].low <= value <= JUDGES[metric].high
    if not any(character.isalnum() for character in text):
        assert value == 0


def test_judging_imports_no_torch_and_the_packages_only_on_use():
    program = (
        "import sys, lm_core.judges as j; j.judge({'metric': 'language', 'target': 'es'});"
        "print(*sorted({'torch', 'py3langid', 'vaderSentiment', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


# Language


@pytest.mark.parametrize("target", IN_LANGUAGE)
def test_a_text_belongs_to_its_own_language_only(target):
    for language, text in IN_LANGUAGE.items():
        assert score({"metric": "language", "target": target}, text) == (language == target), language


def test_language_is_a_share_of_words():
    mixed = "El perro corre por la playa. The cat sleeps at home today."
    assert score(SPECS["language"], mixed) == 0.5
    run_on = "el perro corre por la playa y el gato duerme en casa while the children play games in the garden all day"
    assert 0.3 < score(SPECS["language"], run_on) < 0.7


def test_sentences_below_three_words_count_only_where_there_is_nothing_else():
    assert score(SPECS["language"], "Hello! El perro corre por la playa.") == 1
    assert score(SPECS["language"], "Muchas gracias") == 1
    assert score(SPECS["language"], "12 34 56 78") == 0


def test_the_language_codes_are_ones_py3langid_knows():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    assert set(LANGUAGES) <= set(LanguageIdentifier.from_model_file(MODEL_FILE).labels)


# Sentiment


def test_sentiment_follows_its_sign():
    happy, angry = "I love this wonderful day. It makes me so happy!", "I hate this. It is a horrible, disgusting lie!"
    for sign in (1, -1):
        spec = {"metric": "sentiment", "sign": sign}
        assert sign * score(spec, happy) > 0.4
        assert sign * score(spec, angry) < -0.4
        assert score(spec, "The table has four legs.") == 0


def test_sentiment_does_not_grow_with_length():
    sentence = "I like this town. "
    assert score(SPECS["sentiment"], sentence * 30) == pytest.approx(score(SPECS["sentiment"], sentence))


# Lists


def test_lexicon_counts_whole_words_per_hundred():
    assert score(SPECS["lexicon"], "Thou art kind, and HATH my thanks; the thousandth.") == pytest.approx(200 / 9)
    assert score(SPECS["lexicon"], ENGLISH) == 0


def test_lexicon_knows_prefixes_phrases_and_either_apostrophe():
    spec = {"metric": "lexicon", "words": ["quantum*", "by the way", "’tis", "don't", "niño"]}
    assert score(spec, "Quantums quantum aquantum") == pytest.approx(200 / 3)
    assert score(spec, "By the\nway") == pytest.approx(100 / 3)
    assert score(spec, "'Tis late, don’t wait, Niño") == pytest.approx(300 / 6, rel=0.2)


def test_contrast_is_a_balance():
    assert score(SPECS["contrast"], "The riverbank is a shore.") == 1
    assert score(SPECS["contrast"], "Loans are money.") == -1
    assert score(SPECS["contrast"], "A river of money.") == 0
    assert score(SPECS["contrast"], ENGLISH) == 0


def test_grounded_is_the_share_of_content_words_from_the_prompt():
    passage = "Passage: The lighthouse at Varne was built in 1859 from local granite. When was it built?"
    assert score(SPECS["grounded"], "It was built in 1859, of granite.", passage) == 1
    assert score(SPECS["grounded"], "Napoleon commissioned marble towers in 1702.", passage) == 0
    spec = {"metric": "grounded", "sign": -1}
    assert score(spec, "The lighthouses impressed Napoleon.", passage) == pytest.approx(-1 / 3)


# Code


@pytest.mark.parametrize("target", FENCE_NAMES)
def test_code_is_recognised_in_its_own_language(target):
    assert code(target, CODE[target]) == 1
    fenced = f"Here is how it is done, step by step:\n\n```{target}\n{CODE[target]}```\n\nThat is all there is to it."
    assert code(target, fenced) == 1
    bare = fenced.replace(f"```{target}", "```")
    assert 0.5 < code(target, bare) < 1


@pytest.mark.parametrize("target", FENCE_NAMES)
@pytest.mark.parametrize("other", FENCE_NAMES)
def test_code_of_another_language_scores_little(target, other):
    if target != other:
        assert code(target, CODE[other]) <= 0.25


@pytest.mark.parametrize("target", FENCE_NAMES)
@pytest.mark.parametrize("text", [*PROSE, *IN_LANGUAGE.values(), ALTERNATE, SPANISH_POEM])
def test_prose_is_no_code(target, text):
    assert code(target, text) == 0


def test_cut_off_python_counts_up_to_the_cut():
    assert code("python", "def f(x):") == 1
    assert code("python", "def f(x):\n    if x > 1:") == 1
    assert code("python", "x = [1, 2]\nfor y in x:\n    print(y)\nprint('unfinis") == 0.75
    assert code("python", "    total = 0\n    for n in range(3):\n        total += n\n    print(total)") == 1
    assert code("python", ">>> x = sum([1, 2])\n>>> print(x)") == 1


def test_python_amid_prose_counts_its_lines():
    assert code("python", "You can add numbers:\nprint(1 + 2)\nThis prints three.\nx = 3") == 0.5
    assert code("python", "¡Año nuevo!\nprint('ñ', len('año'))") == 0.5


@pytest.mark.parametrize(
    "text", ["(" * 5000, "-" * 20000 + "1", "a." * 5000 + "b", "[" * 90 + "]" * 90, "'" * 999, "\\" * 99]
)
def test_hostile_lines_are_no_error(text):
    for target in FENCE_NAMES:
        assert code(target, text) == 0


def test_javascript_lines_do_not_pass_for_python():
    assert code("python", "console.log(1);\nx = 5;") == 0


# Poems


def test_rhyme_and_lines_make_a_poem():
    poem = score(SPECS["poem"], COUPLETS + ALTERNATE)
    assert poem == 1
    assert score(SPECS["poem"], BLANK_VERSE) == 0.5
    assert score(SPECS["poem"], SPANISH_POEM) == 1


@pytest.mark.parametrize(
    "text", [*PROSE[:2], COUPLETS, "- buy milk\n- buy bread\n- go home\n- take a rest", *CODE.values()]
)
def test_prose_lists_and_code_are_no_poem(text):
    assert score(SPECS["poem"], text) < 0.2


def test_a_repeated_line_is_no_rhyme():
    assert score(SPECS["poem"], "The sun is bright\n" * 20) == 0


def test_prose_around_a_poem_lowers_it():
    introduction = (
        "Here is a little poem that I wrote for you this evening, and I hope that you are going to like it:\n"
    )
    assert 0.4 < score(SPECS["poem"], introduction + ALTERNATE) < 0.7


# Fluency

LOOP = [1, 2] * 24 + [1, 3]
VARIED = list(range(60))


def test_distinct2_counts_bigrams():
    assert distinct2([]) == distinct2([1]) == distinct2(VARIED) == 1
    assert distinct2([1, 2, 1, 2]) == pytest.approx(2 / 3)
    assert distinct2(list("abcdab")) == pytest.approx(4 / 5)


def test_longest_repeat_agrees_with_trying_every_pair():
    def by_trial(tokens):
        best = 0
        for a in range(len(tokens)):
            for b in range(a + 1, len(tokens)):
                n = 0
                while b + n < len(tokens) and tokens[a + n] == tokens[b + n]:
                    n += 1
                best = max(best, n)
        return best

    cases = [[], [1], [1, 1], [1, 2, 3, 1, 2], [1] * 9, LOOP, VARIED, [n * n % 17 for n in range(50)]]
    assert [longest_repeat(case) for case in cases] == [by_trial(case) for case in cases]
    assert longest_repeat([1] * 9) == 8


def test_a_likely_loop_has_collapsed():
    assert distinct2(LOOP) < 0.07
    assert collapsed(LOOP, nll=0.96)
    assert collapsed(LOOP)


def test_likelihood_alone_can_condemn_but_not_acquit():
    assert not collapsed(VARIED)
    assert not collapsed(VARIED, nll=3.0)
    assert collapsed(VARIED, nll=5.5)
    assert collapsed(VARIED, nll=5.1)
    assert not collapsed(VARIED, nll=4.9)
    assert collapsed(VARIED, nll=math.nan) and collapsed(VARIED, nll=math.inf)


def test_a_long_passage_said_twice_has_collapsed_a_refrain_has_not():
    assert collapsed(VARIED[:30] * 2)
    assert not collapsed(VARIED + VARIED[:8])


def test_short_texts_have_not_collapsed():
    assert not any(collapsed(tokens) for tokens in ([], [1], [1] * 15))
    assert collapsed([1] * 16)


def test_judging_a_hundred_words_takes_milliseconds():
    words = " ".join([ENGLISH] * 6)
    limits = {"lexicon": 2, "contrast": 2, "code": 2, "poem": 2, "grounded": 2, "sentiment": 20, "language": 60}
    for metric, limit in limits.items():
        measure = judge(SPECS[metric])
        measure("", words)
        started = time.perf_counter()
        for _ in range(5):
            measure(words, words)
        assert (time.perf_counter() - started) / 5 < 5e-3 * limit, metric  # ms, five times over for a busy machine
