"""The text of a token: a template such as ``<{letter}_{code}>``, and back."""

import re
from string import Formatter
from typing import NoReturn

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FIELDS = ("letter", "level", "code")
PUBLISHED = "<{letter}_{code}>"
# No leading zeros, so that every number is written in one way.
NUMBER = "(?:0|[1-9][0-9]{0,9})"
HOLE = "\0"


class Template:
    """Tokens of one form, told apart by level and code.

    Parameters
    ----------
    text : str
        Text with the fields ``{code}``, once, and ``{letter}`` or ``{level}``.

    Raises
    ------
    TypeError
        If the template is no string.
    ValueError
        If two tokens of the template could be equal.
    """

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise TypeError(
                f"template={text!r} should be a string. Use for example {PUBLISHED!r}."
            )
        self.text = text
        fields = self._fields()
        if fields.count("code") != 1 or len(set(fields)) == 1:
            self._refuse("should have {code} once, and {letter} or {level}")
        self.has_letter = "letter" in fields
        before, after = self._around(0)
        if before[-1:].isdigit() or after[:1].isdigit():
            self._refuse("should set {code} apart from other digits")

    def _fields(self) -> list[str]:
        try:
            parts = list(Formatter().parse(self.text))
        except ValueError as error:
            self._refuse(f"should have its braces in pairs ({error})")
        fields = [field for _, field, _, _ in parts if field is not None]
        specified = any(spec or conversion for _, _, spec, conversion in parts)
        if HOLE in self.text or specified or not set(fields) <= set(FIELDS):
            self._refuse("should have no fields but {letter}, {level} and {code}")
        return fields

    def _refuse(self, relation: str) -> NoReturn:
        raise ValueError(
            f"template={self.text!r} {relation}. Use for example {PUBLISHED!r}."
        )

    def _around(self, level: int) -> tuple[str, str]:
        """Text of a level before and after the code."""
        before, _, after = self.token(level, HOLE).partition(HOLE)
        return before, after

    def token(self, level: int, number: int | str) -> str:
        """Token of a code at a level."""
        letter = LETTERS[level] if self.has_letter else ""
        return self.text.format(letter=letter, level=level, code=number)

    def pattern(self, level: int) -> str:
        """Regular expression of the tokens of a level."""
        before, after = self._around(level)
        return re.escape(before) + NUMBER + re.escape(after)

    def number(self, level: int, token: str) -> int:
        """Code in a token of a level, -1 if it is none."""
        if not re.fullmatch(self.pattern(level), token):
            return -1
        before, after = self._around(level)
        return int(token[len(before) : len(token) - len(after)])

    def check_width(self, n_columns: int) -> None:
        """Raise if there are more columns than letters."""
        if self.has_letter and n_columns > len(LETTERS):
            raise ValueError(
                f"n_columns={n_columns} of ids should be <= {len(LETTERS)}, one letter "
                "each. Use fewer levels, or {level} in the template."
            )

    def check_separator(self, separator: str) -> None:
        """Raise if tokens joined in this way could be read in two ways."""
        if not isinstance(separator, str):
            raise TypeError(
                f"separator={separator!r} should be a string. Use for example ' '."
            )
        before, after = self._around(0)
        following = after + separator + before
        if not following or following[0].isdigit():
            raise ValueError(
                f"separator={separator!r} should set the codes of "
                f"template={self.text!r} apart from what follows. Use for example ' '."
            )
