"""A search by optuna: a study whose storage lies in the grid's folder.

The folder is the truth and the study follows it: a trial is told what the records say, and one that
the storage lost is made again from the point's parameters.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import TYPE_CHECKING, Any

from engram import toml
from engram.grid.curves import Tail
from engram.grid.journal import open_study
from engram.grid.point_names import Namer
from engram.grid.proposer import Answer, Prune, finite_or_not
from engram.grid.search_table import block_of
from engram.grid.space import axes
from engram.grid.table import overridden, value_at
from engram.overrides import suggestion
from engram.table import short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial, Trial

    from engram.grid.curves import Value
    from engram.grid.points import Points
    from engram.grid.proposer import Over
    from engram.grid.search_table import SearchConfig
    from engram.paths import GridPaths

__all__ = ["Study"]

POINT = "point"  # user attribute of a trial: the name of its point
TRIES = 20
"""How often the sampler may name a point that was run already, before the others are counted."""
MOST_COUNTED = 100_000
MOST_NAME = 60  # bytes


class Study:
    """Points chosen by optuna; see engram.grid.proposer.Proposer."""

    def __init__(
        self,
        config: SearchConfig,
        *,
        base: dict[str, Any],
        points: Points,
        paths: GridPaths,
        where: str,
        parameters: str,
    ) -> None:
        """Open the study of a grid, or begin it.

        Args:
            config: what to search.
            base: the parameters of the experiment.
            points: those there are.
            paths: the grid's folder.
            where: the file of the table, for messages.
            parameters: the file of the parameters, for messages.
        """
        self.config, self.points, self.paths = config, points, paths
        self.base, self.where, self.parameters = base, where, parameters
        self.study = open_study(config, paths)
        self.axes = axes(config.space)
        self.distributions = {axis.label: axis.distribution for axis in self.axes}
        self.trials: dict[int, Trial] = {}  # unfinished, by number of the point
        self.told: dict[int, FrozenTrial] = {}  # finished
        self.reported: dict[int, int] = {}  # the last step, by number of the point
        self.tails: dict[str, Tail] = {}  # by run id
        self.pruned: set[int] = set()
        self._find_trials()
        self.known = {self._identity(self._values_of(number)) for number in range(len(points))}
        rounded = [key.path for key, one in config.space.items() if not one.kind.endswith("int")]
        self.namer = Namer([axis.key.path for axis in self.axes], rounded, points.names)

    def _find_trials(self) -> None:
        """Find the trial of each point; one that never became a point has failed."""
        from optuna.trial import Trial, TrialState

        numbers = {name: number for number, name in enumerate(self.points.names)}
        for trial in self.study.get_trials(deepcopy=False):
            number = numbers.get(trial.user_attrs.get(POINT, ""))
            if number is None:
                if trial.state == TrialState.RUNNING:
                    self.study.tell(trial.number, state=TrialState.FAIL)
            elif trial.state.is_finished():
                self.told[number] = trial
            else:
                self.trials[number] = Trial(self.study, trial._trial_id)
                self.reported[number] = max(trial.intermediate_values, default=-1)

    def _values_of(self, number: int) -> list[Any]:
        """What a point has on each axis."""
        text = self.points.parameters(number)
        parameters = toml.loads(text, where=f"the parameters of {self.points.names[number]!r}")
        return [value_at(parameters, axis.key.path) for axis in self.axes]

    def _identity(self, values: Sequence[Any]) -> str:
        """Text that only equal points share."""
        return json.dumps(values, sort_keys=True, default=repr)

    def take(self, over: Sequence[Over]) -> list[str]:
        """See Proposer."""
        from optuna.trial import TrialState

        notes = []
        for item in over:
            value, note = self._judge(item)
            state = TrialState.COMPLETE if value is not None else TrialState.FAIL
            if item.pruned:
                state = TrialState.PRUNED
            elif self.config.prunes and item.run_id and value is not None:
                self._report_rest(item.number, item.run_id)
            if self._tell(item.number, state, value) and note:
                notes.append(note)
            self.tails.pop(item.run_id or "", None)
        return notes

    def _judge(self, over: Over) -> tuple[float | None, str | None]:
        """The value of a point; where it has none, what people should know about that."""
        if over.state != "completed" or over.pruned:
            return None, None
        metric, summary = self.config.metric, finite_or_not(over.summary)
        where = f"{self.points.names[over.number]}: the search counts it as failed:"
        if metric not in summary:
            near = suggestion(metric, list(summary))
            keys = ", ".join(summary) or "nothing"
            return None, f"{where} main returned no {metric!r}{near} (it returned {keys})"
        value = summary[metric]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None, f"{where} its {metric!r} is {short(value)}, which is no number"
        if math.isnan(value):
            return None, f"{where} its {metric!r} is NaN"
        return float(value), None

    def _tell(self, number: int, state: Any, value: float | None) -> bool:  # noqa: ANN401
        """Finish a trial; False where the study has known before how it ended."""
        trial = self.trials.pop(number, None)
        if trial is not None:
            self.study.tell(trial, value, state=state)
            return True
        told = self.told.get(number)
        if told is not None and (told.state == state or value is None):
            return False
        self._make_again(number, state, value)
        return True

    def _make_again(self, number: int, state: Any, value: float | None) -> None:  # noqa: ANN401
        """Add the trial of a point that was run again, or that the storage has lost."""
        from optuna.trial import create_trial

        pairs = zip(self.axes, self._values_of(number), strict=True)
        trial = create_trial(
            state=state,
            value=value,
            params={axis.label: axis.inward(found) for axis, found in pairs},
            distributions=self.distributions,
            user_attrs={POINT: self.points.names[number]},
        )
        self.study.add_trial(trial)
        self.told[number] = trial

    def look(self, running: dict[int, str]) -> list[Prune]:
        """See Proposer."""
        found = []
        for number, run_id in running.items():
            if number in self.trials and number not in self.pruned:
                for value in self._tail(run_id).read():
                    if self._report(number, value):
                        self.pruned.add(number)
                        found.append(Prune(number, self._why(value)))
                        break
        return found

    def _why(self, value: Value) -> str:
        said = f"{self.config.metric} was {short(value.value)}"
        return f"pruned by the search at step {value.step}, where {said}"

    def _tail(self, run_id: str) -> Tail:
        if run_id not in self.tails:
            self.tails[run_id] = Tail(self.paths.run(run_id).metrics, self.config.metric)
        return self.tails[run_id]

    def _report_rest(self, number: int, run_id: str) -> None:
        """Report what a point logged last: later ones are compared with it."""
        if number in self.trials:
            for value in self._tail(run_id).read():
                self._report(number, value)

    def _report(self, number: int, value: Value) -> bool:
        """Report a value; whether the pruner would end the point."""
        if value.step <= self.reported.get(number, -1):  # of an earlier attempt
            return False
        self.reported[number] = value.step
        trial = self.trials[number]
        trial.report(value.value, value.step)
        return trial.should_prune()

    def propose(self) -> Answer:
        """See Proposer."""
        if len(self.points) >= self.config.trials:
            return Answer(ended=True)
        size = math.prod(axis.size for axis in self.axes)
        trial = None if len(self.known) >= size else (self._ask() or self._ask_left(size))
        if trial is None:
            said = f"the space holds no other point: {len(self.points)} of {self.config.trials}"
            return Answer(ended=True, notes=[f"{said} trials were made"])
        values = self._values(trial)
        path_values = {axis.key.path: value for axis, value in zip(self.axes, values, strict=True)}
        block, row = block_of(self.config), path_values
        parameters = overridden(self.base, block, row, self.where, self.parameters)
        name = self.namer.name(path_values)
        if len(name.encode()) > MOST_NAME:
            name = f"trial-{len(self.points) + 1:04d}"
        trial.set_user_attr(POINT, name)
        number = self.points.append(parameters, name)
        self.known.add(self._identity(values))
        self.trials[number] = trial
        return Answer(point=number)

    def _values(self, trial: Trial) -> list[Any]:
        return [axis.outward(trial.params[axis.label]) for axis in self.axes]

    def _ask(self) -> Trial | None:
        """A trial that is no point yet; None where the sampler names known ones only."""
        from optuna.trial import TrialState

        for _ in range(TRIES):
            trial = self.study.ask(self.distributions)
            if self._identity(self._values(trial)) not in self.known:
                return trial
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _ask_left(self, size: float) -> Trial | None:
        """A trial of a point that is left in a space small enough to be counted."""
        if size > MOST_COUNTED:
            return None
        left = []
        for inner in itertools.product(*(axis.inner_values() for axis in self.axes)):
            pairs = list(zip(self.axes, inner, strict=True))
            if self._identity([axis.outward(one) for axis, one in pairs]) not in self.known:
                left.append({axis.label: one for axis, one in pairs})
        if not left:
            return None
        chosen = random.Random(f"{self.config.seed}/{len(self.points)}").choice(left)
        self.study.enqueue_trial(chosen)
        return self.study.ask(self.distributions)
