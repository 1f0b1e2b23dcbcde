"""What is due when, against a loop that counts."""

from __future__ import annotations

import itertools

import pytest

from logreg_lightning.runtime.plan import LOG_EVERY, Plan

PLANS = [
    Plan(135, execution, 3, max_steps, interval)
    for execution, max_steps, interval in itertools.product((1, 7, 50, 1000), (-1, 100, 210), (None, 15, 50))
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_call_ends_at_every_step_at_which_something_is_due(plan: Plan) -> None:
    ends = set(itertools.accumulate(stop - start for start, stop in plan.calls * plan.max_epochs))
    assert max(stop - start for start, stop in plan.calls) <= min(plan.steps_per_execution, LOG_EVERY)
    run_steps = 3 * 135 if plan.max_steps == -1 else min(plan.max_steps, 3 * 135)
    assert plan.run_steps == run_steps and run_steps in ends
    counted = 0
    for step in range(1, run_steps + 1):
        counted = counted % 135 + 1
        validates = counted == 135 if plan.val_interval is None else step % plan.val_interval == 0
        due = counted in (50, 100, 135) or step == run_steps or validates
        assert plan.is_point(step) == due, step
        assert plan.is_epoch_end(step) == (counted == 135), step
        assert not due or step in ends, step
        assert plan.is_validation(step) == validates, step
        assert not validates or step in ends, step


def test_a_run_that_nothing_limits_has_no_length() -> None:
    assert Plan(135).run_steps is None
    assert Plan(0, max_epochs=3).run_steps is None
