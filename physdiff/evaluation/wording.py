"""Numbers as people write them."""

from __future__ import annotations

import math

NO_BREAK = "\u00a0"


def number(value: float, digits: int = 3) -> str:
    """A number with a few significant digits: 1,024; 0.0123; 1.2 × 10⁻⁷."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if power < -4 or power > 6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10{_raised(int(exponent))}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - power)}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A number that shows its sign even when positive."""
    return ("+" if value > 0 else "") + number(value, digits)


def with_error(value: float, error: float, plus: bool = False) -> str:
    """A value and its standard error, both cut at the error's second digit: +0.1234 ± 0.0021."""
    sign = "+" if plus and value > 0 else ""
    if not math.isfinite(error) or error <= 0:
        return sign + number(value)
    places = max(0, 1 - math.floor(math.log10(error)))
    if places > 7:
        return f"{sign}{number(value)} ± {number(error, 2)}"
    return f"{sign}{value:,.{places}f} ± {error:,.{places}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """A time span: 0.35 s, 41 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if seconds < 10:
        text = f"{seconds:.2g} s"
    elif whole < 120:
        text = f"{whole} s"
    elif whole < 7200:
        text = f"{whole // 60} min {whole % 60:02d} s"
    else:
        text = f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return text.replace(" ", NO_BREAK)


def percent(share: float, digits: int = 2) -> str:
    """A share of one in percent."""
    return f"{number(100 * share, digits)}{NO_BREAK}%"


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
