"""Symbols of the elements and formulas made of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import reduce

from epitaxy.errors import RecordError

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

MOST = 1e6
"""Largest amount of an element in a composition; no compound has more."""

_DECORATED = re.compile(r"([A-Z][a-z]?)(?:[+-]?[0-9]*\.?[0-9]*[+-]?|[_/].*)", re.ASCII)

_WHOLE = 1e-6
_PLAIN = str.maketrans("[]₀₁₂₃₄₅₆₇₈₉", "()0123456789")
_CLUTTER = re.compile(r"[\s_{}$]")
_DOTS = re.compile(r"[·∙•⋅*]")
_AMOUNT = r"((?:\d+\.?\d*|\.\d+)(?:[eE]-\d+)?)?"
_TERM = re.compile(r"(\d+(?:\.\d+)?)?(.+)", re.ASCII)
_TOKEN = re.compile(rf"(\()|(\)){_AMOUNT}|([A-Z][a-z]?){_AMOUNT}", re.ASCII)


def atomic_number(symbol: str) -> int:
    """Returns the atomic number of ``symbol``.

    What stands behind a symbol is ignored where it says nothing of the element: a charge
    (``Fe3+``), the number of a site (``Fe1``), the flavour of a pseudopotential (``Fe_pv``).

    Raises:
        RecordError: If there is no such element.
    """
    text = str(symbol).strip()
    if text in ATOMIC_NUMBERS:
        return ATOMIC_NUMBERS[text]
    match = _DECORATED.fullmatch(text)
    if match and match[1] in ATOMIC_NUMBERS:
        return ATOMIC_NUMBERS[match[1]]
    near = text.capitalize() if text.capitalize() in ATOMIC_NUMBERS else ""
    hint = f"did you mean {near!r}?" if near else "expected a symbol such as 'Fe'"
    raise RecordError(f"{text[:20]!r} is no element; {hint}")


def reduced_amounts(amounts: Mapping[int, float]) -> dict[int, float]:
    """Returns ``amounts`` (atomic number to amount) at one scale, the same whatever they had.

    They are in their lowest whole ratio (as ``int``): ``{14: 2, 8: 4}`` and ``{14: 0.5, 8: 1}``
    give ``{14: 1, 8: 2}``. Amounts of more than four decimals are divided by their sum instead.
    """
    present = {number: float(amount) for number, amount in amounts.items() if amount > 0}
    counts = _whole(present)
    if counts:
        divisor = reduce(math.gcd, counts.values())
        return {number: count // divisor for number, count in counts.items()}
    total = sum(present.values())
    return {number: amount / total for number, amount in present.items()}


def reduced_formula(amounts: Mapping[int, float]) -> str:
    """Returns the formula of ``reduced_amounts``, elements in alphabetical order: ``O2Si``.

    Amounts that are no whole ratio are rounded to four decimals of their sum.
    """
    parts = {
        SYMBOLS[number]: str(amount)
        if isinstance(amount, int)
        else f"{amount:.4f}".rstrip("0").rstrip(".")
        for number, amount in reduced_amounts(amounts).items()
    }
    return "".join(
        f"{symbol}{'' if count == '1' else count}" for symbol, count in sorted(parts.items())
    )


def _whole(amounts: Mapping[int, float]) -> dict[int, int]:
    """Returns the amounts in a power of ten that makes all of them whole; empty if none does."""
    for scale in (1, 10, 100, 1000, 10_000):
        counts = {number: round(amount * scale) for number, amount in amounts.items()}
        if all(
            counts[number] and abs(amount * scale - counts[number]) < _WHOLE
            for number, amount in amounts.items()
        ):
            return counts
    return {}


def parse_formula(text: str) -> dict[int, float]:
    """Returns the amounts in a chemical formula: ``Fe0.62Ni0.19``, ``Ca(OH)2``, ``CuSO4·5H2O``.

    A full stop is a decimal point, never the dot of a hydrate. ``NaN`` is sodium nitride.

    Raises:
        RecordError: If the text is no formula, or no element has an amount.
    """
    cleaned = _CLUTTER.sub("", text.translate(_PLAIN))
    amounts: dict[int, float] = {}
    for part in _DOTS.split(cleaned):
        match = _TERM.fullmatch(part)
        if not match:
            raise RecordError(f"{text[:60]!r} is no chemical formula")
        _add(amounts, _group(text, match[2]), float(match[1] or 1))
    if not all(amount <= MOST for amount in amounts.values()):
        raise RecordError(f"{text[:60]!r} holds an amount above {MOST:g}")
    amounts = {number: amount for number, amount in amounts.items() if amount > 0}
    if not amounts:
        raise RecordError(f"{text[:60]!r} has no element with an amount above 0")
    return amounts


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
