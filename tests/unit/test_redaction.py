"""Redaction: no secret gets out, the rest stays readable, nothing an argument does harms."""

from __future__ import annotations

import base64
import json
import random
import string
import time
import uuid
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from governor.errors import DeclarationError
from governor.redaction.redactor import LONGEST_TEXT, REDACTED, Redactor
from governor.redaction.rendering import LONGEST_WHOLE

redactor = Redactor()

# Assembled from pieces, so that no scanner takes this file for a leak.
STRIPE = "sk_" + "live_" + "4eC39HqLyjWDarjtT1zdp7dc"
GITHUB = "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"
JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "dozjgNryP4J3jVmNHl0w5N"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/IBAAK\nCAQEA==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # --- values known by their form
        (f"key {STRIPE} refused", "key [redacted] refused"),  # a Stripe key
        ("rk_" + "test_" + "a1b2c3d4e5", "[redacted]"),  # a restricted Stripe key
        ("whsec_" + "a1b2c3d4e5f6", "[redacted]"),  # a Stripe webhook secret
        (f"x{GITHUB}.", "x[redacted]."),  # a GitHub token glued to a letter
        ("github_pat_" + "11ABCDEFG0abcdefghij_x", "[redacted]"),  # a fine-grained GitHub token
        ("glpat-" + "abcdefghij0123456789", "[redacted]"),  # GitLab
        ("shpat_" + "0123456789abcdef01234567", "[redacted]"),  # Shopify
        ("xoxb-" + "123456789012-abcdef", "[redacted]"),  # Slack
        (
            "https://hooks.slack.com/" + "services/T000/B000/XXXX failed",
            "https://hooks.slack.com/[redacted] failed",
        ),  # a Slack webhook: its address is the secret
        ("AKIA" + "IOSFODNN7EXAMPLE", "[redacted]"),  # an AWS key id
        ("AIza" + "SyA0123456789abcdefghijklmnopqrstuv", "[redacted]"),  # Google
        ("SG." + "a" * 22 + "." + "b" * 43, "[redacted]"),  # SendGrid
        ("npm_" + "a" * 36, "[redacted]"),  # a package registry
        ("sk-" + "proj-abcdefghij0123456789", "[redacted]"),  # OpenAI
        (f"got {JWT}, expired", "got [redacted], expired"),  # a JSON Web Token
        (f"key:\n{PEM}\nend", "key:\n[redacted]\nend"),  # a PEM key
        (repr(PEM), "'[redacted]'"),  # a PEM key as repr shows it
        (PEM[:50] + '", "x"', '[redacted]", "x"'),  # a PEM key that was cut
        # --- authorization
        ("Authorization: Bearer abc def", "Authorization: [redacted]"),  # a header line
        ("curl -H 'Authorization: Basic YTpi' u", "curl -H 'Authorization: [redacted]' u"),
        ("Cookie: a=b; sid=c\nHost: x", "Cookie: [redacted]\nHost: x"),  # ends with its line
        ("sent Bearer abcdef twice", "sent Bearer [redacted] twice"),  # the scheme alone
        ("Basic dXNlcjpwYXNz", "Basic [redacted]"),  # base64 of user:password
        ("authorization=Token abc", "authorization=[redacted]"),  # another scheme
        ("{'Authorization': 'Digest a'}", "{'Authorization': '[redacted]'}"),  # in a dict
        # --- addresses
        ("redis://:pw@h:6379/0", "redis://[redacted]@h:6379/0"),  # a password alone
        ("amqp://u:p@ss@h//", "amqp://[redacted]@h//"),  # an @ in the password
        ("https://h/p?api_key=abc&x=1", "https://h/p?api_key=[redacted]&x=1"),  # a query
        # --- names and values
        ("password=hunter2", "password=[redacted]"),  # plain
        ("DB_PASSWORD = hunter2", "DB_PASSWORD = [redacted]"),  # capitals, spaces
        ("dbPassword: hunter2", "dbPassword: [redacted]"),  # camel case
        ("{'pwd': 'a b'}", "{'pwd': '[redacted]'}"),  # a dict
        ('{"client_secret":"a\\"b","x":1}', '{"client_secret":"[redacted]","x":1}'),  # JSON
        ('{\\"token\\": \\"a b\\"}', '{\\"token\\": \\"[redacted]\\"}'),  # JSON in JSON
        ("{b'token': b'abc'}", "{b'token': b'[redacted]'}"),  # bytes
        ("token='''a b'''", "token='''[redacted]'''"),  # three quotes
        ("token: 'a b cut off", "token: '[redacted]"),  # a quote that never closes
        ("environ['API_KEY'] = 'x'", "environ['API_KEY'] = '[redacted]'"),  # a subscript
        ("token=>abc", "token=>[redacted]"),  # an arrow
        ("password%3Dhunter2", "password%3D[redacted]"),  # encoded for an address
        ("data={'a': {'token': 'x'}}", "data={'a': {'token': '[redacted]'}}"),  # nested
        ("credentials={'a': {'b': 1}, 'c': 'd'} x", "credentials=[redacted] x"),  # a dict of them
        ("tokens: ['a', 'b'], n=1", "tokens: [redacted], n=1"),  # a list of them
        ("[('x-api-key', 'abc')]", "[('x-api-key', '[redacted]')]"),  # a pair
        ("login --password hunter2 -v", "login --password [redacted] -v"),  # an option
        ("<password>a b</password>", "<password>[redacted]</password>"),  # an element
        ("(token=a.b), x", "(token=[redacted]), x"),  # closing punctuation stays
        ("token=a,user=bob", "token=[redacted],user=bob"),  # the next name stays
        ("password=a,b;c)d'e", "password=[redacted]"),  # punctuation inside a password
        ("pin=1234 cvv: 123", "pin=[redacted] cvv: [redacted]"),  # short words
        # --- card numbers
        ("card 4111111111111111.", "card [redacted]."),  # sixteen digits
        ("4111 1111 1111 1111", "[redacted]"),  # in groups
        ("5555-5555-5555-4444", "[redacted]"),  # with dashes
        ("3782 822463 10005", "[redacted]"),  # fifteen digits, as American Express prints them
        ("12 4111 1111 1111 1111", "12 [redacted]"),  # after another number
        # --- what must stay
        ("card 4111111111111112", "card 4111111111111112"),  # Luhn says no
        ("at 1700000000000000 µs", "at 1700000000000000 µs"),  # a time
        ("0.4111111111111111", "0.4111111111111111"),  # a fraction
        ("task-aaaaaaaaaaaaaaaaaaaa", "task-aaaaaaaaaaaaaaaaaaaa"),  # "sk-" inside a word
        ("the basic plan, bearer token", "the basic plan, bearer token"),  # prose
        ("max_tokens=100 tokenizer=x", "max_tokens=100 tokenizer=x"),  # counts, not secrets
        ("password=None, token=''", "password=None, token=''"),  # nothing is no secret
        ("shipping=fast panel=2 author=x", "shipping=fast panel=2 author=x"),  # words inside words
        ("idempotency_key=abc", "idempotency_key=abc"),  # a key that opens nothing
        ("https://h:80/a@b mailto:a@b.c", "https://h:80/a@b mailto:a@b.c"),  # an @ elsewhere
        ("", ""),  # nothing
    ],
)
def test_a_text_loses_its_secrets_and_nothing_else(text: str, expected: str) -> None:
    """Secrets by form, by scheme and by name are replaced; the rest stays, and twice is once."""
    assert redactor.text(text) == expected
    assert redactor.text(expected) == expected


def planted(seed: int) -> list[tuple[str, str]]:
    """Two hundred texts, each with the secret in it that must not survive."""
    rng = random.Random(seed)

    def word(alphabet: str, length: int) -> str:
        return "".join(rng.choice(alphabet) for _ in range(length))

    alnum = string.ascii_letters + string.digits
    names = ["password", "api_key", "apiKey", "X-Api-Key", "client_secret", "ACCESS_TOKEN", "pwd"]
    forms = [
        lambda n, s: f"{n}={s}",
        lambda n, s: f"{n}: {s}",
        lambda n, s: f"Error: {{'{n}': '{s}'}} refused",
        lambda n, s: json.dumps({"a": [1, {n: s}], "b": 2}),
        lambda n, s: json.dumps({"body": json.dumps({n: s})}),
        lambda n, s: json.dumps({"body": json.dumps({"body": json.dumps({n: s})})}),
        lambda n, s: f"GET https://api.example.com/v1?x=1&{n}={s}&y=2 failed",
        lambda n, s: f"Call({n}='{s}', amount=5)",
        lambda n, s: repr({"headers": [(n, s)]}),
        lambda n, s: f"<{n}>{s}</{n}>",
        lambda n, s: f"run --{n} {s} --verbose",
        lambda n, s: f"{n} = b'{s}'",
    ]
    known = [
        lambda: "sk_" + "live_" + word(alnum, 24),
        lambda: "gh" + rng.choice("pousr") + "_" + word(alnum, 36),
        lambda: "xoxb-" + word(string.digits, 12) + "-" + word(alnum, 24),
        lambda: "AKIA" + word(string.ascii_uppercase + string.digits, 16),
        lambda: "eyJ" + word(alnum, 20) + "." + word(alnum, 40) + "." + word(alnum, 30),
        lambda: "shpat_" + word("0123456789abcdef", 32),
    ]
    around = ["{}", "refused {}.", "('{}',)", "url/{}/x", '{{"a": "{}"}}', "a\n{}\nb"]
    planted = []
    for i in range(200):
        if i % 4 == 0:
            secret = rng.choice(known)()
            planted.append((rng.choice(around).format(secret), secret))
        elif i % 10 == 1:
            secret = word(alnum, 12)
            planted.append((f"Cannot connect to amqp://user:{secret}@host:5672//", secret))
        elif i % 10 == 3:
            secret = base64.b64encode(f"user:{word(alnum, 9)}".encode()).decode()
            planted.append((f"sent Authorization: Basic {secret}\r\nHost: x", secret))
        else:
            secret = word(alnum + "!$%*+-_~", rng.randint(8, 30)).strip("-") + "x"
            planted.append((rng.choice(forms)(rng.choice(names), secret), secret))
    return planted


def test_two_hundred_planted_secrets_are_all_hidden() -> None:
    """None of 200 secrets of many kinds, in many surroundings, survives whole or by half."""
    leaks = [
        (text, redactor.text(text))
        for text, secret in planted(1)
        if secret in redactor.text(text)
        or secret[: len(secret) // 2] in redactor.text(text)
        or secret[len(secret) // 2 :] in redactor.text(text)
    ]
    assert leaks == []


SHAPES = (
    "4111 1111 1111 1111|Authorization: |password|token|Bearer |Basic |://|--pin |</pin>|<pin>"
    "|x|Ab1|b'|=>|%3D|None"
)
pieces = st.sampled_from(
    [STRIPE, GITHUB, JWT, PEM, PEM[:40], REDACTED, *SHAPES.split("|"), *"=:_'\"\\@[]{}(),; \n.&-"]
)


@settings(max_examples=1_000)
@given(st.one_of(st.lists(pieces, max_size=12).map("".join), st.text(max_size=60)))
@example("://u4111 1111 1111 1111@x")
def test_redacting_twice_is_redacting_once(text: str) -> None:
    """text(text(x)) == text(x), for any mixture of secrets, punctuation and prose."""
    once = redactor.text(text)
    assert redactor.text(once) == once


TROUBLE = (
    'a|a.|=|password=|password="|password=\\"|token:[|token: [ |token:[[x]\n|://|bearer |eyJaaaaaa.'
    "|eyJ-|4|4111 |-----BEGIN PRIVATE KEY-----|-|<a>|password=,|password=a.),|\\| | --a|('a',|ghp_"
    "|\"'|sk-|cookie:"
)


@pytest.mark.parametrize("unit", TROUBLE.split("|"))
def test_a_megabyte_of_trouble_takes_linear_time(unit: str) -> None:
    """Eight times the text takes about eight times as long: no expression goes astray."""

    def cost(length: int) -> float:
        text = "password=" + (unit * (length // len(unit)))
        began = time.process_time()
        redactor.text(text)
        return time.process_time() - began

    # Quadratic growth gives a factor of 64; the floor forgives a short run's noise.
    assert cost(LONGEST_TEXT) < 24 * max(cost(LONGEST_TEXT // 8), 0.05)


def test_an_endless_text_is_cut_before_it_is_searched() -> None:
    """A hundred megabytes cost what one costs, and the cut is visible."""
    redacted = redactor.text("x " * 50_000_000)
    assert len(redacted) == LONGEST_TEXT
    assert redacted.endswith("[cut]")


# --- arguments ------------------------------------------------------------------------------


@dataclass
class Customer:
    name: str
    api_key: str
    notes: str = field(default="", repr=False)


Login = namedtuple("Login", ["user", "password"])


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Ending:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


class BrokenDict(dict[str, Any]):
    def __repr__(self) -> str:
        raise RuntimeError("no")

    def items(self) -> Any:
        raise RuntimeError("no")


class Endless:
    def __repr__(self) -> str:
        return "x" * 10_000_000


def deep(levels: int) -> Any:
    nested: Any = "end"
    for i in range(levels):
        nested = [nested] if i % 2 else {"a": nested}
    return nested


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("acct_1", "'acct_1'"),  # a text
        (f"key {STRIPE}", "'key [redacted]'"),  # a text with a secret in it
        ('{"password": "x"}', '\'{"password": "[redacted]"}\''),  # a JSON text
        (b"token=abc", "b'token=[redacted]'"),  # bytes
        (bytearray(b"abc"), "b'abc'"),  # more bytes
        (5, "5"),  # a number
        (4111111111111111, "[redacted]"),  # a card number as a number
        (None, "None"),  # nothing
        ([1, (2,), {3}, frozenset()], "[1, (2,), {3}, frozenset([])]"),  # containers
        (
            {"password": "x", "n": [{"pin": 1}]},
            "{'password': '[redacted]', 'n': [{'pin': '[redacted]'}]}",
        ),
        ({b"token": "x", 1: 2}, "{b'token': '[redacted]', 1: 2}"),  # names that are no texts
        ({"token": None, "auth": True}, "{'token': None, 'auth': True}"),  # nothing to hide
        ([("api-key", "x")], "[('api-key', '[redacted]')]"),  # a list of pairs
        (Customer("bob", "k", "n"), "Customer(name='bob', api_key='[redacted]')"),  # a dataclass
        (Login("bob", "x"), "Login(user='bob', password='[redacted]')"),  # a named tuple
        (uuid.UUID(int=1), "UUID('00000000-0000-0000-0000-000000000001')"),  # a plain object
        (Broken(), "<Broken: RuntimeError when shown>"),  # a repr that fails
        ([Broken(), 1], "[<Broken: RuntimeError when shown>, 1]"),  # it spoils nothing beside it
        (Ending(), "<Ending: KeyboardInterrupt when shown>"),  # one that would end a thread
        (BrokenDict(a=1), "{'a': 1}"),  # a dict that cannot show itself is shown
        (range(3), "range(0, 3)"),  # any other object by its own repr
    ],
)
def test_an_argument_is_shown_without_its_secrets(value: Any, expected: str) -> None:
    """Every kind of argument has a representation, and secrets inside it are hidden."""
    assert redactor.arguments((value,), {"v": value}) == (f"({expected},)", f"{{'v': {expected}}}")


def test_a_positional_secret_is_known_by_its_parameter() -> None:
    """A password is hidden whether it is passed by position or by name."""
    args, kwargs = redactor.arguments(
        ("bob", "hunter2", "extra"), {"api_key": "abc"}, ["user", "password"]
    )
    assert args == "('bob', '[redacted]', 'extra')"
    assert kwargs == "{'api_key': '[redacted]'}"


def test_the_representations_survive_redaction_as_texts() -> None:
    """The dead-letter table redacts texts again: that changes nothing."""
    for shown in redactor.arguments(("x", {"token": "y"}), {"password": "z"}, ["pin"]):
        assert redactor.text(shown) == shown


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 100_000_000,  # a hundred megabytes of text
        lambda: b"x" * 100_000_000,  # and of bytes
        lambda: [0] * 10_000_000,  # ten million elements
        lambda: {i: i for i in range(1_000_000)},  # a million names
        lambda: deep(100_000),  # a hundred thousand levels
        lambda: [["x" * 5_000] * 50] * 50,  # wide at every level
        lambda: Endless(),  # a repr of ten megabytes
        lambda: 1 << 8_000_000,  # a number of a megabyte
        lambda: {"k" * 10_000_000: 1},  # a name of ten megabytes
    ],
    ids=["text", "bytes", "long", "dict", "deep", "wide", "repr", "integer", "name"],
)
def test_a_huge_argument_is_cut(make: Callable[[], Any]) -> None:
    """Size and depth are bounded, and so is the time, whatever the argument."""
    value = make()
    began = time.process_time()
    args, kwargs = redactor.arguments((value,), {"v": value})
    assert time.process_time() - began < 1
    assert 0 < len(args) <= LONGEST_WHOLE
    assert 0 < len(kwargs) <= LONGEST_WHOLE


def test_a_number_python_refuses_to_print_is_named() -> None:
    """An integer of thousands of digits is shown by its size."""
    assert redactor.arguments((10**5_000,), {})[0] == "(<int of 16610 bits>,)"


def test_a_secret_across_the_cut_does_not_show_its_half() -> None:
    """A text is searched beyond where it is cut."""
    for start in range(940, 1_000):
        args, _ = redactor.arguments(("x" * start + " " + GITHUB,), {})
        assert GITHUB[:8] not in args


class Cyclic(list[Any]):
    pass


def test_an_argument_that_contains_itself_is_shown_once() -> None:
    """A cycle ends at the depth bound."""
    cycle = Cyclic()
    cycle.append(cycle)
    args, _ = redactor.arguments((cycle,), {})
    assert args.count("[") < 10


@given(
    st.recursive(st.one_of(st.none(), st.text(), st.integers(), st.binary(), st.floats()), st.lists)
)
def test_no_argument_makes_it_raise(value: Any) -> None:
    """Anything at all, even in the place of args and kwargs, is shown somehow."""
    args, kwargs = redactor.arguments(value, value, ["password"])
    assert args
    assert kwargs


# --- declarations ---------------------------------------------------------------------------


def test_further_names_are_honoured() -> None:
    """What a project knows to be secret is hidden as well, in any spelling."""
    ours = Redactor(keys=["customerRef"])
    assert ours.text("customer_ref=7") == "customer_ref=[redacted]"
    assert ours.arguments((7,), {}, ["customer_ref"])[0] == "('[redacted]',)"
    assert redactor.text("customer_ref=7") == "customer_ref=7"


@pytest.mark.parametrize(
    "keys",
    [
        "password",  # one text would be eight one-letter names
        ["--"],  # no name at all
    ],
)
def test_a_wrong_declaration_is_refused(keys: Any) -> None:
    """A wrong key names its field."""
    with pytest.raises(DeclarationError) as refused:
        Redactor(keys)
    assert refused.value.field == "keys"
