"""How to make the workloads that a command line asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrdiff_core.errors import ConfigError

__all__ = ["sources_of"]

# Clark et al. 2020 (0.8), Bao et al. 2021 (0.65 to 0.95), Howard and Ruder 2018 (1/2.6).
DECAYS: dict[str, Any] = {"0.8": 0.8, "0.95": 0.95, "1/2.6": 1 / 2.6, "tuned": [0.3, 1.5]}


def sources_of(targets: Sequence[str], every: bool, own: dict[str, Any]) -> list[dict[str, Any]]:
    """How to make each workload that was asked for."""
    from lrdiff_bench.study.own_training import workload_named
    from lrdiff_bench.study.settings import COMMAND_LINE, check_study_settings, load_study_settings
    from lrdiff_bench.study.workloads.registry import make_workload, workload_names

    if every and (targets or own):
        raise ConfigError("--all was given together with something else to study", help="leave one of the two out")
    if targets and own:
        raise ConfigError(
            "a workload or file was given together with --model, --data or --groups",
            help="put all of it into the TOML file",
        )
    if every:
        return [{"kind": "workload", "name": name} for name in workload_names() if not make_workload(name).fetched]
    if own:
        checked = check_study_settings(_own_settings(own), where=COMMAND_LINE)
        return [
            {
                "kind": "claim",
                "settings": checked.model_dump(mode="json", exclude_unset=True),
                "where": COMMAND_LINE,
            }
        ]
    sources: list[dict[str, Any]] = []
    for target in targets:
        if target.endswith(".toml") or Path(target).is_file():
            settings = load_study_settings(Path(target)).model_dump(mode="json", exclude_unset=True)
            sources.append({"kind": "claim", "settings": settings, "where": Path(target).name})
        else:
            workload_named(target)
            sources.append({"kind": "workload", "name": target})
    return sources


def _own_settings(own: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in own.items() if key not in ("groups", "layer_decay")}
    if own.get("layer_decay"):
        settings["schemes"] = [{"name": f"layer decay {name}", "layer_decay": decay} for name, decay in DECAYS.items()]
    if "groups" in own:
        groups: dict[str, Any] = {}
        for part in str(own["groups"]).split(","):
            name, equals, pattern = part.partition("=")
            if not (equals and name.strip() and pattern.strip()):
                raise ConfigError(
                    f'--groups has "{part}"', help="write NAME=PATTERN,NAME=PATTERN, such as body=layer1.*,head=fc"
                )
            groups.setdefault(name.strip(), []).append(pattern.strip())
        settings["groups"] = groups
    from lrdiff_core.config import name_from

    stem = str(own.get("model") or own.get("data") or "own").rpartition(":")[2]
    settings["name"] = name_from(Path(stem).stem).replace(".", "-")[:60]
    return settings
