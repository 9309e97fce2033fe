"""Texts that tokenizers and models trip over: short, long, foreign, odd."""

_STORY = (
    "The harbour was quiet when the ferry came in, and nobody on the quay looked up from their nets. "
    "A boy counted crates aloud, lost his place, and began again from one. "
)

TEXTS = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "a",
    "!",
    "Paris",
    "   leading and trailing spaces   ",
    "line one\nline two\n\n\tline three",
    "What is the refund policy for orders that were never delivered?",
    "def mean(xs: list[float]) -> float:\n    return sum(xs) / len(xs)",
    '{"id": 17, "name": "caf\u00e9", "tags": ["x", "y"], "price": 12.50}',
    "https://example.com/search?q=embeddings&page=2#results",
    "3.14159 26535 89793 + 2^10 = ???",
    "Der schnelle braune Fuchs springt \u00fcber den faulen Hund.",
    "\u00bfD\u00f3nde est\u00e1 la biblioteca m\u00e1s cercana?",
    "\u65e9\u4e0a\u597d\uff0c\u4eca\u5929\u7684\u5929\u6c14\u5f88\u597d\u3002",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043a\u0430\u043a \u0434\u0435\u043b\u0430?",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "emoji \U0001f680\U0001f9ea and a family \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301 combining, \ufb01 ligature, \u200bzero width, \ufeffmark",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "MiXeD CaSe AND SHOUTING with under_scores and-hyphens",
    _STORY,
    _STORY * 3,
    _STORY * 6,
)
