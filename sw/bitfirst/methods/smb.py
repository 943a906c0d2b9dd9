"""Standard mini-batches with less work: what dropping batches is compared to."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from typing import Any

from ..errors import UsageError
from .method import Method
from .plan import Plan

SCHEDULES = SCALED, TRUNCATED, RAISED = "scaled", "truncated", "raised"


class SMB(Method):
    """Standard mini-batch SGD, shorter (E2-Train's baseline for `SMD` at the same work).

    work      share of ordinary training's iterations
    schedule  of the learning rate: "scaled", made for the shorter training, the honest one; "truncated", the ordinary
              one, of which the end is missing; "raised", scaled, and all rates times `factor`
    factor    None: 1 / `work`
    """

    roles = ("batches",)

    def __init__(self, work: float = 2 / 3, schedule: str = SCALED, factor: float | None = None) -> None:
        if not 0 < work <= 1:
            raise UsageError(f"work = {work}: choose a share above 0, up to 1")
        if schedule not in SCHEDULES:
            raise UsageError(f"schedule {schedule!r} is unknown: choose from {', '.join(SCHEDULES)}")
        if factor is not None and (schedule != RAISED or not 0 < factor < inf):
            raise UsageError(f"factor = {factor}: schedule='raised' alone takes one, and it must be a positive number")
        self.work, self.schedule = work, schedule
        self.factor = 1 / work if factor is None else factor
        self._planned = False

    def plan(self, plan: Plan) -> Plan:
        self._planned = True
        shorter = plan.scaled(self.work)
        if self.schedule == TRUNCATED:
            return replace(shorter, schedule=plan.schedule)
        return replace(shorter, factor=self.factor) if self.schedule == RAISED else shorter

    def loader(self, data: Iterable[Any]) -> Iterable[Any]:
        if not self._planned:
            raise UsageError("SMB says how long to train: ask its plan(Plan.of(iterations)), and train so many steps")
        return data
