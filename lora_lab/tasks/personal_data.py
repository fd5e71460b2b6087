"""Hints of personal data: e-mail addresses, telephone numbers, bank accounts, cards.

They are only hints: names and streets are not found. Addresses at example.com, .org and .net
belong to nobody (RFC 2606) and do not count.
"""

import re
from collections import Counter
from collections.abc import Callable

# IBAN, CARD and PHONE begin with the set of characters that may begin a match. Only after such a
# character do they check what stands before it. This is three times as fast.
EMAIL = re.compile(r"[\w.+-]++@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}")
EXAMPLES = re.compile(r"@(?:[\w-]+\.)*example(?:\.(?:com|org|net))?$")  # nobody's: RFC 2606
DIGITS = re.compile(r"\d(?:[ ()/.-]{0,2}\d){6}")  # seven digits: fewer can't be a person's number
IBAN = re.compile(r"[A-Z](?<!\w.)[A-Z]\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
CARD = re.compile(r"[3-6](?<![\w.-].)(?:[ -]?\d){12,18}(?![\w-])")
PHONE = re.compile(
    r"[+(02-9](?<![\w./,-].)(?:"
    r"(?:(?<=\+)|(?<=0)0)[1-9]\d{0,2}[ ./()-]*\d(?:[ ./()-]{0,2}\d){6,11}"  # a country's code
    r"|(?:(?<=\()0|(?<=0))[1-9]\d{1,3}\)?[ /-]\d(?:[ -]?\d){4,8}"  # an area's: it begins with 0
    r"|(?:(?<=\()[2-9]|(?<=[2-9]))\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4}"  # North American
    r")(?![\w-]|[.,]\d)"
)
PLACEHOLDERS = {  # what stands in place of each kind
    "e-mail addresses": "[e-mail]",
    "bank accounts (IBAN)": "[IBAN]",
    "payment cards": "[card]",
    "telephone numbers": "[phone]",
}


def kinds_of_personal_data(text: str) -> list[str]:
    """The kinds that a text seems to hold: "e-mail addresses", "telephone numbers" and so on."""
    return [*without_personal_data(text)[1]]


def without_personal_data(text: str) -> tuple[str, Counter[str]]:
    """A text with `[e-mail]`, `[phone]` and so on in place of what looks like personal data.

    Addresses at example.com, .org and .net stay: nobody has them (RFC 2606). Numbers of accounts
    and cards whose check digits are wrong stay too.

    Returns:
        The text, and how many of each kind were found, by their names in PLACEHOLDERS.
    """
    found: Counter[str] = Counter()
    if "@" in text:
        text = _replaced(text, EMAIL, "e-mail addresses", _is_somebodys, found)
    if DIGITS.search(text):
        text = _replaced(text, IBAN, "bank accounts (IBAN)", is_iban, found)
        text = _replaced(text, CARD, "payment cards", is_card, found)
        text = _replaced(text, PHONE, "telephone numbers", bool, found)
    return text, found


def _replaced(
    text: str,
    pattern: re.Pattern[str],
    kind: str,
    is_real: Callable[[str], bool],
    found: Counter[str],
) -> str:
    """The text with each real match replaced by its kind's placeholder, and counted."""

    def placeholder(match: re.Match[str]) -> str:
        if not is_real(match[0]):
            return match[0]
        found[kind] += 1
        return PLACEHOLDERS[kind]

    return pattern.sub(placeholder, text)


def _is_somebodys(address: str) -> bool:
    return EXAMPLES.search(address) is None


def is_iban(text: str) -> bool:
    """Whether the check digits of an IBAN are right (ISO 13616: the rest by 97 is 1)."""
    signs = text.replace(" ", "")
    turned = signs[4:] + signs[:4]
    return 15 <= len(signs) <= 34 and int("".join(str(int(sign, 36)) for sign in turned)) % 97 == 1


def is_card(text: str) -> bool:
    """Whether the check digit of a card's number is right (ISO 7812: Luhn's sum)."""
    digits = [int(sign) for sign in text if sign.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (
        13 <= len(digits) <= 19
        and len(set(digits)) > 1
        and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    )
