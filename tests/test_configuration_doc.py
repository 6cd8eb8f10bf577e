"""docs/configuration.md says what the daemons take, and its commands work."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import grpc
import pytest

import coordinator.options
from agent.config import AgentConfig
from coordinator.config import CoordinatorConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def table(config: type) -> str:
    """The options of a daemon as the page must show them."""
    rows = ["| flag | TOML key | default | meaning |", "| --- | --- | --- | --- |"]
    for key, (option, field) in coordinator.options.settings(config).items():
        flag = f"{coordinator.options.flag(key)} {option.kind.metavar}".strip().replace("|", r"\|")
        default = coordinator.options.default_text(option, field)
        if not option.default and default not in ("required", "none"):
            default = f"`{default}`"
        rows.append(f"| `{flag}` | `{key}` | {default} | {option.meaning} |")
    return "\n".join(rows)


@pytest.mark.parametrize("config", [CoordinatorConfig, AgentConfig])
def test_the_page_has_the_table_of_each_daemon(config: type) -> None:
    expected = table(config)
    assert expected in PAGE.read_text(), f"docs/configuration.md should hold\n\n{expected}"


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory where the page's openssl commands have run as they stand."""
    (commands,) = re.findall(r"```sh\n(umask 077\n.*?)```", PAGE.read_text(), re.DOTALL)
    ran = subprocess.run(
        ["sh", "-eu", "-c", commands], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return tmp_path


async def peer_as(name: str, certificates: Path) -> dict[str, list[bytes]]:
    """Call a server that has the coordinator's certificate as `name`; how the server sees us."""
    seen: dict[str, list[bytes]] = {}

    async def look(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        seen.update({key: list(values) for key, values in context.auth_context().items()})
        return b""

    def read(file: str) -> bytes:
        return (certificates / file).read_bytes()

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(look)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", {"Look": handler}),))
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(read("coordinator.key"), read("coordinator.crt"))], read("ca.crt"), True
        ),
    )
    await server.start()
    credentials = grpc.ssl_channel_credentials(
        read("ca.crt"), read(f"{name}.key"), read(f"{name}.crt")
    )
    try:
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{port}", credentials, [("grpc.ssl_target_name_override", "head.example")]
        ) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/t/Look")
            await call(b"", timeout=10)
    finally:
        await server.stop(None)
    return seen


@pytest.mark.real("openssl")
@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("trn-07", b"muster://agent/trn-07"),
        ("alice", b"muster://user/alice"),
        ("carol", b"muster://admin/carol"),
    ],
)
async def test_the_pages_certificates_name_roles_over_mutual_tls(
    name: str, role: bytes, certificates: Path
) -> None:
    seen = await peer_as(name, certificates)
    assert seen["x509_subject_alternative_name"] == [role]


@pytest.fixture
def forged(certificates: Path) -> str:
    """An admin's certificate that signs itself."""
    arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=carol"
    arguments += " -addext subjectAltName=URI:muster://admin/carol -keyout x.key -out x.crt"
    subprocess.run(
        ["openssl", *arguments.split()],
        cwd=certificates,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return "x"


@pytest.mark.real("openssl")
async def test_a_certificate_that_the_authority_did_not_sign_is_refused(
    forged: str, certificates: Path
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await peer_as(forged, certificates)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
