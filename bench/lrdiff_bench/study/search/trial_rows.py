"""Many trials of a storage of Optuna's in one transaction: putting them in, claiming them, telling their results.

Optuna's own calls take one transaction and some milliseconds for each trial, and a study has thousands: most of a
study of small networks was spent there. The tables are Optuna's, read from the database; what is written is what its
own calls would have written, as a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = ["TrialRows"]

_AT_ONCE = 500  # SQLite limits the variables of a statement


class TrialRows:
    """The tables of trials of one storage.

    Args:
        storage: an ``optuna.storages.RDBStorage``.
    """

    def __init__(self, storage: Any) -> None:
        import sqlalchemy

        self._sql, self._engine = sqlalchemy, storage.engine
        metadata = sqlalchemy.MetaData()
        names = ("studies", "trials", "trial_params", "trial_user_attributes", "trial_values")
        metadata.reflect(self._engine, only=names)
        self._studies, self._trials, self._params, self._attributes, self._values = (
            metadata.tables[name] for name in names
        )

    def count(self, study_id: int) -> int:
        """How many trials a study has, without reading them."""
        sql, table = self._sql, self._trials
        with self._engine.connect() as connection:
            wanted = sql.select(sql.func.count()).select_from(table).where(table.c.study_id == study_id)
            return int(connection.execute(wanted).scalar_one())

    def add(
        self, study_id: int, trials: Sequence[tuple[Mapping[str, float], str, Mapping[str, Any]]], *, once: str
    ) -> None:
        """Put in trials that wait: parameters, their distribution as JSON, and user attributes.

        Args:
            study_id: of the study.
            trials: to be put in.
            once: an attribute; what another process has put in meanwhile with the same value, and has not failed, is
                not put in again.
        """
        sql, table = self._sql, self._trials
        with self._begin() as connection:
            # Optuna's own lock: numbers are counted, and two processes must not count the same
            connection.execute(
                sql.select(self._studies.c.study_id).where(self._studies.c.study_id == study_id).with_for_update()
            )
            mine = table.c.study_id == study_id
            there = self._values_of(connection, study_id, once, [own[once] for _, _, own in trials])
            trials = [one for one in trials if one[2][once] not in there]
            if not trials:
                return
            first = connection.execute(sql.select(sql.func.count()).select_from(table).where(mine)).scalar_one()
            numbers = range(first, first + len(trials))
            connection.execute(
                sql.insert(table), [{"study_id": study_id, "number": n, "state": "WAITING"} for n in numbers]
            )
            found = connection.execute(
                sql.select(table.c.trial_id).where(mine, table.c.number >= first).order_by(table.c.number)
            )
            pairs = list(zip(found.scalars(), trials, strict=True))
            params = [
                {"trial_id": id, "param_name": name, "param_value": value, "distribution_json": distribution}
                for id, (parameters, distribution, _) in pairs
                for name, value in parameters.items()
            ]
            if params:
                connection.execute(sql.insert(self._params), params)
            connection.execute(
                sql.insert(self._attributes),
                [_attribute(id, key, value) for id, (_, _, own) in pairs for key, value in own.items()],
            )

    def _values_of(self, connection: Any, study_id: int, key: str, wanted: Sequence[str]) -> set[str]:
        """Which of these values an attribute has among the trials of a study that have not failed."""
        trials, attributes, found = self._trials, self._attributes, set()
        both = attributes.join(trials, trials.c.trial_id == attributes.c.trial_id)
        for start in range(0, len(wanted), _AT_ONCE):
            some = [json.dumps(value) for value in wanted[start : start + _AT_ONCE]]
            where = (
                trials.c.study_id == study_id,
                trials.c.state != "FAIL",
                attributes.c.key == key,
                attributes.c.value_json.in_(some),
            )
            read = self._sql.select(attributes.c.value_json).select_from(both).where(*where)
            found |= {json.loads(value) for value in connection.execute(read).scalars()}
        return found

    def claim(self, ids: Sequence[int]) -> set[int]:
        """Put waiting trials to RUNNING; the ids of those that nobody else had claimed."""
        with self._begin() as connection:
            won = self._in_state(connection, ids, ("WAITING",))
            self._set(connection, won, state="RUNNING", datetime_start=_now())
        return set(won)

    def complete(self, results: Mapping[int, tuple[float, str, Any]]) -> None:
        """Finish trials with a value and one user attribute; those that are finished already stay as they are."""
        with self._begin() as connection:
            ids = self._in_state(connection, list(results), ("RUNNING", "WAITING"))
            if ids:
                connection.execute(self._sql.insert(self._attributes), [_attribute(id, *results[id][1:]) for id in ids])
                connection.execute(self._sql.insert(self._values), [_value(id, results[id][0]) for id in ids])
                self._set(connection, ids, state="COMPLETE", datetime_complete=_now())

    def _begin(self) -> Any:
        return self._engine.begin()

    def _in_state(self, connection: Any, ids: Sequence[int], states: Sequence[str]) -> list[int]:
        found: list[int] = []
        for start in range(0, len(ids), _AT_ONCE):
            table = self._trials
            wanted = table.c.trial_id.in_(ids[start : start + _AT_ONCE]), table.c.state.in_(states)
            found += connection.execute(self._sql.select(table.c.trial_id).where(*wanted).with_for_update()).scalars()
        return found

    def _set(self, connection: Any, ids: Sequence[int], **values: Any) -> None:
        for start in range(0, len(ids), _AT_ONCE):
            wanted = self._trials.c.trial_id.in_(ids[start : start + _AT_ONCE])
            connection.execute(self._sql.update(self._trials).where(wanted).values(**values))


def _attribute(id: int, key: str, value: Any) -> dict[str, Any]:
    return {"trial_id": id, "key": key, "value_json": json.dumps(value)}


def _value(id: int, value: float) -> dict[str, Any]:
    kind = {float("inf"): "INF_POS", float("-inf"): "INF_NEG"}.get(value, "FINITE")
    return {"trial_id": id, "objective": 0, "value": value if kind == "FINITE" else None, "value_type": kind}


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
