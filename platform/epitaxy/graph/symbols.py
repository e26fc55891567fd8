"""Symbols of the elements and formulas made of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import reduce

from epitaxy.errors import RecordError, closest

_PERIODIC_TABLE = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy "
    "Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf "
    "Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
SYMBOLS = tuple(_PERIODIC_TABLE.split())
"""Symbol of each element, index = atomic number; ``X`` stands at 0 and is no element."""

ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number} | {
    "D": 1,
    "T": 1,
}
"""Atomic number of each symbol; deuterium and tritium are hydrogen."""


def atomic_number(symbol: str) -> int:
    """Returns the atomic number of ``symbol``; a charge behind it (``Fe3+``) is ignored.

    Raises:
        RecordError: If there is no such element.
    """
    text = str(symbol).strip()
    if text in ATOMIC_NUMBERS:
        return ATOMIC_NUMBERS[text]
    match = re.fullmatch(r"([A-Z][a-z]?)[0-9.]*[+-]?[0-9.]*[+-]?", text)
    if match and match[1] in ATOMIC_NUMBERS:
        return ATOMIC_NUMBERS[match[1]]
    raise RecordError(f"{text[:20]!r} is no element; {closest(text, SYMBOLS[1:])}"[:200])


def reduced_formula(amounts: Mapping[int, float]) -> str:
    """Returns the formula of whole or fractional ``amounts`` (atomic number to amount).

    Elements come in alphabetical order; whole amounts are divided by their greatest common
    divisor, fractional ones by their sum (four decimals). ``{14: 2, 8: 4}`` gives ``O2Si``.
    """
    whole = {number: round(amount) for number, amount in amounts.items() if amount > 0}
    if all(abs(amount - whole[number]) < 1e-6 for number, amount in amounts.items() if amount > 0):
        divisor = reduce(math.gcd, whole.values(), 0) or 1
        parts = {SYMBOLS[number]: str(count // divisor) for number, count in whole.items()}
    else:
        total = sum(amounts.values())
        parts = {
            SYMBOLS[number]: f"{amount / total:.4f}".rstrip("0").rstrip(".")
            for number, amount in amounts.items()
            if amount > 0
        }
    return "".join(
        f"{symbol}{'' if count == '1' else count}" for symbol, count in sorted(parts.items())
    )


def parse_formula(text: str) -> dict[int, float]:
    """Returns the amounts in a chemical formula: ``Fe0.62Ni0.19``, ``Ca(OH)2``, ``CuSO4·5H2O``.

    Raises:
        RecordError: If the text is no formula, or an amount is not positive.
    """
    cleaned = re.sub(r"[\s_{}$]", "", text.translate(str.maketrans("[]₀₁₂₃₄₅₆₇₈₉", "()0123456789")))
    amounts: dict[int, float] = {}
    for part in re.split(r"[·∙•*]", cleaned):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)?(.+)", part)
        if not match:
            raise RecordError(f"{text[:60]!r} is no chemical formula")
        factor = float(match[1] or 1)
        _add(amounts, _group(text, match[2]), factor)
    if any(not (math.isfinite(amount) and amount > 0) for amount in amounts.values()):
        raise RecordError(f"{text[:60]!r} holds an amount that is not positive")
    return amounts


_TOKEN = re.compile(r"(\()|(\))(\d*\.?\d*(?:[eE][-+]?\d+)?)|([A-Z][a-z]?)(\d*\.?\d*(?:[eE]-\d+)?)")


def _group(whole: str, text: str) -> dict[int, float]:
    stack: list[dict[int, float]] = [{}]
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise RecordError(f"{whole[:60]!r} is no chemical formula: stuck at {text[at:][:12]!r}")
        opening, closing, group_count, symbol, count = match.groups()
        if opening:
            stack.append({})
        elif closing:
            if len(stack) == 1:
                raise RecordError(f"{whole[:60]!r} closes a bracket that it never opened")
            inner = stack.pop()
            _add(stack[-1], inner, float(group_count or 1))
        else:
            _add(stack[-1], {atomic_number(symbol): 1.0}, float(count or 1))
        at = match.end()
    if len(stack) > 1:
        raise RecordError(f"{whole[:60]!r} leaves a bracket open")
    return stack[0]


def _add(amounts: dict[int, float], more: Mapping[int, float], factor: float) -> None:
    for number, amount in more.items():
        amounts[number] = amounts.get(number, 0.0) + factor * amount
