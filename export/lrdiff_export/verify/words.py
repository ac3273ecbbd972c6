"""Words before a network: every word that training knew, and many that it did not, must get the codes of the reader.

The rows of the battery are run through the file with words in the place of codes. Its codes are looked at
themselves, too, as one more output of the same graph: a network may answer two words alike.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lrdiff_core.errors import LrdiffError
from lrdiff_core.text import count, quoted
from lrdiff_export.model.text_inputs import TextColumn, TextInputs
from lrdiff_export.onnx_file.load import model_inputs
from lrdiff_export.onnx_file.text_inputs import with_coded_rows
from lrdiff_export.records import first_line, json_ready
from lrdiff_export.runtimes.sandbox import Sandbox

__all__ = ["WordsReport", "answers_no_words", "check_words", "interface_problems", "takes_words", "unseen_words"]

BATCHES = (1, 2, 7)
LONG = 100_000  # characters of the longest word
LIKE = 8  # known words of which there are others that look like them
Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class WordsReport:
    """What was tried of the columns of words.

    Attributes:
        columns: of words.
        known: words of training, all of which were tried.
        unseen: other words that were tried.
        batches: rows that were run at once.
        problems: what failed, one line each.
        sentence: what was seen, for a proof; empty where something failed.
    """

    columns: int
    known: int
    unseen: int
    batches: tuple[int, ...]
    problems: tuple[str, ...]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return json_ready(self)


def unseen_words(column: TextColumn) -> list[str]:
    """Return words that a column does not know, some of which look like those that it knows.

    Example:
        >>> found = unseen_words(TextColumn(name="colour", place=0, words=("Red", "blue")))
        >>> "" in found, "red" in found, "BLUE" in found, " Red" in found, "Red" in found
        (True, True, True, True, False)
    """
    found = ["", " ", "?", "0", "1", "nan", "None", "\N{SNOWMAN}", "\N{PILE OF POO}" * 3, "\u202eabc", "a\nb", "a,b"]
    found.append("x" * LONG)
    for word in column.words[:LIKE]:
        other = [word.lower(), word.upper(), f" {word}", f"{word} ", f"{word}{word}", word[:-1], word[1:], f"{word}\0"]
        found += [*other, *(unicodedata.normalize(form, word) for form in ("NFC", "NFD", "NFKC"))]
    known = set(column.words)
    return [word for word in dict.fromkeys(found) if word not in known]


def interface_problems(model: onnx.ModelProto, text: TextInputs) -> list[str]:
    """Compare the inputs of a file with what it should take."""
    wanted = [(name, dtype, list(shape)) for name, dtype, shape in text.ports]
    found = []
    for one in model_inputs(model):
        kind = one.type.tensor_type
        words = kind.elem_type == onnx.TensorProto.STRING
        dtype = "string" if words else str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim]
        found.append((one.name, dtype, ["batch", *shape[1:]] if shape and isinstance(shape[0], str) else shape))
    if found == wanted:
        return []
    for have, need in zip(found, wanted, strict=False):
        if have != need:
            return [f"input {have[0]!r} is {have[1]} {have[2]}, not {need[0]!r}, {need[1]} {need[2]}"]
    return [f"the file takes {len(found)} inputs, numbers and words are {len(wanted)}"]


def takes_words(run: Run, text: TextInputs) -> Run:
    """Return what runs a matrix of numbers and codes in a file that takes numbers and words."""
    return lambda feeds: run(text.split(feeds[0]))


def check_words(
    model: onnx.ModelProto, text: TextInputs, opened: Callable[[onnx.ModelProto, bool], Run]
) -> WordsReport:
    """Run every known word of each column, and many unseen ones, and compare their codes.

    Args:
        model: of the file.
        text: what it should take.
        opened: from a model, and whether it is optimised, to what runs it.
    """
    feeds = list(_feeds(text))
    problems: list[str] = []
    for optimise in (False, True):
        try:
            run = opened(with_coded_rows(model), optimise)
            for words in feeds:
                problems += _wrong(run(words)[-1], text.matrix(words), words, text)
        except LrdiffError as problem:
            problems.append(problem.message)
        except Exception as problem:  # noqa: BLE001 - a runtime raises what it likes
            problems.append(f"onnxruntime failed on words: {first_line(problem)}")
        if problems:
            break
    known = sum(len(column.words) for column in text.columns)
    unseen = sum(len(unseen_words(column)) for column in text.columns)
    tried = f"{count(known, 'known word')} and {count(unseen, 'unseen one')} in {count(len(text.columns), 'column')}"
    return WordsReport(
        columns=len(text.columns),
        known=known,
        unseen=unseen,
        batches=tuple(sorted({len(words[-1]) for words in feeds})),
        problems=tuple(problems[:1]),
        sentence="" if problems else f"{tried} get the codes of training, exactly",
    )


def answers_no_words(data: bytes, text: TextInputs) -> bool:
    """Run a file on no rows, in a process of its own, because runtimes may crash on it."""
    none = text.split(np.zeros((0, len(text.names)), np.float32))
    folder = getattr(data, "folder", None)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, Sandbox() as sandbox:
        file = Path(folder or scratch, "no-words.onnx")
        try:
            file.write_bytes(data)
            outputs = sandbox.run(file, none)
        except (LrdiffError, OSError):
            return False
        finally:
            file.unlink(missing_ok=True)
    return all(len(one) == 0 for one in outputs)


def _feeds(text: TextInputs) -> Iterator[list[np.ndarray]]:
    """Every word of every column, all together and in small batches."""
    words = [[*column.words, *unseen_words(column)] for column in text.columns]
    most = max(map(len, words))
    places = np.arange(most)
    # Columns are turned against each other, so that no two have the same word in every row.
    texts = [
        np.array([several[(place + turn) % len(several)] for place in places], object).reshape(-1, 1)
        for turn, several in enumerate(words)
    ]
    numbers = np.random.default_rng(0).normal(size=(most, len(text.places))).astype(np.float32)
    whole = [numbers, *texts] if text.places else texts
    yield whole
    for size in BATCHES:
        for first in (0, max(most - size, 0)):
            yield [one[first : first + size] for one in whole]


def _wrong(found: np.ndarray, wanted: np.ndarray, feeds: Sequence[np.ndarray], text: TextInputs) -> Iterator[str]:
    """Say which word of which column got another code, or that numbers were changed."""
    if found.shape != wanted.shape or found.dtype != np.float32:
        yield f"the codes of words are {found.dtype} {list(found.shape)}, not float32 {list(wanted.shape)}"
        return
    words = dict(zip([column.place for column in text.columns], feeds[len(feeds) - len(text.columns) :], strict=True))
    for row, place in np.argwhere(found != wanted)[:1]:
        name = quoted(text.names[place])
        if place not in words:
            yield f"column {name} holds {found[row, place]:g}, not the {wanted[row, place]:g} that was given"
        else:
            word = str(words[place][row, 0])
            word = word if len(word) <= 40 else word[:40] + "..."
            yield f"column {name}: {quoted(word)} gets code {found[row, place]:g}, not {wanted[row, place]:g}"
