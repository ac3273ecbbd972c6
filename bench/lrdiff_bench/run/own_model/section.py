"""What a report says of a model of one's own where a table's words do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrdiff_bench.report.tables import label, numbers, shape

__all__ = ["own_stages"]


def own_stages(s: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name, shape, what happens, and the followed row, of each stage."""
    data, training = s["data"], s["training"]
    inputs = ", ".join(shape(one["shape"]) or "1" for one in data["inputs"])
    parts = ", ".join(f"{'?' if rows is None else rows} to {name}" for name, rows in data["split"].items())
    steps = "" if training["steps"] is None else f", {training['steps']} steps"
    stages = [
        {
            "name": "Data in",
            "shape": f"{'?' if data['rows'] is None else data['rows']} rows of {inputs}",
            "what": f"{data['source']}, for {data['own_model']}; split by {data['split_by']}: {parts}",
            "row": f"first test row: {numbers(data['sample']['values'])}, target {label(data['sample']['label'])}",
        },
        {
            "name": "Training",
            "shape": f"{sum(layer['parameters'] for layer in training['layers'])} numbers",
            "what": f"{training['optimizer']}, up to {training['epochs']} epochs of {training['batch_size']} rows a "
            f"step{steps} on {training['device']}",
            "row": ", ".join(f"{layer['name']} at {layer['rate']:.4g}" for layer in training["layers"][:6]),
        },
    ]
    if prediction := s.get("prediction"):
        stages.append({
            "name": "Prediction",
            "shape": shape(prediction["trace"][-1]["shape"]),
            "what": "answer for the same row",
            "row": f"{numbers(prediction['answer'])}; its target is {label(prediction['label'])}",
        })  # fmt: skip
    if "preprocessing" in s:
        before = s["preprocessing"]
        stages.insert(1, {
            "name": "Preprocessing", "shape": shape(before["shape_out"]), "what": before["what"],
            "row": numbers(before["sample"]),
        })  # fmt: skip
    return stages
