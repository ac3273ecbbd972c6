"""From what was seen to findings: each cause is reported once, for all parameters it touches, with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lrdiff_core.audit.asked import base_rate, of_groups
from lrdiff_core.audit.causes import causes
from lrdiff_core.audit.report import Finding, Report, Row
from lrdiff_core.audit.step_findings import step_findings
from lrdiff_core.audit.stepper import Stepper, unwrapped
from lrdiff_core.audit.track import Track
from lrdiff_core.audit.watch import Watch
from lrdiff_core.audit.words import few, numbers
from lrdiff_core.text import count

__all__ = ["KINDS", "report_of"]

KINDS = {
    "no-step": "no optimizer stepped",
    "other-optimizer": "another optimizer trains the model than the one that was asked about",
    "strange-parameters": "an optimizer holds tensors that are not the model's any more",
    "twice": "two optimizers take turns on the same parameters",
    "groups-lost": "parameters that were asked to learn at several rates all learn at one",
    "scaled": "all rates are the asked ones times a constant",
    "lr-scale": "groups carry a factor (timm's lr_scale) that is never applied",
    "loaded": "rates changed when a state was loaded",
    "swapped": "groups hold each other's rates",
    "warm-up": "a warm-up moves some groups only",
    "ratio": "the schedule does not keep the ratios between rates",
    "schedule": "the rates do not follow the schedule",
    "rate": "a group's rate is not the asked one",
    "late": "rates are those of the step before",
    "rate-zero": "all rates are 0",
    "applied": "the optimizer moves parameters at another rate than their group says",
    "rule": "the steps are not those of the rule that the optimizer is named after",
    "hidden": "steps are too small to change weights of this dtype",
    "decay": "the weight decay is not the asked one",
    "decay-twice": "the weight decay is applied twice",
    "decay-lost": "the weight decay is not applied",
    "decay-everywhere": "parameters that should not decay do",
    "no-group": "a trainable parameter is in no optimizer that stepped",
    "never-updated": "a trainable parameter never moved",
    "frozen-moves": "a frozen parameter moves",
    "not-frozen": "the plan freezes a parameter that the model trains, or the other way round",
    "untied": "names that were one tensor are several",
    "not-in-plan": "the plan and the model have different names",
    "outside": "parameters move between steps, by no optimizer's step",
}


def report_of(watch: Watch) -> Report:
    """The report of a watch, finished or not."""
    steppers = [one for one in watch.steppers if one.steps]
    parts = (_who_steps, _plan, _groups, step_findings, _standing) if steppers else (_who_steps,)
    findings = [found for part in parts for found in part(watch)]
    factors = [one.declared[-1].factors for one in steppers if one.declared]
    factors = [(low, high) for low, high in factors if low <= high]
    labels: dict[str, int] = {}  # of many optimizers of one class (one a parameter) the most steps
    for stepper in steppers:
        labels[stepper.label] = max(labels.get(stepper.label, 0), stepper.steps)
    return Report(
        rows=[_row(watch, info.name, findings) for info in watch.infos],
        findings=sorted(findings, key=lambda finding: finding.note),
        optimizers=labels,
        looks=max((track.looks for track in watch.tracks.values()), default=0),
        factor=(min(low for low, _ in factors), max(high for _, high in factors)) if factors else None,
    )


def _row(watch: Watch, name: str, findings: Sequence[Finding]) -> Row:
    track = watch.tracks[name]
    asked = track.asked or watch.asked.get(name)
    own = [one for one in findings if name in one.parameters and not one.note]
    ends = [one.until for one in own]
    stepper = next(iter(track.steppers), None)
    return Row(
        name=name,
        asked=None if asked is None else asked.rate,
        applied=0.0 if not track.moved and track.looks else track.rate,
        decay=None if asked is None else asked.decay,
        decay_applied=track.decay,
        rule=track.rule,
        size=track.size,
        optimizer=None if stepper is None else watch.steppers[stepper].label,
        since=min((one.since for one in own if one.since is not None), default=None),
        until=max(end or 0 for end in ends) if ends and None not in ends else None,
        differs=bool(own),
        frozen=not (track.trainable or track.wanted or track.learnt),
    )


# -- who steps ---------------------------------------------------------------------------------------------------------


def _who_steps(watch: Watch) -> Iterator[Finding]:
    stepped = [one for one in watch.steppers if one.steps]
    given = [unwrapped(one) for one in watch.optimizers]
    if not stepped:
        yield Finding(kind="no-step", text="no optimizer stepped", help="train inside of the `with` block")
        return
    mine = {id(one) for one in (*given, *watch.optimizers)}
    others = [one for one in stepped if one.ids & watch.names.keys()]
    if watch.optimizers and not any(id(one.optimizer) in mine for one in stepped):
        names = ", ".join(type(one).__name__ for one in given)
        by = ", ".join(dict.fromkeys(map(_described, others or stepped)))
        yield Finding(
            kind="other-optimizer",
            text=f"the {names} that was asked about never stepped; the model is trained by {by}",
            help="hand your optimizer to the trainer (optimizers=, configure_optimizers), and take its own out",
            parameters=tuple(watch.names[i] for one in others for i in one.ids if i in watch.names),
            since=1,
        )
    yield from _idle(watch, others)
    forgotten = _in_no_group(watch)
    for stepper in stepped:
        if strange := len(stepper.ids - watch.names.keys()):
            yield Finding(
                kind="strange-parameters",
                text=f"{stepper.label} holds {count(strange, 'tensor')} that the model does not have",
                help="make the optimizer after the model has its last form (converted, wrapped, adapters, heads)",
                note=not forgotten,
            )
    for a, b in sorted(watch.twice):
        one, other = watch.steppers[a], watch.steppers[b]
        shared = tuple(watch.names[i] for i in one.ids & other.ids if i in watch.names)
        yield Finding(
            kind="twice",
            text=f"{one.label} and {other.label} take turns on {few(shared)}",
            help="give each parameter to one optimizer",
            parameters=shared,
        )


def _idle(watch: Watch, steppers: Sequence[Stepper]) -> Iterator[Finding]:
    """Optimizers that were made for the same parameters with other rates, and never stepped."""
    stepped = {id(one.optimizer) for one in steppers}
    for optimizer in watch.others:
        if stepped & {id(optimizer), id(unwrapped(optimizer))}:
            continue
        asked = of_groups(optimizer.param_groups, watch.names)
        if not any(asked[name].rate != watch.asked[name].rate for name in asked if name in watch.asked):
            continue
        bases = [base_rate(group) for group in optimizer.param_groups]
        by = ", ".join(dict.fromkeys(map(_described, steppers)))
        yield Finding(
            kind="other-optimizer",
            text=f"{type(optimizer).__name__} ({count(len(bases), 'group')}, {numbers(bases)}) never stepped; its "
            f"parameters are trained by {by}",
            help="hand your optimizer to the trainer (optimizers=, configure_optimizers), and take its own out",
            parameters=tuple(asked),
            since=1,
        )


def _described(stepper: Stepper) -> str:
    rates = stepper.declared[0].bases if stepper.declared else ()
    return f"{stepper.label} ({count(len(rates), 'group')}, {numbers(rates)})"


def _in_no_group(watch: Watch) -> list[str]:
    """Names that want a gradient and are in no optimizer that stepped."""
    held = {i for one in watch.steppers if one.steps for i in one.ids}
    wanting = (info for info in watch.infos if info.parameter.requires_grad and info.parameter.numel())
    return [info.name for info in wanting if id(info.parameter) not in held]


# -- what was planned --------------------------------------------------------------------------------------------------


def _plan(watch: Watch) -> Iterator[Finding]:
    if not watch.planned_names:
        return
    here, tied = {info.name: info for info in watch.infos}, {name for info in watch.infos for name in info.tied}
    help = "make the plan for the model in the form that is trained"
    gone = tuple(name for name in watch.planned_names if name not in here and name not in tied)
    if gone:
        what = f"the plan names {few(sorted(gone))}, which the model does not have"
        yield Finding(kind="not-in-plan", text=what, help=help, parameters=gone)
    were_tied = {name for asked in watch.asked.values() for name in asked.tied}
    new = tuple(name for name in here if name not in watch.planned_names and name not in were_tied)
    if new:
        what = f"the plan does not name {few(new)}: taken as the groups say"
        yield Finding(kind="not-in-plan", text=what, help=help, parameters=new, note=True)
    for name in here:
        loose = tuple(other for other in watch.asked[name].tied if other in here) if name in watch.asked else ()
        if loose:
            yield Finding(
                kind="untied",
                text=f"{name} and {few(loose)} were one tensor when the plan was made, and are not any more",
                help="tie them again (model.tie_weights()) after loading, copying or sharding",
                parameters=(name, *loose),
            )
    planned = [name for name in here if name in watch.planned_names]
    trained = tuple(name for name in planned if watch.asked[name].frozen and watch.tracks[name].wanted)
    if trained:
        yield Finding(
            kind="not-frozen",
            text=f"the plan freezes {few(trained)}, and the model trains {'it' if len(trained) == 1 else 'them'}",
            help="call plan.apply_freeze() before the optimizer is made",
            parameters=trained,
            since=1,
        )
    idle = [name for name in planned if not watch.asked[name].frozen and not watch.tracks[name].learnt]
    idle = [name for name in idle if not here[name].parameter.requires_grad]
    if idle:
        yield Finding(
            kind="not-frozen",
            text=f"the plan trains {few(idle)}, and the model has {'it' if len(idle) == 1 else 'them'} frozen",
            help="set requires_grad, or let the plan freeze it",
            parameters=tuple(idle),
            since=1,
        )


# -- what the groups say -----------------------------------------------------------------------------------------------


def _groups(watch: Watch) -> Iterator[Finding]:
    given = {id(unwrapped(one)) for one in watch.optimizers}
    for stepper in watch.steppers:
        note = not watch.planned_names and (not given or id(stepper.optimizer) in given)
        for declared in stepper.declared if stepper.steps else ():
            yield from causes(stepper, declared, note=note)


# -- what did not happen -----------------------------------------------------------------------------------------------


def _standing(watch: Watch) -> Iterator[Finding]:
    forgotten = set(_in_no_group(watch))
    alike: dict[tuple[str, str, str, bool], list[str]] = {}
    for info in watch.infos:
        track, reason = watch.tracks[info.name], None
        if not (info.parameter.requires_grad or track.wanted or track.learnt):
            if track.moved and "frozen" not in track.marks:
                help = "right for averages and target networks; else look for who writes to it"
                reason = "outside", "frozen, and moved by no optimizer's step", help, True
        elif info.name in forgotten:
            way = "moved, by no optimizer's step" if track.moved else "never moved"
            reached = "" if track.reached else ", and no gradient reaches it"
            reason = "no-group", f"in no optimizer that stepped{reached}; {way}", _NO_GROUP, not track.reached
        elif track.looks and not track.moved and "hidden" not in track.marks:
            reason = _why_still(track)
        if reason is not None:
            alike.setdefault(reason, []).append(info.name)
    for (kind, what, help, note), names in alike.items():
        yield Finding(kind=kind, text=f"{few(names)}: {what}", help=help, parameters=tuple(names), note=note)


_NO_GROUP = "add it to a group, or freeze it (requires_grad_(False)); later heads and adapters are easily forgotten"


def _why_still(track: Track) -> tuple[str, str, str, bool]:
    why, help, note = "though a gradient reached it", "look at the optimizer's step", False
    if track.blind == track.looks:
        why, help = "for no gradient reached it", "is it used in forward, and not detached?"
    elif track.blind + track.flat == track.looks:
        why, help, note = "for its gradient is 0", "a dead or unused part, or a loss that does not need it", True
    elif not track.declared:
        why, help = "for its rate is 0", "look at the scheduler"
    return "never-updated", f"never moved, {why}", help, note
