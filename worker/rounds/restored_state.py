"""A private state that is older than what its client has sent: it must not go on by itself."""

from __future__ import annotations

from shared.rest.problems import ProblemType
from worker.errors import PrivateStateError, Refused
from worker.site.enrolled_client import EnrolledClient


def check_restored(client: EnrolledClient, refusal: Refused) -> None:
    """Raises PrivateStateError, with what to do, if a refusal is of the client's private state."""
    if not refusal.is_a(ProblemType.STATE_RESTORED):
        return
    if client.member is not None:
        raise PrivateStateError(
            f"{refusal.problem.detail}: this site's private state is from a backup, and must not "
            "answer rounds again that it has answered. To go on with new keys, which other sites "
            f"have to trust: hyperfl worker keys renew --client {client.name}"
        ) from refusal
    raise PrivateStateError(
        f"{refusal.problem.detail}: end any other worker of this client, and put its newest "
        "state_dir back. If that is lost, to go on with this one: hyperfl worker accept-backup "
        f"--client {client.name}"
    ) from refusal
