"""What this host lets a node have, asked before anything of it is touched.

Lays the host's own answers over what the coordinator asked for by name: policy, resolved paths,
secrets, registry logins, GPUs. Must not import an engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from agent.core.assignment import ContainerSpec
from agent.policy import NotAllowed, Policy
from agent.secret_store import SecretError, SecretStore


class NotAdmitted(Exception):
    """This host will not, or cannot, run it. The text names the rule and the host, and is what a
    user reads as the reason of the host's vote against."""


class Admission(Protocol):
    """The daemon's view: see `HostAdmission`."""

    def admit(self, spec: ContainerSpec) -> ContainerSpec:
        """The specification that an engine may be given. Raises NotAdmitted. Reads files that an
        operator may change at any time, and may therefore answer otherwise the next time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAdmission:
    """One host's. A host runs one container at a time, so all of its GPUs are free for it."""

    host_id: str
    policy: Policy
    secrets: SecretStore
    vcpus: int
    memory_mib: int
    gpus: tuple[str, ...]

    def admit(self, spec: ContainerSpec) -> ContainerSpec:
        """See `Admission`."""
        self._check_size(spec)
        try:
            spec = self.policy.admit(spec)
        except NotAllowed as error:
            raise NotAdmitted(
                f"MusterPolicyError: host {self.host_id} does not allow {error}"
            ) from error
        except (OSError, RuntimeError) as error:
            raise NotAdmitted(f"CannotCreateContainerError: {self.host_id}: {error}") from error
        try:
            secrets = {secret.name: self.secrets.value(secret.key) for secret in spec.secrets}
            login = self.secrets.login(spec.credential) if spec.credential is not None else None
        except SecretError as error:
            # ECS's name for it.
            raise NotAdmitted(
                f"ResourceInitializationError: host {self.host_id}: {error}"
            ) from error
        # A secret wins over a plain variable of its name, as in ECS.
        kept = [pair for pair in spec.environment if pair[0] not in secrets]
        return replace(
            spec,
            environment=(*kept, *secrets.items(), *self._gpu_variables(spec)),
            gpu_ids=self.gpus[: spec.gpus],
            login=login,
        )

    def _check_size(self, spec: ContainerSpec) -> None:
        for name, asked, has in (
            ("vCPUs", spec.vcpus, self.vcpus),
            ("MiB of memory", spec.memory_mib, self.memory_mib),
            ("GPUs", spec.gpus, len(self.gpus)),
        ):
            if asked > has:
                raise NotAdmitted(
                    f"MusterResourceError: host {self.host_id} has {has} {name}, "
                    f"the node needs {asked}"
                )

    def _gpu_variables(self, spec: ContainerSpec) -> list[tuple[str, str]]:
        """Where the NVIDIA runtime is the engine's default, this variable decides which GPUs a
        container sees, and without it an image's own does."""
        if not self.gpus:
            return []
        return [("NVIDIA_VISIBLE_DEVICES", ",".join(self.gpus[: spec.gpus]) or "void")]
