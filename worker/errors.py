"""What can go wrong at a worker, as a tree. What is InvalidInput too ends a command with 2, not 1.

WorkerError
├── ConfigError             InvalidInput: the worker's TOML file or its settings
├── DataError               InvalidInput: a client's data
├── ModelError              InvalidInput: a feature extractor
├── MethodError             InvalidInput: a training method
├── ImportNotAllowed        InvalidInput: code that the site has not allowed
├── ExperimentError         InvalidInput: a grid of experiments
├── AuditError              InvalidInput: what a privacy audit was given
├── RefusedInput            InvalidInput: what a step of a demo was given
├── DownloadError           a hub did not give a backbone's weights
├── PrivateStateError       a client's private state cannot be used
│   └── StateInUse          another worker has it
├── SumRefused              a secure sum's coordinator asked for what a member must not send
├── PolicyRefused           the site's policy lets a client take no part in a round
├── PeerChanged             another client of the federation shows other keys than before
├── PeerRefused             another client's card is not the one that people named
├── RequestFailed           a request to the coordinator did not succeed
│   ├── NotSentYet          an update waits to be sent by another process
│   ├── Refused             it answered with a problem; act on its type
│   │   └── FederationFinished
│   └── Unreachable         no answer of a coordinator, or one that asks to come again
│       ├── AnswerTooLong   longer than any right answer to the request is
│       └── NoCoordinator   whoever is at the address, it is no coordinator that the site trusts
├── WeightsError            downloaded weights are not what was promised
├── ExportError             a model cannot be written in a format
├── DemoError               a step of a demo failed
├── RunFailedError          a run of an experiment failed
├── CannotTrain             a client sits this round out (worker.methods.local_round.base_method)
├── TrainingInterrupted     training was asked to stop (worker.methods.interface)
└── TrainingFailedError     a client has nothing to send (worker.methods.interface)
    └── TrainingDivergedError
"""

from __future__ import annotations

from shared.rest.declines import DeclineKind
from shared.rest.problems import Problem, ProblemType
from shared.tensors.file_header import CodecError
from shared.validation import InvalidInput


class WorkerError(Exception):
    """What the worker's own code raises."""


class DataError(WorkerError, InvalidInput):
    """Data that cannot be used: one line naming the folder or file, what was expected and found."""


class ModelError(WorkerError, InvalidInput, ValueError):
    """A feature extractor that cannot be used: one line with what was expected and found."""


class DownloadError(WorkerError):
    """A hub did not give a backbone's weights: one line with its reason."""


class ConfigError(WorkerError, InvalidInput):
    """The configuration cannot be used; the message names file and key."""


class MethodError(WorkerError, InvalidInput, ValueError):
    """A method that cannot be used: one line with the reason."""


class ImportNotAllowed(WorkerError, InvalidInput):
    """A specification names code that the site has not allowed; says the line for worker.toml."""


class ExperimentError(WorkerError, InvalidInput):
    """The experiment cannot be run or reported; the message names file and place."""


class AuditError(WorkerError, InvalidInput):
    """A federation that cannot be audited so: one line why."""


class DemoError(WorkerError):
    """A step failed; the message is its last words."""


class RefusedInput(WorkerError, InvalidInput):
    """A step did not take what the demo was given; the message is what it said."""


class PrivateStateError(WorkerError):
    """The file cannot be used as it is; it was left untouched."""


class StateInUse(PrivateStateError):
    """Another worker has the client's private state now."""


class SumRefused(WorkerError):
    """A coordinator asked for what would show more than the cohort's sum: one line why.

    Attributes:
        joined_round: where a round is refused because of one that was joined before: its number.
    """

    def __init__(self, why: str, joined_round: int | None = None) -> None:
        super().__init__(why)
        self.joined_round = joined_round


class PolicyRefused(WorkerError):
    """The site's policy lets a client take no part in a round.

    Attributes:
        rule: what the policy says; it may leave the site.
        kind: of the reason.
    """

    def __init__(self, rule: str, why: str, kind: DeclineKind = DeclineKind.POLICY) -> None:
        super().__init__(f"{rule}, and {why}")
        self.rule = rule
        self.kind = kind


class PeerChanged(WorkerError):
    """Another client shows other keys than before; the message says what to do."""


class PeerRefused(WorkerError):
    """Another client's card is not the one that people named: one line with both."""


class RequestFailed(WorkerError):
    """A request that did not succeed."""


class NotSentYet(RequestFailed):
    """This process reaches no coordinator: the update stays saved until `worker send` sends it."""


class Refused(RequestFailed):
    """The coordinator refused; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.title}: {problem.detail}")
        self.problem = problem

    def is_a(self, *kinds: ProblemType) -> bool:
        """Whether the refusal is one of these."""
        return self.problem.type in {kind.urn for kind in kinds}

    @property
    def shuts_out(self) -> bool:
        """Whether the coordinator no longer accepts this client's credential."""
        return self.is_a(ProblemType.UNAUTHENTICATED, ProblemType.FORBIDDEN)


class FederationFinished(Refused):
    """The federation has ended."""


class Unreachable(RequestFailed):
    """No coordinator answered, or it asked to come again after some seconds.

    Nothing is decided by it: whatever was asked may have been done.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class AnswerTooLong(Unreachable):
    """An answer that goes on beyond what a right one may have; the rest was not read."""


class NoCoordinator(Unreachable):
    """What answers is no coordinator, or shows a certificate that the site does not trust.

    A wrong address does not heal. A proxy's page does, so a coordinator that was found is waited
    for.
    """


class WeightsError(WorkerError):
    """The weights obtained are not those that the task names."""


class ExportError(WorkerError):
    """The model cannot be written in the format that was asked for: one line why."""


class RunFailedError(WorkerError):
    """One run failed; the message is its last words."""


FAILURES: tuple[type[Exception], ...] = (WorkerError, CodecError)
"""What ends a command of the worker with one line: bytes that are not what they should be, too."""
