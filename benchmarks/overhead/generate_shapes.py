"""Write the names and shapes of real models' trainable parameters, from the libraries' own configurations.

Models are built on the meta device: no weights are made or loaded, nothing is downloaded. The list is data of the
package, so that nobody who measures needs these libraries. To make it again, in an environment of its own::

    python -m venv FOLDER
    FOLDER/bin/pip install torch transformers peft
    FOLDER/bin/python benchmarks/overhead/generate_shapes.py

ResNet-50, ViT-B/16, BERT-base and GPT-2 small are what transformers' configurations give without arguments. LoRA is
peft's default (rank 8) on BERT's query and value projections: only the adapters train.

The Gaussian-splatting scene has no model class: six attributes, named and shaped as gsplat's ``simple_trainer.py``
makes them (means, scales, quats, opacities, and spherical harmonics of degree 3), for one million Gaussians, the
``cap_max`` of its ``MCMCStrategy``. Each has its own rate there, which is why it belongs here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

OUT = Path(__file__).parents[2] / "bench" / "lrdiff_bench" / "measure" / "cases" / "shapes.json"
GAUSSIANS = 1_000_000


def listed(module: nn.Module) -> list[tuple[str, list[int]]]:
    """Name and shape of every parameter that trains, in the module's order."""
    return [(name, list(p.shape)) for name, p in module.named_parameters() if p.requires_grad]


def models() -> Iterable[tuple[str, str, list[tuple[str, list[int]]]]]:
    """Name, source and parameters of each model."""
    import peft
    import transformers as hf

    library = f"transformers {version('transformers')}"
    with torch.device("meta"):
        resnet = hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000))
        yield "resnet50", f"{library}, ResNetConfig()", listed(resnet)
        vit = hf.ViTForImageClassification(hf.ViTConfig(num_labels=1000))
        yield "vit_b16", f"{library}, ViTConfig()", listed(vit)
        yield "bert_base", f"{library}, BertConfig()", listed(hf.BertModel(hf.BertConfig()))
        yield "gpt2_small", f"{library}, GPT2Config()", listed(hf.GPT2LMHeadModel(hf.GPT2Config()))
        config = peft.LoraConfig(target_modules=["query", "value"])
        adapted = peft.get_peft_model(hf.BertModel(hf.BertConfig()), config)
        yield "lora_bert", f"peft {version('peft')}, LoraConfig(query, value) on BertConfig()", listed(adapted)
    scene: list[tuple[str, list[int]]] = [
        ("means", [GAUSSIANS, 3]), ("scales", [GAUSSIANS, 3]), ("quats", [GAUSSIANS, 4]), ("opacities", [GAUSSIANS]),
        ("sh0", [GAUSSIANS, 1, 3]), ("shN", [GAUSSIANS, 15, 3]),
    ]  # fmt: skip
    yield "gaussians", "gsplat's simple_trainer.py, degree 3, 1 000 000 Gaussians", scene


def write(path: Path = OUT) -> None:
    """Write all models, one parameter a line."""
    entries = []
    for name, source, parameters in models():
        lines = ",\n".join(f"      {json.dumps(entry)}" for entry in parameters)
        entries.append(
            f'    {json.dumps(name)}: {{\n      "source": {json.dumps(source)},\n'
            f'      "parameters": [\n{lines}\n      ]\n    }}'
        )
    body = ",\n".join(entries)
    path.write_text(f'{{\n  "format": "lrdiff.shapes",\n  "version": 1,\n  "models": {{\n{body}\n  }}\n}}\n', "utf-8")


if __name__ == "__main__":
    write()
    print(f"wrote {OUT}")
