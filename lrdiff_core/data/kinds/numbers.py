"""Numbers as people write them: thousands separators, decimal commas, currencies, percent, negatives in parentheses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lrdiff_core.text import quoted

__all__ = ["find_number_format", "parse_number"]

_SYMBOLS = "$€£¥₹₽₩₺₫₴₪฿¢"
_CODES = "USD EUR GBP JPY CNY INR CHF AUD CAD NZD SEK NOK DKK PLN CZK HUF RUB BRL MXN ZAR KRW SGD HKD TRY ILS kr zł"
_MARK = f"(?:[{_SYMBOLS}]|(?:{'|'.join(map(re.escape, _CODES.split()))})(?![A-Za-z])|[A-Z]{{1,2}}\\$)"
_CURRENCY = re.compile(rf"^([+-]?\s*\(?)\s*({_MARK})?\s*([^A-Za-z{_SYMBOLS}]*?(?:[eE][+-]?\d+)?)\s*({_MARK})?(\)?-?)$")
_BLANKS = re.compile("(?<=\\d)[ \u00a0\u2009\u202f'\u2019](?=\\d{3}(?!\\d))")  # between groups of three digits

_GROUPED = {
    "point": re.compile(r"^\d{1,3}(,\d{2,3})*,\d{3}(\.\d*)?$"),  # 1,234.5 and, as in India, 12,34,567.8
    "comma": re.compile(r"^\d{1,3}(\.\d{3})+(,\d*)?$"),
}
_UNGROUPED = {
    "point": re.compile(r"^(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"),
    "comma": re.compile(r"^(\d+,?\d*|,\d+)([eE][+-]?\d+)?$"),
}
_Parts = tuple[float, str, str, bool]  # sign, digits with their separators, currency, whether in percent


def parse_number(text: str, form: str) -> float | None:
    """The number that a cell holds, or None if it is none of this form.

    Args:
        text: without spaces around it.
        form: ``point`` or ``comma``, what decimals begin with; followed by ``" %"`` where every cell is a share.

    Example:
        >>> parse_number("(1.234,50 €)", "comma"), parse_number("-12%", "point %"), parse_number("1,5", "point")
        (-1234.5, -0.12, None)
    """
    mark, _, percent = form.partition(" ")
    parts = _parts(text)
    if parts is None:
        return None
    sign, digits, _, shares = parts
    if bool(percent) != shares:
        return None
    if _GROUPED[mark].match(digits):
        digits = digits.replace("," if mark == "point" else ".", "")
    elif not _UNGROUPED[mark].match(digits):
        return None
    try:
        value = sign * float(digits.replace(",", "."))
    except ValueError:
        return None
    return value / 100.0 if shares else value


def find_number_format(texts: Sequence[str], *, decimal_commas: bool = False) -> tuple[str, str] | None:
    """Return how a column's distinct texts write numbers, and that in words; None if they do not all.

    ``1,234`` can be either; it is read with thousands separators, or with a decimal comma if ``decimal_commas``.

    Example:
        >>> find_number_format(["1.234,5", "7"])
        ('comma', 'decimal comma: "1.234,5" is 1234.5')
        >>> find_number_format(["$1,200", "$5"])
        ('point', 'thousands separated by commas, $: "$1,200" is 1200')
    """
    parts = [_parts(text) for text in texts]
    if not texts or any(one is None for one in parts):
        return None
    known = [one for one in parts if one is not None]
    if len({currency for _, _, currency, _ in known if currency}) > 1 or len({share for *_, share in known}) > 1:
        return None  # euros among dollars, shares among amounts
    percent = " %" if known[0][3] else ""
    digits = [one[1] for one in known]
    fits = [mark for mark in ("point", "comma") if all(_fits(text, mark) for text in digits)]
    if not fits:
        return None
    # A group never begins with 0: "0,125" has a decimal comma.
    leading = any(re.match(r"^0,\d", text) for text in digits)
    mark = "comma" if "comma" in fits and (decimal_commas or leading or fits == ["comma"]) else fits[0]
    return mark + percent, _words(texts, digits, mark, percent, known)


def _words(texts: Sequence[str], digits: Sequence[str], mark: str, percent: str, parts: Iterable[_Parts]) -> str:
    said = []
    if mark == "comma":
        said.append("decimal comma" if any("," in text for text in digits) else "thousands separated by points")
    elif any("," in text for text in digits):
        said.append("thousands separated by commas")
    elif any(_BLANKS.search(text) for text in texts):
        said.append("thousands separated by blanks")
    said += sorted({currency for _, _, currency, _ in parts if currency})
    said += ["percent"] if percent else []
    said = said or ["written numbers"]
    example = max(texts, key=lambda text: (sum(text.count(one) for one in ",.' "), len(text)))
    value = parse_number(example, mark + percent)
    return f"{', '.join(said)}: {quoted(example)} is {value:.12g}"


def _fits(digits: str, mark: str) -> bool:
    return bool(_GROUPED[mark].match(digits) or _UNGROUPED[mark].match(digits))


def _parts(text: str) -> _Parts | None:
    """What a cell is made of; None if that is no number."""
    text = text.replace("\u2212", "-").replace("\u00a0", " ").strip()
    shares = text.rstrip(")").endswith("%")
    if shares:
        text = text.replace("%", "", 1).strip() if text.count("%") == 1 else ""
    found = _CURRENCY.match(text)
    if found is None:
        return None
    before, first, digits, last, after = found.groups()
    if (first and last) or ("(" in before) != (")" in after):
        return None
    before, digits = before.replace(" ", ""), digits.strip()
    if digits[:1] in "+-" and digits and not before.strip("("):
        before, digits = before + digits[0], digits[1:].strip()
    minuses = before.count("-") + before.count("(") + after.count("-")
    if minuses > 1 or not digits:
        return None
    return (-1.0 if minuses else 1.0), _BLANKS.sub("", digits), first or last or "", shares
