"""ONNX Runtime GenAI as this project calls it: the C functions of the package's own shared library.

The package's Python classes hold the interpreter from the first byte of a model to the last, and through
every token and every prompt (0.18.0: 7.5 s without a heartbeat in a prompt of 2,000 tokens). A C function
that is called through ctypes lets it go. The functions and their types are those of ort_genai_c.h.

1. A `Generator` belongs to one thread at a time; a `Model` and a `Tokenizer` to all.
2. What `close` gives back is used by nobody any more. A model is closed when its generators are.
3. Numbers that the library owns are copied before the next call.
4. Its decoder leaves out whatever comes after a letter that is not whole, or after a zero. A reply may hold
   both, so a text with either is put together from its parts.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_bool, c_char_p, c_double, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any, Final

__all__ = ["Generator", "Library", "LibraryError", "Model", "Tokenizer"]

HALF: Final = "\ufffd"
"""What is no whole letter."""
ZEROS: Final = ("\u0100", "<0x00>")
"""How vocabularies write the byte zero."""
_P: Final = c_void_p
_OUT: Final = POINTER(c_void_p)
_CALLS: Final[Mapping[str, tuple[Any, ...]]] = {
    "OgaCreateConfig": (c_char_p, _OUT),
    "OgaConfigClearProviders": (_P,),
    "OgaConfigAppendProvider": (_P, c_char_p),
    "OgaConfigSetProviderOption": (_P, c_char_p, c_char_p, c_char_p),
    "OgaConfigOverlay": (_P, c_char_p),
    "OgaCreateModelFromConfig": (_P, _OUT),
    "OgaCreateTokenizer": (_P, _OUT),
    "OgaUpdateTokenizerOptions": (_P, POINTER(c_char_p), POINTER(c_char_p), c_size_t),
    "OgaCreateSequences": (_OUT,),
    "OgaTokenizerEncode": (_P, c_char_p, _P),
    "OgaTokenizerToTokenId": (_P, c_char_p, POINTER(c_int32)),
    "OgaTokenizerDecode": (_P, POINTER(c_int32), c_size_t, _OUT),
    "OgaCreateGeneratorParams": (_P, _OUT),
    "OgaGeneratorParamsSetSearchNumber": (_P, c_char_p, c_double),
    "OgaGeneratorParamsSetSearchBool": (_P, c_char_p, c_bool),
    "OgaGeneratorParamsSetGuidance": (_P, c_char_p, c_char_p, c_bool),
    "OgaCreateGenerator": (_P, _P, _OUT),
    "OgaGenerator_AppendTokens": (_P, POINTER(c_int32), c_size_t),
    "OgaGenerator_GenerateNextToken": (_P,),
    "OgaGenerator_GetNextTokens": (_P, POINTER(POINTER(c_int32)), POINTER(c_size_t)),
    "OgaGenerator_RewindTo": (_P, c_size_t),
    "OgaGenerator_GetLogits": (_P, _OUT),
    "OgaTensorGetShapeRank": (_P, POINTER(c_size_t)),
    "OgaTensorGetShape": (_P, POINTER(ctypes.c_int64), c_size_t),
    "OgaTensorGetData": (_P, _OUT),
}
"""Those that say whether they worked, and what they take."""
_NUMBERS: Final[Mapping[str, tuple[Any, Any]]] = {
    "OgaSequencesGetSequenceCount": (c_size_t, (_P, c_size_t)),
    "OgaSequencesGetSequenceData": (POINTER(c_int32), (_P, c_size_t)),
    "OgaGenerator_IsDone": (c_bool, (_P,)),
    "OgaResultGetError": (c_char_p, (_P,)),
}
_ENDS: Final = (
    *("OgaDestroyResult", "OgaDestroyString", "OgaDestroyConfig", "OgaDestroyModel", "OgaDestroyTokenizer"),
    *("OgaDestroySequences", "OgaDestroyGeneratorParams", "OgaDestroyGenerator", "OgaDestroyTensor"),
)
"""Those that give something back."""


class LibraryError(Exception):
    """What the library said."""


class Library:
    """The shared library, with the types of what is called in it."""

    def __init__(self, path: Path) -> None:
        self._functions: Any = ctypes.CDLL(str(path))
        for name, takes in _CALLS.items():
            self._describe(name, _P, takes)
        for name, (gives, takes) in _NUMBERS.items():
            self._describe(name, gives, takes)
        for name in _ENDS:
            self._describe(name, None, (_P,))

    def _describe(self, name: str, gives: Any, takes: tuple[Any, ...]) -> None:
        function = getattr(self._functions, name)
        function.restype, function.argtypes = gives, takes

    def call(self, name: str, *values: Any) -> None:
        """Calls a function.

        Raises:
            LibraryError: it did not work.
        """
        result = getattr(self._functions, name)(*values)
        if result:
            try:
                said = self.number("OgaResultGetError", result) or b""
                raise LibraryError(said.decode("utf-8", errors="replace"))
            finally:
                self.number("OgaDestroyResult", result)

    def number(self, name: str, *values: Any) -> Any:
        """What a function that cannot fail gives."""
        return getattr(self._functions, name)(*values)

    def made(self, name: str, *values: Any) -> Any:
        """What a function makes.

        Raises:
            LibraryError: it did not work.
        """
        thing = c_void_p()
        self.call(name, *values, byref(thing))
        return thing


class _Owned:
    """Something of the library's, to be given back once."""

    ends: str

    def __init__(self, library: Library, thing: Any) -> None:
        self.library = library
        self.thing = thing

    def close(self) -> None:
        """Gives it back."""
        thing, self.thing = self.thing, None
        if thing is not None:
            self.library.number(self.ends, thing)


class Model(_Owned):
    """A loaded model."""

    ends = "OgaDestroyModel"

    @classmethod
    def load(cls, library: Library, folder: Path, overlay: str, device: str) -> Model:
        """Loads the folder on `cpu`, `cuda`, `cuda:1` …; `overlay` is JSON that is laid over its config.
        Blocks.

        Raises:
            LibraryError: it cannot be loaded.
        """
        config = library.made("OgaCreateConfig", str(folder).encode())
        try:
            _compute_on(library, config, device)
            library.call("OgaConfigOverlay", config, overlay.encode())
            return cls(library, library.made("OgaCreateModelFromConfig", config))
        finally:
            library.number("OgaDestroyConfig", config)


class Tokenizer(_Owned):
    """A model's tokenizer."""

    ends = "OgaDestroyTokenizer"

    def __init__(self, model: Model) -> None:
        super().__init__(model.library, model.library.made("OgaCreateTokenizer", model.thing))
        self._zeros = frozenset(filter(self._is_no_text, map(self._number_of, ZEROS)))

    def add_special_tokens(self, *, add: bool) -> None:
        """Whether `encode` puts the signs before a text that its tokenizer puts before one; at first not."""
        names = (c_char_p * 1)(b"add_special_tokens")
        values = (c_char_p * 1)(b"true" if add else b"false")
        self.library.call("OgaUpdateTokenizerOptions", self.thing, names, values, 1)

    def encode(self, text: str) -> list[int]:
        """A text's tokens; the library would end it at a zero, so that becomes the sign for no letter."""
        sequences = self.library.made("OgaCreateSequences")
        try:
            data = text.replace("\0", "\ufffd").encode("utf-8", errors="replace")
            self.library.call("OgaTokenizerEncode", self.thing, data, sequences)
            count = self.library.number("OgaSequencesGetSequenceCount", sequences, 0)
            return list(self.library.number("OgaSequencesGetSequenceData", sequences, 0)[:count])
        finally:
            self.library.number("OgaDestroySequences", sequences)

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without the signs and zeros among them; what is no whole letter becomes U+FFFD."""
        left = [token for token in tokens if token not in self._zeros]
        text = self._decoded(left)
        if HALF not in text:
            return text
        text = ""
        while left:
            count = next(end for end in range(len(left), -1, -1) if HALF not in self._decoded(left[:end]))
            text += self._decoded(left[:count]) or HALF
            del left[: max(count, 1)]
        return text

    def _decoded(self, tokens: Sequence[int]) -> str:
        text = self.library.made("OgaTokenizerDecode", self.thing, _array(tokens), len(tokens))
        try:
            return ctypes.string_at(text).decode("utf-8", errors="replace")
        finally:
            self.library.number("OgaDestroyString", text)

    def _number_of(self, token: str) -> int:
        """The token that is written so; below zero where there is none."""
        number = c_int32(-1)
        with contextlib.suppress(LibraryError):
            self.library.call("OgaTokenizerToTokenId", self.thing, token.encode(), byref(number))
        return number.value

    def _is_no_text(self, token: int) -> bool:
        return token >= 0 and self._decoded([token]) in ("", HALF)


class Generator(_Owned):
    """One conversation in a model's memory."""

    ends = "OgaDestroyGenerator"

    def __init__(
        self, model: Model, numbers: Mapping[str, float], guidance: tuple[str, str] | None = None
    ) -> None:
        """`numbers`: the library's options of search; `guidance`: a kind and what it says."""
        library = model.library
        params = library.made("OgaCreateGeneratorParams", model.thing)
        try:
            for name, value in numbers.items():
                kind = "Bool" if isinstance(value, bool) else "Number"
                library.call(f"OgaGeneratorParamsSetSearch{kind}", params, name.encode(), value)
            if guidance is not None:
                kind, text = guidance
                library.call("OgaGeneratorParamsSetGuidance", params, kind.encode(), text.encode(), False)
            super().__init__(library, library.made("OgaCreateGenerator", model.thing, params))
        finally:
            library.number("OgaDestroyGeneratorParams", params)

    def append(self, tokens: Sequence[int]) -> None:
        """Computes so many tokens more. Blocks."""
        self.library.call("OgaGenerator_AppendTokens", self.thing, _array(tokens), len(tokens))

    def rewind(self, length: int) -> None:
        """Forgets all tokens after that many."""
        self.library.call("OgaGenerator_RewindTo", self.thing, length)

    def next(self) -> int:
        """The token that the library itself chooses. Blocks."""
        self.library.call("OgaGenerator_GenerateNextToken", self.thing)
        tokens, count = POINTER(c_int32)(), c_size_t()
        self.library.call("OgaGenerator_GetNextTokens", self.thing, byref(tokens), byref(count))
        return int(tokens[0])

    @property
    def done(self) -> bool:
        """Whether the library would choose no more."""
        return bool(self.library.number("OgaGenerator_IsDone", self.thing))

    def scores(self) -> bytes:
        """How likely each token is to be the next, as 32-bit numbers. Blocks."""
        tensor = self.library.made("OgaGenerator_GetLogits", self.thing)
        try:
            rank = c_size_t()
            self.library.call("OgaTensorGetShapeRank", tensor, byref(rank))
            sides = (ctypes.c_int64 * rank.value)()
            self.library.call("OgaTensorGetShape", tensor, sides, rank.value)
            data = self.library.made("OgaTensorGetData", tensor)
            return ctypes.string_at(data, sides[rank.value - 1] * ctypes.sizeof(ctypes.c_float))
        finally:
            self.library.number("OgaDestroyTensor", tensor)


def _compute_on(library: Library, config: Any, device: str) -> None:
    """What the folder's own config says of that device stays."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        library.call("OgaConfigClearProviders", config)
        return
    library.call("OgaConfigAppendProvider", config, kind.encode())
    if number:
        library.call("OgaConfigSetProviderOption", config, kind.encode(), b"device_id", number.encode())


def _array(tokens: Sequence[int]) -> Any:
    return (c_int32 * len(tokens))(*tokens)
