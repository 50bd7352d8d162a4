"""Takes secrets out of texts and arguments before anybody stores or shows them.

It errs towards hiding: an unnecessary ``[redacted]`` costs a glance, a stored key costs an
incident. Nothing here logs, and every expression is linear in the text: quantifiers are
possessive or bounded, and what is scanned far is also consumed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from governor.errors import DeclarationError
from governor.redaction.rendering import Renderer

REDACTED = "[redacted]"
LONGEST_TEXT = 1_000_000
"""Characters. The rest of a longer text is cut before it is searched."""

_CUT = " …[cut]"
_PASSES = 4

# Looked for anywhere in a name that is squeezed to lower-case letters and digits.
_SECRET_PARTS = re.compile(
    "passw(or)?d|passphrase|passcode|secret|token|credential|authorization|cookie|bearer"
    "|(api|access|private|signing|encryption|auth|account|master|license|shared)key"
    "|sessionid|cardnumber|creditcard|accountnumber|securitycode|connectionstring"
)
# Looked for as whole words of a name: they occur inside harmless words (shipPINg, PANel).
_SECRET_WORDS = frozenset(
    {"pwd", "pw", "pass", "passwd", "pin", "cvv", "cvc", "cvv2", "cvc2", "ssn", "otp", "totp"}
    | {"mfa", "auth", "jwt", "pan", "iban", "sig", "signature"}
)
_HARMLESS_PARTS = re.compile("tokeni[sz]|tokens?(count|limit|usage|type)|(max|total|prompt)tokens")
_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+[0-9]*|[0-9]+")
_LONGEST_NAME = 128

_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[\w+/=\s\\:,-]*?"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|(?![\w+/=\s\\:,-]))"
)
_USERINFO = re.compile(r"://[^\s\"'<>/]*@")
_HEADER = re.compile(
    r"(?i)(?<![\w-])((?:proxy-)?authorization|(?:set-)?cookie)([ \t]{0,8}:[ \t]{0,8})"
    r"(?![\s\"'])[^\r\n\"']++"
)
_BEARER = re.compile(
    r"(?i)\b(bearer\s{1,8})"
    r"(?!(?:tokens?|auth|authentication|authorization|credentials?|realm)(?![\w.~+/-]))"
    r"[\w.~+/=-]{3,}+"
)
# "the basic plan" is no credential: base64 of user:password has a capital or a digit.
_BASIC = re.compile(r"\b([Bb]asic\s{1,8})(?=[a-z]*+[A-Z0-9+/=])[A-Za-z0-9+/=_-]{6,}+")
# Most texts hold no clue of any of these, and looking for a clue costs a tenth.
_CLUED = (
    ("private key", _PEM, REDACTED),
    ("://", _USERINFO, f"://{REDACTED}@"),
    (":", _HEADER, rf"\1\2{REDACTED}"),
    ("bearer", _BEARER, rf"\1{REDACTED}"),
    ("basic", _BASIC, rf"\1{REDACTED}"),
)
_TOKENS = re.compile(
    r"[sr]k_(?:live|test)_\w{4,}+"  # Stripe keys
    r"|whsec_[\w+/=]{8,}+"  # Stripe webhook secrets
    r"|gh[pousr]_\w{16,}+|github_pat_\w{16,}+"  # GitHub
    r"|glpat-[\w-]{16,}+"  # GitLab
    r"|shp(?:at|ca|pa|ss)_\w{16,}+"  # Shopify
    r"|(?:xox[a-z]|xapp)-[\w-]{8,}+"  # Slack
    r"|(?<=hooks\.slack\.com/)\w++/[\w/-]++"  # Slack webhooks: the address is the secret
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS key ids
    r"|AIza[\w-]{30,}+|ya29\.[\w-]{16,}+"  # Google
    r"|SG\.[\w-]{16,}+\.[\w-]{16,}+"  # SendGrid
    r"|npm_[A-Za-z0-9]{30,}+|pypi-[\w-]{30,}+"  # package registries
    r"|(?<![A-Za-z0-9])sk-[\w-]{16,}+"  # OpenAI, Anthropic; not "task-…"
    r"|(?<![\w-])eyJ[\w-]{5,}+(?:\.[\w-]*+){1,4}"  # JSON Web Tokens
)
_ELEMENT = re.compile(r"<([\w:.-]++)>([^<]++)(?=</)")

# name=value, "name": value, name => value; ('name', 'value'); --name value.
_PAIR = re.compile(
    r"(?<![\w.-])([\w.-]++)(?:\\{0,3}[\"'])?\]?[ \t]{0,8}(?:=>|[=:]{1,3}|%3[dD])[ \t]{0,8}"
    r"|\([bB]?[\"']([\w.-]++)[\"'],\s{0,3}(?=[bB]?[\"'])"
    r"|(?<!\S)--?([A-Za-z][\w-]*+)[ \t]{1,8}(?!-)"
)
_MAY_HOLD_PAIRS = re.compile("[=:%(-]")


def _bracketed(opening: str, closing: str) -> str:
    """A bracket with one more level inside; not closed soon, it runs to the end of the line."""
    other = f"[^{opening}{closing}]"
    return (
        f"{opening}(?:{other}|{opening}{other}{{0,500}}+{closing}){{0,2000}}+{closing}"
        rf"|{opening}[^\r\n]*+"
    )


_BRACKETS = "|".join(_bracketed(rf"\{pair[0]}", rf"\{pair[1]}") for pair in ("[]", "{}", "()"))

# A value without quotes ends at white space, & and <>; at a comma or semicolon before another
# name; at closing punctuation before any of these.
_PLAIN = (
    r"(?:[^\s&\"'<>,;.)\]}]"
    r"|[\"'.)\]}]++(?![\s,;:<>&]|\Z)"
    r"|[,;]++(?!\s|\Z|[\w.-]++[\"']?[=:]))*+"
)
_VALUE = re.compile(
    r"(?P<open>[bBuUrR]{0,2}(?:\"{3}|'{3}))(?P<tripled>[^\"'\r\n]*+)(?P<tripled_close>[\"']{0,3})"
    r"|(?P<open1>[bBuUrR]{0,2}\")(?P<double>(?:[^\"\\\r\n]|\\.)*+)(?P<close1>\"?)"
    r"|(?P<open2>[bBuUrR]{0,2}')(?P<single>(?:[^'\\\r\n]|\\.)*+)(?P<close2>'?)"
    r"|(?P<open3>[bBuUrR]{0,2}(?P<mark>\\{1,3}[\"']))"
    r"(?P<escaped>(?:(?!(?<!\\)(?P=mark))[^\r\n])*+)(?P<close3>(?:(?P=mark))?)"
    r"|(?P<plain>(?:(?i:bearer|basic|token|digest|apikey)[ ](?=\S))?"
    rf"(?:{_BRACKETS})?{_PLAIN})"
)
_SAYS_NOTHING = frozenset({"", "none", "null", "true", "false"})

_CARD = re.compile(
    r"(?<![\d.])(?:[2-6]\d{12,18}"
    r"|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"
    r"|3\d{3}([ -])\d{6}\2\d{4,5})(?!\d)",
    re.ASCII,
)


class Redactor:
    """A filter that replaces what looks like a secret with ``[redacted]``.

    Args:
        keys: further names whose values are secret, in any spelling (``customerRef`` covers
            ``customer_ref``).

    Raises:
        DeclarationError: a key is empty.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        if isinstance(keys, str):
            raise DeclarationError("keys", f"{keys!r} is one text", "Give a list of names")
        self._keys = frozenset(_squeezed(key) for key in keys)
        if "" in self._keys:
            raise DeclarationError("keys", "a key without letters or digits", "Remove it")

    def secret_key(self, name: str) -> bool:
        """Tell whether a value of this name is secret."""
        return _secret_by_default(name[-_LONGEST_NAME:]) or _squeezed(name) in self._keys

    def text(self, text: str) -> str:
        """``text`` without what looks like a secret in it, cut to :data:`LONGEST_TEXT`.

        Redacting twice gives what redacting once gives (unless that is longer than the cut).
        """
        if len(text) > LONGEST_TEXT:
            text = text[: LONGEST_TEXT - len(_CUT)] + _CUT
        # What was replaced may complete the shape of another secret around it.
        for _ in range(_PASSES):
            redacted = self._once(text)
            if redacted == text:
                break
            text = redacted
        return text

    def arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str] = ()
    ) -> tuple[str, str]:
        """Bounded representations of a call's arguments, without their secrets.

        ``names`` are those of the positional parameters, so that a password is hidden however
        it is passed. Neither the size nor the depth of an argument, nor an argument whose own
        ``__repr__`` fails, does any harm.
        """
        renderer = Renderer(self.secret_key, self.text, REDACTED)
        return renderer.positional(args, names), renderer.whole(kwargs)

    def _once(self, text: str) -> str:
        lowered = text.lower()
        for clue, pattern, replacement in _CLUED:
            if clue in lowered:
                text = pattern.sub(replacement, text)
        text = _TOKENS.sub(REDACTED, text)
        if "</" in text:
            text = _ELEMENT.sub(self._element, text)
        if _MAY_HOLD_PAIRS.search(text):
            text = self._pairs(text)
        return _CARD.sub(_card, text)

    def _element(self, match: re.Match[str]) -> str:
        return f"<{match[1]}>{REDACTED}" if self.secret_key(match[1]) else match[0]

    def _pairs(self, text: str) -> str:
        done: list[str] = []
        kept = at = 0
        while (pair := _PAIR.search(text, at)) is not None:
            at = pair.end()
            name = pair[pair.lastindex or 0]
            value = _VALUE.match(text, at) if self.secret_key(name) else None
            if value is None:
                continue  # what follows may hold pairs of its own
            opening, body, closing = _parts(value)
            if body.lower() not in _SAYS_NOTHING:
                done += (text[kept:at], opening, REDACTED, closing)
                kept = value.end()
            at = max(at, value.end())
        return "".join((*done, text[kept:])) if done else text


def _parts(value: re.Match[str]) -> tuple[str, str, str]:
    """Opening quote, content and closing quote of a value."""
    for opening, body, closing in (
        ("open", "tripled", "tripled_close"),
        ("open1", "double", "close1"),
        ("open2", "single", "close2"),
        ("open3", "escaped", "close3"),
    ):
        if value[body] is not None:
            return value[opening], value[body], value[closing]
    return "", value["plain"], ""


def _card(match: re.Match[str]) -> str:
    """Luhn's check: one number in ten of the right length passes by chance, every card does."""
    digits = [int(digit) for digit in match[0] if digit.isdigit()]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return REDACTED if (doubled + sum(digits[-1::-2])) % 10 == 0 else match[0]


def _squeezed(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


@lru_cache(maxsize=4096)
def _secret_by_default(name: str) -> bool:
    squeezed = _squeezed(name)
    if _SECRET_PARTS.search(squeezed):
        return _HARMLESS_PARTS.search(squeezed) is None
    return any(word.lower() in _SECRET_WORDS for word in _WORDS.findall(name))
