"""Measure how much of a concept a text shows, and whether the text has collapsed, without a judge model.

`judge` turns a concept's judge entry into a function of prompt and text; `JUDGES` gives each metric's unit and range.
These are counts and grammars: they know no meaning, irony or quality. Nothing here imports torch, and the language and
sentiment packages load on first use. Texts that are empty or too short to judge score 0 (neutral).
"""

import ast
import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from lm_core.errors import ParameterError

Judge = Callable[[str, str], float]


class Measure(NamedTuple):
    """What a metric's numbers mean."""

    unit: str
    low: float
    high: float
    about: str


JUDGES = {
    "language": Measure("share of words", 0, 1, "Words in clauses that py3langid assigns to the target language."),
    "sentiment": Measure("compound", -1, 1, "VADER compound, word-weighted mean over the sentences, times the sign."),
    "lexicon": Measure("per 100 words", 0, 100, "Words and phrases of the concept's list per 100 words."),
    "contrast": Measure("balance", -1, 1, "Hits of one list less hits of the other, over all hits; 0 without any."),
    "code": Measure("share of lines", 0, 1, "Non-empty lines that parse as, or look like, the target language."),
    "poem": Measure("score", 0, 1, "Share of words in short lines, halved where no line end rhymes."),
    "grounded": Measure("share of content words", -1, 1, "Content words that occur in the prompt, times the sign."),
    "rating": Measure("stars", 1, 5, "Expected rating over the digits 1 to 5, read from the model's logits."),
}
_CODES = (  # a short list: languages with few readers would take short clauses of their large neighbours
    "af ar bg bn ca cs cy da de el en es et eu fa fi fr ga he hi hr hu hy id is it ja ka ko la lt lv mk ms nl no pl pt "
    "ro ru sk sl sq sr sv sw ta te th tl tr uk ur vi zh"
)
LANGUAGES = tuple(_CODES.split())
FENCE_NAMES = {
    "python": ("python", "python3", "py"),
    "javascript": ("javascript", "js", "jsx", "node"),
    "c": ("c", "h"),
    "html": ("html", "html5", "xhtml"),
    "sql": ("sql", "mysql", "postgresql", "sqlite"),
}
FIELDS = {
    "language": ("target",),
    "sentiment": ("sign",),
    "lexicon": ("words",),
    "contrast": ("words", "against"),
    "code": ("target",),
    "poem": (),
    "grounded": ("sign",),
}

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+(?:['’][^\W\d_]+)*")  # a Han or kana character is a word
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n+")


def judge(spec: Mapping[str, Any]) -> Judge:
    """Return the function (prompt, text) → value that a concept's judge entry asks for; higher is more of the concept.

    Args:
        spec: {"metric": name} and that metric's own fields: target (an ISO 639-1 code, or a programming language),
            sign (1 or -1), words and against (lists; a trailing * matches a prefix).

    Raises:
        ParameterError: an unknown metric, target or field, a missing field, an empty or overlapping list, or "rating",
            which is not read from text.
    """
    metric = spec.get("metric") if isinstance(spec, Mapping) else None
    if metric == "rating":
        raise ParameterError("The metric rating is not read from text; the core reads it from the digits' logits.")
    if not isinstance(metric, str) or metric not in FIELDS:
        raise ParameterError(f"The judge's metric is {metric!r}; choose one of {', '.join(JUDGES)}.")
    wrong = set(FIELDS[metric]) ^ (set(spec) - {"metric"})
    if wrong:
        state = "lacks" if wrong & set(FIELDS[metric]) else "does not know"
        needs = ", ".join(FIELDS[metric]) or "no field"
        raise ParameterError(f"The judge {metric} {state} {', '.join(sorted(map(str, wrong)))}; it takes {needs}.")
    return BUILDERS[metric](spec)


def _choice(spec: Mapping[str, Any], field: str, allowed: Sequence[Any]) -> Any:
    value = spec[field]
    if isinstance(value, bool) or value not in allowed:
        choices = ", ".join(map(str, allowed))
        raise ParameterError(f"The judge {spec['metric']} has {field} {value!r}; choose one of {choices}.")
    return value


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower().replace("’", "'"))


# Language and sentiment

CLAUSE_WORDS = (3, 12)  # fewer say too little about a language; more hide a change of language within a sentence
LANGUAGE_CONFIDENCE = 0.1  # five times the share of an even guess over LANGUAGES: digits and noise stay below


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=LANGUAGE_CONFIDENCE)
    found.set_languages(LANGUAGES)
    return found


@lru_cache(maxsize=1)
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def _sentences(text: str) -> list[tuple[int, str]]:
    """Return (words, text) of every sentence or line that has a word."""
    counted = ((len(WORD.findall(sentence)), sentence) for sentence in SENTENCE_END.split(text))
    return [(words, sentence) for words, sentence in counted if words]


def _clauses(text: str) -> list[tuple[int, str]]:
    """Return (words, text) of the sentences of at least 3 words, cut evenly to at most 12; else the whole text."""
    least, most = CLAUSE_WORDS
    pieces = []
    for sentence in SENTENCE_END.split(text):
        words = list(WORD.finditer(sentence))
        if len(words) < least:
            continue
        parts = math.ceil(len(words) / most)
        bounds = [len(words) * part // parts for part in range(parts + 1)]
        for first, last in pairwise(bounds):
            pieces.append((last - first, sentence[words[first].start() : words[last - 1].end()]))
    whole = len(WORD.findall(text))
    return pieces or ([(whole, text)] if whole else [])


def _weighted_mean(pieces: list[tuple[int, str]], value: Callable[[str], float]) -> float:
    total = sum(words for words, _ in pieces)
    return sum(words * value(piece) for words, piece in pieces) / total if total else 0.0


def _language(spec: Mapping[str, Any]) -> Judge:
    target = _choice(spec, "target", LANGUAGES)
    return lambda _, text: _weighted_mean(
        _clauses(text), lambda clause: float(_identifier().classify(clause)[0] == target)
    )


def _sentiment(spec: Mapping[str, Any]) -> Judge:
    """Judge sentences one by one: VADER sums over words, so a whole reply saturates near ±1 (Hutto & Gilbert, 2014)."""
    sign = _choice(spec, "sign", (1, -1))
    return lambda _, text: (
        sign * _weighted_mean(_sentences(text), lambda sentence: _vader().polarity_scores(sentence)["compound"])
    )


# Lists of words


def _pattern(spec: Mapping[str, Any], field: str) -> re.Pattern[str]:
    """Compile a list of words and phrases; the longest wins where several match."""
    words = spec[field]
    if isinstance(words, str) or not isinstance(words, Sequence) or not words:
        raise ParameterError(f"The judge {spec['metric']} has {field} {words!r}; give a list of at least one word.")
    for word in words:
        if not isinstance(word, str) or not WORD.search(word) or "*" in word.rstrip()[:-1]:
            raise ParameterError(
                f"The judge {spec['metric']} has {word!r} in {field}; give words with letters, a * only at the end."
            )
    plain = {" ".join(word.lower().replace("’", "'").split()) for word in words}
    parts = [re.escape(word.rstrip("*")) + (r"\w*" if word.endswith("*") else "") for word in plain]
    return re.compile(rf"(?<!\w)(?:{'|'.join(sorted(parts, key=lambda part: (-len(part), part)))})(?!\w)")


def _hits(pattern: re.Pattern[str], text: str) -> int:
    return len(pattern.findall(" ".join(text.lower().replace("’", "'").split())))


def _lexicon(spec: Mapping[str, Any]) -> Judge:
    pattern = _pattern(spec, "words")

    def value(_: str, text: str) -> float:
        words = len(_words(text))
        return min(100.0, 100 * _hits(pattern, text) / words) if words else 0.0

    return value


def _contrast(spec: Mapping[str, Any]) -> Judge:
    pattern, against = _pattern(spec, "words"), _pattern(spec, "against")
    both = {word.lower() for word in spec["words"]} & {word.lower() for word in spec["against"]}
    if both:
        raise ParameterError(f"The judge contrast has {', '.join(sorted(both))} in both lists; leave it in one.")

    def value(_: str, text: str) -> float:
        for_, against_ = _hits(pattern, text), _hits(against, text)
        return (for_ - against_) / (for_ + against_) if for_ + against_ else 0.0

    return value


_STOP_WORDS = (
    "a about after all also an and any are as at be because been before being both but by can could did do does for "
    "from had has have he her here him his how i if in into is it its just me more most my no not of on only or other "
    "our out over she should so some such than that the their them then there these they this those to too up us very "
    "was we were what when where which while who why will with would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


def _content_words(text: str) -> list[str]:
    """Return the words that carry content, without English inflections; numbers count."""
    found = re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+", text.lower().replace("’s", "").replace("'s", ""))
    kept = (word for word in found if word not in STOP_WORDS and (len(word) > 2 or word.isdigit()))
    return [re.sub(r"(?<=\w{3})(?:ing|ed|es|s|e)$", "", word) for word in kept]


def _grounded(spec: Mapping[str, Any]) -> Judge:
    sign = _choice(spec, "sign", (1, -1))

    def value(prompt: str, text: str) -> float:
        known, words = set(_content_words(prompt)), _content_words(text)
        return sign * sum(word in known for word in words) / len(words) if words else 0.0

    return value


# Code

SIMPLE = (ast.Name, ast.Constant, ast.Tuple, ast.Attribute, ast.Starred, ast.Load)
BLOCKS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.AsyncFor, ast.Try, ast.Match)
GUARDS = (ast.If, ast.While, ast.With, ast.AsyncWith)
CONTINUES = re.compile(r"[(\[{]|\"\"\"|'''|\\$|:\s*(?:#.*)?$|^@")  # a line that may need the next one to parse
CHANGES = (ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom)

_C_LIKE = (  # says code, but not of which language
    r"[\[\](){};,]+$|//|/\*|\*/|\*\s|(?:\}\s*)?(?:else\s+)?(?:if|for|while|switch|catch)\s*\(.*[{;)]$"
    r"|(?:\}\s*)?(?:else|try|finally|do)\s*\{?$|(?:return|throw)\b.*;$|(?:break|continue);$|case\s.*:$|default:$"
    r"|[\w$.\[\]]+\s?(?:[-+*/%]?=|\+\+|--).*[;{,(\[]$|[\w$.]+(?:\+\+|--);?$|[\w$.]+\(.*[;{,()]$|\.\w+\("
)
_TAGS = (
    "a abbr address article aside audio b blockquote body br button canvas caption circle code dd del details div "
    "dl dt em fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins "
    "label legend li link main meta nav ol option p path pre progress rect script section select small span strong "
    "style sub sup svg table tbody td text textarea tfoot th thead time title tr u ul video"
).replace(" ", "|")
_CLAUSES = (
    "FROM|WHERE|AND|OR|ON|JOIN|INNER|LEFT|CROSS|GROUP BY|ORDER BY|HAVING|LIMIT|VALUES|SET|UNION|CASE|WHEN|ELSE|END"
)
_COLUMN = r"[\w.`\"]+(?:\([^()]*\))?(?:\s+(?:AS|as)\s+\w+)?"
GRAMMARS = {  # lines that only this language has, and lines that count once one of those is there
    "javascript": (
        r"(?:export\s+)?(?:const|let|var)\s+(?:[\w$]+|\{[^}]*\}|\[[^\]]*\])\s*(?:=(?!=)|;)"
        r"|(?:export\s+(?:default\s+)?)?(?:async\s+)?function\b\s*\*?\s*[\w$]*\s*\("
        r"|(?:export\s+(?:default\s+)?)?class\s+\w+(?:\s+extends\s+[\w.]+)?\s*\{"
        r"|import\s.*\bfrom\s+['\"]|import\s+['\"]|export\s+(?:default\s+\w|\{)|module\.exports\s*="
        r"|(?:console|document|window|JSON|process)\.\w+\s*(?:[(.=\[])"
        r"|.*(?:\([\w\s,={}$]*\)|\b[\w$]+)\s*=>\s*(?:\{|.*[;,)(]$)|.*[\w)\]'\"]\s*[!=]==\s*\S",
        _C_LIKE
        + r"|[\[{].*[\]}][,;]?$|['\"]?[\w$]+['\"]?:\s*\S.*[,{(\[]$|(?:async|static|get|set)\s+[\w$]+\([^)]*\)\s*\{$",
    ),
    "c": (
        r"#include\s*[<\"]|#(?:define|undef|ifdef|ifndef|pragma)\s+\w|#endif\b|typedef\s+\w+.*[;{]$"
        r"|(?:(?:static|const|unsigned|signed|extern|inline)\s+)*"
        r"(?:void|int|char|float|double|long|short|size_t|bool|u?int\d+_t|FILE|struct\s+\w+)"
        r"[\s*]+\w+(?:\(|\s*(?:\[|=|;|,\s*\**\w+\s*[=,;\[])).*(?<=[;{()}])$|(?:struct|enum|union)\s+\w*\s*\{"
        r"|(?:printf|fprintf|scanf|puts|putchar|free|memcpy|strcpy|fgets)\(",
        _C_LIKE + r"|#if\b|#else\b|[\w*]+->\w+.*;$|\*\w+\s*=.*;$|\w+\s+\**\w+;$",
    ),
    "html": (
        rf"<!DOCTYPE\b|<!doctype\b|<!--|</?(?:{_TAGS})(?:\s[^<>]*)?/?>|.*</(?:{_TAGS})>$|<(?:{_TAGS})\s+[\w-]+=",
        r"[\w.#*:\s,-]+\{$|\}$|[\w-]+:\s*[^;]+;$|[\w-]+=\"[^\"]*\"\s*/?>?$|-->$|/?>$",
    ),
    "sql": (
        rf"(?:SELECT|select)\s+(?:(?:DISTINCT|distinct)\s+)?(?:\*|{_COLUMN}(?:\s*,\s*{_COLUMN})*)\s*"
        r"(?:,|;|$|FROM\b|from\s+\w+\s*(?:;|$|\w+\b.*[=<>;]))"
        r"|SELECT\s.*\b(?:AS|FROM|END)\s+\w|WITH\s+(?:RECURSIVE\s+)?\w+\s*(?:\([\w\s,]*\)\s*)?AS\s*\("
        r"|(?:INSERT\s+INTO|insert\s+into)\s+\w+\s*(?:\(|VALUES|values|SELECT|$)"
        r"|(?:UPDATE\s+\w+(?:\s+SET\b|$)|update\s+\w+\s+set\s+\w+\s*=)|DELETE\s+FROM\s+\w|delete\s+from\s+\w+.*;$"
        r"|(?:CREATE|DROP|ALTER|TRUNCATE)\s+(?:OR\s+REPLACE\s+)?(?:TABLE|VIEW|INDEX|DATABASE|UNIQUE\s+INDEX)\b"
        r"|(?:create|drop|alter)\s+(?:table|view|index|database)\s+[\w.]+\s*(?:\(.*|;|$)"
        r"|(?:FROM\s+\w+|(?:INNER |LEFT |RIGHT |FULL )?JOIN\s+\w+|WHERE\s+.*[=<>]|GROUP\s+BY\s+\w|ORDER\s+BY\s+\w)",
        rf"[();,]+$|--|(?:{_CLAUSES}|{_CLAUSES.lower()})\b|.*\b(?:AS|as)\s+\w+[,;]?$"
        r"|\(.*\)[,;]?$|[\w.]+\s+(?i:int|integer|varchar|text|char|date|datetime|timestamp|decimal|float|boolean|serial)"
        rf"\b.*|(?i:primary|foreign)\s+(?i:key)\b|{_COLUMN}(?:\s*,\s*{_COLUMN})*[,;]?$",
    ),
}
_COMPILED = {name: tuple(map(re.compile, patterns)) for name, patterns in GRAMMARS.items()}


def _code_lines(text: str, target: str) -> list[str]:
    """Return the lines to judge: those in fences of the target language if there are any, else all but the fences."""
    inside, kept, fenced = None, [], []
    for line in text.splitlines():
        fence = re.match(r"\s*(?:```|~~~)\s*([\w+#-]*)", line)
        if fence:
            inside = fence[1].lower() if inside is None else None
        elif line.strip():
            (fenced if inside in FENCE_NAMES[target] else kept).append(line.expandtabs(4))
    return fenced or kept


def _code(spec: Mapping[str, Any]) -> Judge:
    target = _choice(spec, "target", tuple(FENCE_NAMES))

    def value(_: str, text: str) -> float:
        lines = _code_lines(text, target)
        count = _python_lines(lines) if target == "python" else _grammar_lines(lines, *_COMPILED[target])
        return count / len(lines) if lines else 0.0

    return value


def _grammar_lines(lines: list[str], certain: re.Pattern[str], possible: re.Pattern[str]) -> int:
    stripped = [line.strip() for line in lines]
    sure = [bool(certain.match(line)) for line in stripped]
    if not any(sure):
        return 0
    return sum(known or bool(possible.match(line)) for known, line in zip(sure, stripped, strict=True))


def _python_lines(lines: list[str]) -> int:
    """Count the lines of the longest runs that parse as Python, without statements that could be prose.

    A block's header whose body was cut off counts too. Comments count where their run has a statement that counts.
    """
    lines = [re.sub(r"^\s*>>> ", "", line) for line in lines]
    count = start = 0
    while start < len(lines):
        indent = len(lines[start]) - len(lines[start].lstrip())
        run = [line[indent:] if not line[:indent].strip() else line for line in lines[start:]]
        tree, length = _longest_parse(run)
        run = run[:length]
        counted = {
            number
            for statement in tree.body
            if _is_code(statement, run)
            for number in range(_first_line(statement), min(statement.end_lineno or 0, length) + 1)
        }
        comments = sum(line.lstrip().startswith("#") for n, line in enumerate(run, 1) if n not in counted)
        count += len(counted) + (comments if counted else 0)
        start += max(1, length)
    return count


def _first_line(statement: ast.stmt) -> int:
    return min([statement.lineno, *(node.lineno for node in getattr(statement, "decorator_list", []))])


def _longest_parse(run: list[str]) -> tuple[ast.Module, int]:
    """Return the syntax tree of a long parsable start of `run` and its number of lines, 0 if there is none."""
    end = len(run) if CONTINUES.search(run[0]) or _parses(run[0]) else 0  # spares prose a parse of all that follows
    while end > 0:
        last = run[end - 1]
        body = [" " * (len(last) - len(last.lstrip()) + 4) + "pass"] if last.rstrip().endswith(":") else []
        try:
            return ast.parse("\n".join(run[:end] + body)), end
        except SyntaxError as error:
            end = min(end - 1, (error.lineno or 1) - 1 or end - 1)
        except (ValueError, MemoryError, RecursionError):
            end -= 1
    return ast.Module(body=[], type_ignores=[]), 0


def _parses(line: str) -> bool:
    try:
        ast.parse(line)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _is_code(statement: ast.stmt, run: list[str]) -> bool:
    """Tell whether a statement is Python beyond doubt: `this is it`, `Note: this`, `global warming` also parse."""
    if run[min(statement.end_lineno or 1, len(run)) - 1].rstrip().endswith(";"):
        return False
    if isinstance(statement, BLOCKS + CHANGES):
        return True
    if isinstance(statement, ast.AnnAssign):
        return statement.value is not None
    if isinstance(statement, GUARDS):
        own_line = statement.lineno < statement.body[0].lineno <= len(run)
        return own_line or any(isinstance(node, CHANGES) or _is_call(node, run) for node in ast.walk(statement))
    if isinstance(statement, ast.Return | ast.Assert):
        value = statement.value if isinstance(statement, ast.Return) else statement.test
        return value is not None and not isinstance(value, SIMPLE)
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp)
    return any(isinstance(node, comprehensions) or _is_call(node, run) for node in ast.walk(statement))


def _is_call(node: ast.AST, run: list[str]) -> bool:
    """Tell a call from a word with a remark in brackets, `London (England)`, by the space."""
    if not isinstance(node, ast.Call) or not node.func.end_lineno:
        return False
    line = run[node.func.end_lineno - 1].encode()  # syntax trees count columns in bytes
    return line[node.func.end_col_offset or 0 :].startswith(b"(")


# Poems

VERSE_WORDS = (2, 12)
VERSE_LINES = 3
LIST_MARK = re.compile(r"\s*(?:[-*+•#>|]|\d+[.)])\s?")
UNSTRESSED = ("ing", "ed", "es", "er", "ers", "en")  # a rhyme needs the syllable before these
SOUNDS = (  # spellings of one sound at a line's end, mostly English, in this order
    (r"(?:ei|ai)ght$", "ate"),
    (r"ight$", "ite"),
    (r"igh$|eye$|uy$|^ye$|^ie$|^i$", "y"),
    (r"^(?:ee|ea|e)$", "E"),
    (r"^(?:ay|ey|eigh|ei)$", "A"),
    (r"^(?:o|oe|ow)$", "O"),
    (r"^(?:ew|ue|oo|ou|u)$", "U"),
    (r"^y(?=[^aeiouy]e$)", "i"),
    (r"^[iu](?=[ao][^aeiouy])", ""),  # canción, corazón
    (r"^(?:ai|ay|ei)([^aeiouy]{1,2})e?$", r"a\1e"),
    (r"^(?:ea|ee|ie)([^aeiouy]{1,2})e?$", r"e\1e"),
    (r"^(?:oa|oo)(r|rs)$", r"o\1e"),
    (r"^oa([^aeiouy]{1,2})$", r"o\1e"),
    (r"^(?:oo|ui)([^aeiouy]{1,2})e?$", r"u\1e"),
)


@lru_cache(maxsize=4096)
def _rime(word: str) -> tuple[str, str]:
    """Return a word's end from its last full vowel on, as spelled and roughly as it sounds."""
    letters = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if c.isalpha())
    starts = [vowel.start() for vowel in re.finditer(r"[aeiouy]+", letters)] or [0]
    spelled = letters[starts[-1] :]
    if len(starts) > 1 and (len(spelled) == 1 or spelled in UNSTRESSED):
        spelled = letters[starts[-2] :]
    sound = spelled
    for pattern, replacement in SOUNDS:
        sound = re.sub(pattern, replacement, sound)
    return spelled, sound


def _rhymes(word: str, other: str) -> bool:
    """Tell whether two different words end alike; a word does not rhyme with itself."""
    return word != other and any(a == b for a, b in zip(_rime(word), _rime(other), strict=True))


def _verses(text: str) -> list[list[str]]:
    """Return the words of every line that could be a verse: short, no list, no code, not said before."""
    found: dict[tuple[str, ...], list[str]] = {}
    for line in text.splitlines():
        words = _words(line)
        plain = not LIST_MARK.match(line) and not re.search(r"[{}<>=_\\|`]|\w\(|\d{3}|\b[A-Z]{4}", line)
        if plain and VERSE_WORDS[0] <= len(words) <= VERSE_WORDS[1]:
            found.setdefault(tuple(words), words)
    return list(found.values())


def _poem(_: Mapping[str, Any]) -> Judge:
    """Return lineation × (1 + rhyme) / 2.

    Lineation is the share of the text's words that stand in verses (`_verses`); 0 below three verses. Rhyme is the
    share of the verses whose last word rhymes with that of a verse one or two lines away (couplets, alternate rhyme).
    Blank verse scores up to .5, prose 0.
    """

    def value(_: str, text: str) -> float:
        verses = _verses(text)
        if len(verses) < VERSE_LINES:
            return 0.0
        ends = [words[-1] for words in verses]
        rhyming: set[int] = set()
        for near in (1, 2):
            for first in range(len(ends) - near):
                if _rhymes(ends[first], ends[first + near]):
                    rhyming |= {first, first + near}
        lineation = sum(map(len, verses)) / len(_words(text))
        return lineation * (1 + len(rhyming) / len(ends)) / 2

    return value


BUILDERS: dict[str, Callable[[Mapping[str, Any]], Judge]] = {
    "language": _language,
    "sentiment": _sentiment,
    "lexicon": _lexicon,
    "contrast": _contrast,
    "code": _code,
    "poem": _poem,
    "grounded": _grounded,
}

# Fluency

MIN_TOKENS = 16  # below this a refrain or a repeated name decides the share of distinct bigrams
MIN_DISTINCT2 = (
    0.5  # half the bigrams said before; shipped prose stays above .8, code above .65 (HTML tables .35), loops .04
)
MIN_REPEAT = 8  # shorter repeats are names, idioms and lists
MAX_REPEAT_SHARE = 0.25  # an n-gram longer than a quarter of the text, said twice, makes up half of it
MAX_NLL = 5.0  # nats a token: half of ln(49152) = 10.8, pure noise on SmolLM2, whose own English has about 1.3


def _ngrams(tokens: Sequence[Hashable], n: int) -> Iterator[tuple[Hashable, ...]]:
    return zip(*(tokens[start:] for start in range(n)), strict=False)


def distinct2(tokens: Sequence[Hashable]) -> float:
    """Return distinct bigrams / bigrams (Li et al., 2016), in (0, 1]; 1 where there is no bigram.

    Args:
        tokens: token ids or words of one text.
    """
    return len(set(_ngrams(tokens, 2))) / (len(tokens) - 1) if len(tokens) > 1 else 1.0


def longest_repeat(tokens: Sequence[Hashable]) -> int:
    """Return the length of the longest n-gram that starts at two different places; the two may overlap.

    So a b c a b has 2 and a a a a has 3; a loop of period p over N tokens has N − p. 0 if all tokens differ.
    Cost: O(N² log N) at worst, by bisection: where an n-gram repeats, its shorter starts do.
    """
    low, high = 0, max(0, len(tokens) - 1)
    while low < high:
        n = (low + high + 1) // 2
        if len(set(_ngrams(tokens, n))) < len(tokens) - n + 1:
            low = n
        else:
            high = n - 1
    return low


def collapsed(tokens: Sequence[Hashable], nll: float | None = None) -> bool:
    """Tell whether a text is a loop or noise: too few distinct bigrams, too long a repeat, or too unlikely.

    A loop is likely text (NLL .96 with distinct-2 .04), so the likelihood never acquits: any criterion suffices.

    Args:
        tokens: of the reply alone; below 16 only the likelihood counts.
        nll: mean negative log-likelihood under the unsteered model, nats a token; not finite counts as collapsed.
    """
    if nll is not None and not nll <= MAX_NLL:
        return True
    if len(tokens) < MIN_TOKENS:
        return False
    return distinct2(tokens) < MIN_DISTINCT2 or longest_repeat(tokens) > max(MIN_REPEAT, MAX_REPEAT_SHARE * len(tokens))
