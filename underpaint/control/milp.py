"""A mixed-integer linear program, as small as allocators need it, solved by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import highspy
import numpy as np

from underpaint.errors import Internal

_PATIENCE_S = 2.0  # a program that takes longer is given up; ours take milliseconds
_OPTIONS = {"output_flag": False, "threads": 1, "mip_rel_gap": 0.0, "time_limit": _PATIENCE_S}


@dataclass
class Program:
    """Minimise Σ cost·x with 0 ≤ x ≤ upper, under linear constraints."""

    costs: list[float] = field(default_factory=list)
    uppers: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[tuple[Mapping[int, float], float, float]] = field(default_factory=list)

    def variable(self, cost: float = 0.0, upper: float = math.inf, whole: bool = False) -> int:
        """A new variable, as the number that constraints and solutions know it by."""
        self.costs.append(cost)
        self.uppers.append(upper)
        self.whole.append(whole)
        return len(self.costs) - 1

    def choice(self, costs: Sequence[float]) -> list[int]:
        """A yes or no for each option, at most one yes."""
        options = [self.variable(cost, 1, whole=True) for cost in costs]
        self.constrain(dict.fromkeys(options, 1.0), upper=1)
        return options

    def constrain(self, terms: Mapping[int, float], lower: float = -math.inf, upper: float = math.inf) -> None:
        """lower ≤ Σ factor·x ≤ upper."""
        self.rows.append((terms, lower, upper))

    def solve(self) -> list[float] | None:
        """Values of the variables, or None where no values satisfy the constraints.

        Raises:
            Internal: the solver failed, or found nothing in time.
        """
        if not self.costs:  # which HiGHS has no answer to
            return [] if all(lower <= 0 <= upper for _, lower, upper in self.rows) else None
        solver = highspy.Highs()
        for option, value in (
            ("output_flag", False),
            ("threads", 1),
            ("mip_rel_gap", 0.0),
            ("time_limit", _PATIENCE_S),
        ):
            solver.setOptionValue(option, value)
        solver.passModel(self._model())
        solver.run()
        status = solver.getModelStatus()
        if status == highspy.HighsModelStatus.kOptimal:
            return list(solver.getSolution().col_value)
        if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
            return None
        raise Internal(f"HiGHS: {solver.modelStatusToString(status)}")

    def _model(self) -> highspy.HighsLp:
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self.costs), len(self.rows)
        model.col_cost_ = np.array(self.costs)
        model.col_lower_, model.col_upper_ = np.zeros(len(self.costs)), _bounds(self.uppers)
        kinds = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
        model.integrality_ = [kinds[whole] for whole in self.whole]
        model.row_lower_ = _bounds([lower for _, lower, _ in self.rows])
        model.row_upper_ = _bounds([upper for _, _, upper in self.rows])
        terms = [row for row, _, _ in self.rows]
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = np.cumsum([0, *map(len, terms)])
        model.a_matrix_.index_ = np.array([column for row in terms for column in row])
        model.a_matrix_.value_ = np.array([factor for row in terms for factor in row.values()])
        return model


def _bounds(values: Sequence[float]) -> np.ndarray:
    return np.clip(np.array(values, dtype=float), -highspy.kHighsInf, highspy.kHighsInf)
