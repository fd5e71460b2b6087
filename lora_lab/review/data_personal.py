"""Hints of personal data: e-mail addresses, telephone numbers, bank accounts, cards.

They are hints: a name or a street is not found. Values are never handed on, only their kinds.
"""

import re

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}")
EXAMPLES = re.compile(r"@(?:[\w-]+\.)*example(?:\.(?:com|org|net))?$")  # nobody's: RFC 2606
DIGITS = re.compile(r"\d(?:[ ()/.-]{0,2}\d){6}")  # seven digits: less is no number of a person
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
CARD = re.compile(r"(?<![\w.-])[3-6](?:[ -]?\d){12,18}(?![\w-])")
PHONE = re.compile(
    r"(?<![\w./,-])(?:"
    r"(?:\+|00)[1-9]\d{0,2}[ ./()-]*\d(?:[ ./()-]{0,2}\d){6,11}"  # with a country's code
    r"|\(?0[1-9]\d{1,3}\)?[ /-]\d(?:[ -]?\d){4,8}"  # with an area's code, which begins with 0
    r"|\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4}"  # North American
    r")(?![\w-]|[.,]\d)"
)
HIDDEN = "[hidden]"


def kinds_of_personal_data(text: str) -> list[str]:
    """The kinds that a text seems to hold: "e-mail addresses", "telephone numbers" and so on."""
    kinds = []
    if "@" in text and any(not EXAMPLES.search(found) for found in EMAIL.findall(text)):
        kinds.append("e-mail addresses")
    if not DIGITS.search(text):
        return kinds
    accounts = [found for found in IBAN.findall(text) if is_iban(found)]
    if accounts:
        kinds.append("bank accounts (IBAN)")
    for found in accounts:
        text = text.replace(found, "")
    cards = [found for found in CARD.findall(text) if is_card(found)]
    if cards:
        kinds.append("payment cards")
    for found in cards:
        text = text.replace(found, "")
    if PHONE.search(text):
        kinds.append("telephone numbers")
    return kinds


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


def hidden(text: str) -> str:
    """A text to print, with what looks like personal data hidden."""
    return IBAN.sub(HIDDEN, CARD.sub(HIDDEN, PHONE.sub(HIDDEN, EMAIL.sub(HIDDEN, text))))
