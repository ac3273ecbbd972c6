"""Stage 7 on the screen: what each way to set rates ends with, the loss by epoch, and what differential rates gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from lrdiff_bench.report import gains
from lrdiff_bench.report.tables import interval, line, number, plain_table
from lrdiff_bench.run.compare.chosen_rates import inline_rates
from lrdiff_bench.run.own_model.screen import draw_price

__all__ = ["curves_of", "draw_comparison"]

SHOWN_EPOCHS = 10  # evenly spaced
Section = Mapping[str, Any]


def draw_comparison(console: Console, s: Section) -> None:
    """Draw the comparison with single rates: a row a scheme, then the verdict."""
    if "skipped" in s:
        line(console, f"not compared: {s['skipped']}", "yellow")
        return
    plan = s["plan"]
    table = plain_table("scheme", "rates", "trials", "train", "test", "95 %", "score")
    for scheme in s["schemes"]:
        median, low, high = scheme["final"]
        table.add_row(
            scheme["name"],
            short_rates(scheme["rates_text"]) + ("*" if scheme["other_rates"] else ""),
            str(scheme["trials"]),
            number(scheme["train_loss"][-1][0]),
            number(median),
            interval(low, high, ".2f"),
            number(scheme["score"]),
        )
    console.print(table)
    line(
        console,
        f"loss after the {'best' if s.get('patience') else 'last'} epoch and test score, medians over "
        f"{plan['searches']} x {plan['report_seeds']} fresh seeds; every scheme gets the same rows, order and initial "
        "weights",
    )
    if said := how_compared(s):
        line(console, said)
    for scheme in s["schemes"]:
        if scheme["other_rates"]:
            others = ", ".join(f"{short_rates(rates)} in {count}" for rates, count in scheme["other_rates"].items())
            line(
                console, f"* {scheme['name']}: chosen in {scheme['searches']} of {plan['searches']} searches; {others}"
            )
    lost = [f"{x['name']} {gains.percent(x['diverged'])}" for x in s["schemes"] if x["diverged"]]
    if lost:
        line(console, f"runs that diverged: {', '.join(lost)}", "yellow")
    if s["void"]:
        line(console, f"{s['void']}: give wider rates as sweep in [compare]", "yellow")
    if "price" in s:
        draw_price(console, s["price"])
    console.print()
    _draw_loss_by_epoch(console, s)
    console.print()
    for name, gain in s["gains"].items():
        text = f"{name} against tuned single: {gains.verdict_text(gain)}"
        line(console, text, f"bold {gains.TERMINAL_COLORS[gain['verdict']]}")
        line(console, gains.beside(gain), "dim")
    if chosen := s.get("chosen"):
        line(console, f"trained next: {chosen['scheme']}; to keep these rates: {inline_rates(chosen['rates'])}", "bold")
    line(
        console,
        f"gain in test loss, mean over {plan['searches']} searches of the interquartile mean over "
        f"{plan['report_seeds']} fresh seeds each, with 95 % interval; positive where differential rates are better; "
        f"{s['smallest_difference']:g} is the smallest difference that matters",
    )


def how_compared(s: Section) -> str:
    """On what rates were compared, where that is not what the run trains on."""
    if "chosen" not in s:
        return ""
    rows = "all rows" if s["rows"] is None else f"{s['rows']} rows"  # a stream does not say how many it has
    found = [f"compared before the training, by splits of {rows} without the run's test rows"]
    found.append(f"up to {len(s['schemes'][0]['test_loss'])} epochs a training")
    if s["one_by_one"]:
        found.append(f"one training after the other: a population has no {s['one_by_one']}")
    return "; ".join(found)


def curves_of(s: Section) -> list[tuple[str, str, Sequence[Sequence[float | None]]]]:
    """Name, rates and test loss by epoch of every scheme; one that always chose the rates of another is left out."""
    curves: dict[str, tuple[str, str, Any]] = {}
    for scheme in s["schemes"]:
        rates = short_rates(scheme["rates_text"])
        key = f"{rates} and others" if scheme["other_rates"] else rates
        curves.setdefault(key, (scheme["name"], rates, scheme["test_loss"]))
    return list(curves.values())


def short_rates(text: str) -> str:
    """Shorten a list of many rates to its first and last."""
    parts = text.split(" / ")
    return text if len(parts) <= 2 else f"{parts[0]} / .. / {parts[-1]}"


def _draw_loss_by_epoch(console: Console, s: Section) -> None:
    curves = curves_of(s)
    table = plain_table(
        "epoch", *(name if name.startswith(("single", "tuned")) else rates for name, rates, _ in curves)
    )
    last = len(curves[0][2]) - 1
    for epoch in sorted({round(one * last / (SHOWN_EPOCHS - 1)) for one in range(SHOWN_EPOCHS)}):
        bands = [bands[epoch] for _, _, bands in curves]
        table.add_row(
            str(epoch + 1), *(f"{number(median, '.2f')} {interval(low, high, '.2f')}" for median, low, high in bands)
        )
    kept = " of the weights kept so far" if s.get("patience") else ""
    line(console, f"test loss by epoch{kept}: median [95 %]", "dim")
    console.print(table)
