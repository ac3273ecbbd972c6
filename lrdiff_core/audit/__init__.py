"""Are parameters trained at the rates that were asked for? Read off weights and gradients during training.

::

    snapshot  <-  recognise  <-  asked, track, find  <-  watch  <-  words, report, causes, findings  <-  audit
"""

from lrdiff_core.audit.audit import Audit, audit
from lrdiff_core.audit.findings import KINDS
from lrdiff_core.audit.report import Finding, Report, Row

__all__ = ["KINDS", "Audit", "Finding", "Report", "Row", "audit"]
