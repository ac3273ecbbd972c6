"""Pages in HTML: one file with everything inside, and a content-security policy that lets in nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lrdiff_bench.report.json import json_ready

__all__ = ["content_policy", "fill_html", "html_page", "json_block"]


def html_page(
    template: str,
    /,
    *,
    package: str = "lrdiff_bench.report",
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    inline_styles: bool = False,
    wasm: bool = False,
    **values: Any,
) -> str:
    """Fill a template that extends ``base.html``; text from ``values`` is escaped, a missing value is an error.

    Args:
        template: its name, such as ``"report.html"``.
        package: whose ``templates`` folder holds it.
        styles: CSS, after that of ``base.css``; the page has no other.
        scripts: JavaScript modules, at the end of the page; nothing else is run.
        inline_styles: lets scripts write style attributes and elements, as chart libraries do.
        wasm: lets scripts compile WebAssembly and import modules that they made themselves.
        values: what the template names.

    Source: https://www.w3.org/TR/CSP3/
    """
    style = "\n".join([_base_css(), *styles])
    policy = content_policy([style], scripts, inline_styles=inline_styles, wasm=wasm)
    # What stands in <style> and <script> is not text: it is ours, and hashed in the policy.
    ours = {"style": Markup(style), "scripts": [Markup(script) for script in scripts]}
    return fill_html(template, package=package, policy=policy, **ours, **values).rstrip("\n") + "\n"


def fill_html(template: str, /, *, package: str = "lrdiff_bench.report", **values: Any) -> str:
    """Fill a template of a page or of a part of one; see :func:`html_page`."""
    return _environment(package).get_template(template).render(**values)


def content_policy(
    styles: Sequence[str], scripts: Sequence[str], *, inline_styles: bool = False, wasm: bool = False
) -> str:
    """The policy of a page that needs no network: what runs is named by its hash.

    Example:
        >>> content_policy([], ["let a = 1"])[:68]
        "default-src 'none'; style-src 'none'; script-src 'sha256-LAfYd7pbFUg"
    """
    style = ["'unsafe-inline'"] if inline_styles else [_hash(text) for text in styles] or ["'none'"]
    script = [_hash(text) for text in scripts] or ["'none'"]
    if wasm:
        script += ["'wasm-unsafe-eval'", "blob:"]
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {' '.join(style)}",
            f"script-src {' '.join(script)}",
            "worker-src blob:",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def json_block(value: Any) -> Markup:
    r"""``value`` as JSON for a ``<script type="application/json">``: no text in it can end the element.

    Example:
        >>> str(json_block({"name": "</script>"}))
        '{"name":"\\u003c/script>"}'
    """
    text = json.dumps(json_ready(value), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # "<" stands in JSON only inside of texts


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _base_css() -> str:
    return files("lrdiff_bench.report").joinpath("templates", "base.css").read_text("utf-8")


@cache
def _environment(package: str) -> Environment:
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, "lrdiff_bench.report"))]
    found = Environment(
        loader=ChoiceLoader(loaders),
        undefined=StrictUndefined,
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["json_block"] = json_block
    return found
