"""Texts: numbers with nouns, and how much fits a box whatever the font."""

import unicodedata
from collections.abc import Sequence

# Advance widths in em of common sans-serif fonts, on the wide side, so that a text that
# is estimated to fit does fit.
WIDE, CAPITAL, NORMAL, EMOJI = 1.02, 0.78, 0.62, 1.4


def text_width(text: str, font_size: float) -> float:
    """Estimated width of a line of text, in the units of the font size."""
    return font_size * sum(map(_advance, text))


def _advance(character: str) -> float:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0.0
    if ord(character) > 0x1F000:
        return EMOJI
    if unicodedata.east_asian_width(character) in "WF":
        return WIDE
    if character in "mwMW@%&—…" or ord(character) > 0x2E7F:
        return WIDE
    return CAPITAL if character.isupper() or ord(character) > 0x24F else NORMAL


def fit_text(text: str, width: float, font_size: float) -> str:
    """Longest beginning of a text that fits a width, with an ellipsis where it is cut.

    Returns an empty string if not even three characters fit.
    """
    if text_width(text, font_size) <= width:
        return text
    room = width / font_size - WIDE
    for end, character in enumerate(text):
        room -= _advance(character)
        if room < 0:
            return text[:end].rstrip() + "…" if end >= 3 else ""
    return text


def wrap(text: str, width: float, font_size: float, n_lines: int) -> list[str]:
    """Break a text between words into at most so many lines; the last may be cut."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(joined, font_size) <= width:
            lines[-1] = joined
        elif len(lines) == n_lines:
            lines[-1] = joined
            break
        else:
            lines.append(word)
    fitted = [fit_text(line, width, font_size) for line in lines]
    return fitted if all(fitted) else [line for line in fitted[:1] if line]


def count(n: int, noun: str) -> str:
    """Number and noun, in the plural where it is not one."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def sizes_text(sizes: Sequence[int]) -> str:
    """Codebook sizes in short, such as 3 × 256 or 64 × 128."""
    if len(set(sizes)) == 1:
        return f"{len(sizes)} × {sizes[0]:,}"
    return " × ".join(f"{size:,}" for size in sizes)
