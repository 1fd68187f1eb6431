"""The schedules that a branch may have: functions of the absolute step; lengths are their own."""

from __future__ import annotations

from wsdjax import schedules
from wsdjax.config.kinds import Rate, Schedule, Span, kind
from wsdjax.config.lengths import Length
from wsdjax.config.validation import number
from wsdjax.schedules.cooldowns import factor_of


@kind
class Constant(Schedule):
    """The peak, after a linear warmup over the run's first `warmup_steps` updates."""

    warmup_steps: Length = number(0, ge=0)

    called = "constant"
    endless = True

    def rate(self, span: Span) -> Rate:
        if int(self.warmup_steps) > span.end:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} is longer than the branch, which ends at "
                f"{span.end}"
            )
        return schedules.constant(span.peak, int(self.warmup_steps))


@kind
class Hold(Schedule):
    """The parent's rate at the fork, kept."""

    called = "held"
    endless = from_parents_rate = True

    def rate(self, span: Span) -> Rate:
        if not span.parent:
            raise ValueError(f"Hold keeps its parent's rate, and {span.branch} has no parent")
        return schedules.constant(span.rate_left())


@kind
class Continued(Schedule):
    """The parent's own schedule, as though there were no fork: a cooldown goes on inside."""

    called = ""
    from_parents_rate = True

    def rate(self, span: Span) -> Rate:
        if not span.inherited:
            raise ValueError(
                f"Continued goes on with its parent's, and {span.branch} has no parent"
            )
        return span.inherited


@kind
class InverseSqrt(Schedule):
    """Linear warmup over the run's first updates, then peak / sqrt(1 + t / timescale), t
    counted from there (Zhai et al.); `Cooldown` forks from it."""

    warmup_steps: Length = number(0, ge=0)
    timescale: float = number(10_000.0, gt=0)

    called = "inverse square root"
    endless = True

    def rate(self, span: Span) -> Rate:
        warmup = int(self.warmup_steps)
        return schedules.inverse_sqrt(span.peak, warmup, span.end, 0, self.timescale)


@kind
class WarmupCosine(Schedule):
    """Linear warmup over the run's first updates, then half a cosine to `end_value` at the end
    of the branch."""

    warmup_steps: Length = number(0, ge=0)
    end_value: float = number(0.0, ge=0)

    called = "warmup-cosine"
    decays = True

    def rate(self, span: Span) -> Rate:
        return schedules.warmup_cosine(span.peak, int(self.warmup_steps), span.end, self.end_value)


@kind
class Cooldown(Schedule):
    """From the parent's rate at the fork to `end_value`, over the branch's length."""

    shape: str = "linear"
    """One of `wsdjax.schedules.COOLDOWNS`, or ``"power(2)"``, ``"one_minus_power(0.3)"``,
    ``"lowered_linear(0.7)"``."""
    end_value: float = number(0.0, ge=0)

    called = "cooldown"
    from_parents_rate = decays = True

    @property
    def shape_called(self) -> str:
        return f"{self.shape} cooldown"

    def rate(self, span: Span) -> Rate:
        begin = span.rate_left() if span.parent else span.peak
        steps = span.end - span.start
        return schedules.cooldown(begin, span.start, steps, self.shape, self.end_value)

    def rate_after(self, span: Span) -> float:
        factor = factor_of(self.shape, self.end_value)
        return span.before * float(factor(1e-300, self.end_value / span.before))


@kind
class Rewarm(Schedule):
    """From the parent's rate linearly to the peak over the branch's first `warmup_steps`
    updates (0: at once), then down to `end_value` at its end (Ibrahim et al.)."""

    warmup_steps: Length = number(0, ge=0)
    shape: str = "cosine"
    end_value: float = number(0.0, ge=0)

    called = "rewarmed"
    decays = True

    def rate(self, span: Span) -> Rate:
        steps = (span.start, int(self.warmup_steps), span.end)
        return schedules.rewarm(span.before, span.peak, *steps, self.shape, self.end_value)
