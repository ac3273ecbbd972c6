"""A proven network of numbers becomes a file that takes words, and the whole file is proven again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx

from lrdiff_core.errors import CheckFailed
from lrdiff_export.model.text_inputs import TextInputs
from lrdiff_export.onnx_file.convert import Converted
from lrdiff_export.onnx_file.text_inputs import KEY, add_text_inputs
from lrdiff_export.runtimes.predictor import open_session
from lrdiff_export.verify.inputs import Battery
from lrdiff_export.verify.verify import VerificationReport, run_battery
from lrdiff_export.verify.words import answers_no_words, check_words

__all__ = ["network_bytes", "variant_with_words", "verify_words", "with_words"]


def with_words(
    network: VerificationReport,
    model: onnx.ModelProto,
    text: TextInputs,
    converted: Converted,
    battery: Battery,
    *,
    watch: Callable[[str], object] = lambda doing: None,
) -> VerificationReport:
    """Put encoders of words before a network, and prove the whole.

    Args:
        network: what was proven of it.
        model: of the network; changed in place.
        text: the columns.
        converted: what knows where its weights are.
        battery: of the module.
        watch: told what is being run.

    Returns:
        A report of the whole file, whose domain is that of the whole file.
    """
    add_text_inputs(model, text)
    return verify_words(network, model, text, converted, battery, watch=watch)


def verify_words(
    network: VerificationReport,
    model: onnx.ModelProto,
    text: TextInputs,
    converted: Converted,
    battery: Battery,
    *,
    watch: Callable[[str], object] = lambda doing: None,
) -> VerificationReport:
    """Prove a file that takes words: its codes exactly, and its answers as those of the network were.

    Args:
        network: what was proven of the network.
        model: of the whole file.
        text: what it should take.
        converted: what knows where its weights are.
        battery: of the module.
        watch: told what is being run.
    """

    def opened(one: onnx.ModelProto, optimise: bool) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
        return session_of(converted.serialised(one), optimise=optimise)

    data = converted.serialised(model)
    whole = run_battery(data, battery, text=text, watch=lambda doing: watch(f"words, {doing}"))
    if not whole.passed:
        return whole
    words = check_words(model, text, opened)
    least = 0 if network.domain.least_batch == 0 and answers_no_words(data, text) else 1
    domain = replace(text.told(whole.domain), least_batch=least)
    return replace(whole, words=words, domain=domain, problems=(*whole.problems, *words.problems))


def network_bytes(data: bytes, converted: Converted) -> bytes:
    """Return the network of a file that takes words, alone, with what the file says of itself."""
    made = onnx.ModelProto()
    made.CopyFrom(converted.model)
    said = {entry.key: entry.value for entry in onnx.ModelProto.FromString(data).metadata_props if entry.key != KEY}
    onnx.helper.set_model_props(made, said)
    found: bytes = converted.serialised(made)
    return found


def variant_with_words(data: bytes, text: TextInputs, rows: np.ndarray, *, name: str) -> bytes:
    """Put encoders of words before a variant of the network; it answers words as that does their codes, bit by bit.

    Args:
        data: of the variant.
        text: the columns.
        rows: held-out rows ``[batch, columns]``.
        name: of the variant.

    Raises:
        CheckFailed: it does not.
    """
    model = onnx.ModelProto.FromString(data)
    add_text_inputs(model, text)
    whole: bytes = model.SerializeToString(deterministic=True)
    pairs = zip(session_of(data)([rows]), session_of(whole)(text.split(rows)), strict=True)
    words = check_words(model, text, lambda one, optimise: session_of(one.SerializeToString(), optimise=optimise))
    if words.problems or any(one.tobytes() != other.tobytes() for one, other in pairs):
        raise CheckFailed(
            f"variant {name} answers words otherwise than their codes",
            help="nothing was written; leave the variant out, or export it without words",
        )
    return whole


def session_of(data: bytes, *, optimise: bool = True) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Return what runs a file on one array an input."""
    session = open_session(data, optimise=optimise)
    names = [one.name for one in session.get_inputs()]
    return lambda feeds: [np.asarray(one) for one in session.run(None, dict(zip(names, feeds, strict=True)))]
