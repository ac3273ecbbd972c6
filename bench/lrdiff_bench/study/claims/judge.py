"""What finished studies say of a claim: the verdict of its own scheme, beside what its source would have one expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrdiff_bench.stats.gain import Gain, holm
from lrdiff_bench.study.analysis.document import gain_from
from lrdiff_bench.study.claims.claim import Claim
from lrdiff_core.errors import ConfigError
from lrdiff_core.text import nearest

__all__ = ["Finding", "judge"]

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim in one study.

    Attributes:
        claim: that is judged.
        study: that judges it.
        document: of the study; None while it is not finished.
        gain: of the claim's scheme over the tuned single rate, its verdict corrected over all claims that are judged.
    """

    claim: Claim
    study: str
    document: Document | None = None
    gain: Gain | None = None

    @property
    def outcome(self) -> str:
        """``"as claimed"``, ``"not as claimed"``, ``"in part"``, ``"open"``, or ``"not run"``.

        In part: HELPS was claimed, and the verdict is HELPS ON AVERAGE or HELPS BUT DIVERGES.
        """
        if self.gain is None:
            return "not run"
        verdict = str(self.gain.verdict)
        if verdict == self.claim.expects:
            return "as claimed"
        if verdict == "INCONCLUSIVE":
            return "open"
        return "in part" if verdict.startswith(self.claim.expects) else "not as claimed"


def judge(claims: Sequence[Claim], documents: Mapping[str, Document]) -> list[Finding]:
    """Judge claims by the studies that are finished.

    Two claims about one scheme of one study are one comparison: the family of Holm's correction has it once.

    Args:
        claims: one finding for each of their studies.
        documents: of finished studies, by name.

    Raises:
        ConfigError: a study has no such scheme.
    """
    family: dict[str, Gain] = {}
    for claim in claims:
        for study in claim.studies:
            if study in documents:
                family[f"{study} / {claim.scheme}"] = _gain(documents[study], claim)
    corrected = holm(family) if family else {}
    return [
        Finding(
            claim=claim, study=study, document=documents.get(study), gain=corrected.get(f"{study} / {claim.scheme}")
        )
        for claim in claims
        for study in claim.studies
    ]


def _gain(document: Document, claim: Claim) -> Gain:
    schemes = {one["name"]: one["gain"] for one in document["schemes"] if one["gain"] is not None}
    if claim.scheme not in schemes:
        raise ConfigError(
            f'claim "{claim.name}": study {document["name"]} has no scheme "{claim.scheme}"',
            help=nearest(claim.scheme, sorted(schemes), "schemes", most=40),
        )
    return gain_from(schemes[claim.scheme])
