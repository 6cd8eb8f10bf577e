"""`muster hosts`: the machines of the cluster, and an operator's words about them."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence

from cli.arguments import Parser
from cli.connect import ANSWER_SECONDS, Coordinator, coordinator
from cli.failure import ExitCode, Failure
from cli.table import Style, ago, fields, now_ms, plain, rows
from muster.v1.host_service_pb2 import (
    DescribeHostsRequest,
    DrainHostRequest,
    DrainHostResponse,
    FenceHostRequest,
    FenceHostResponse,
    ForgetHostRequest,
    Host,
    HostState,
    ListHostsRequest,
    ListHostsResponse,
    ResumeHostRequest,
    ResumeHostResponse,
)

_HEADERS = ("HOST", "STATE", "NODE", "ADDRESS", "TYPE", "VCPUS", "MIB", "GPUS", "ENGINE", "SEEN")
_SPARED = ("TYPE", "ENGINE", "GPUS", "MIB", "VCPUS", "ADDRESS")
"""Where a terminal is too narrow, in this order; `muster hosts describe` has them."""


def arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="all hosts (the default)")
    describe = actions.add_parser("describe", help="hosts in full")
    describe.add_argument("hosts", nargs="+", metavar="HOST")
    drain = actions.add_parser(
        "drain",
        help="give a host no new work; what it runs goes on",
        description="Give a host no new work. What it runs goes on. `muster hosts resume HOST` "
        "ends it.",
    )
    drain.add_argument("host", metavar="HOST")
    drain.add_argument("--reason", default="", help="shown with the host")
    resume = actions.add_parser(
        "resume",
        help="end a drain, or a quarantine if it is clean again",
        description="End a drain; and have the agent of a QUARANTINED host look again whether it "
        "is clean.",
    )
    resume.add_argument("host", metavar="HOST")
    fence = actions.add_parser(
        "fence",
        help="vouch that nothing runs any more on a host that is LOST or STOPPED",
        description="Vouch that nothing runs any more on a host that is LOST or STOPPED. What ran "
        "there counts as failed at once, and its job may start elsewhere. Look first that the "
        "machine is off: if it lives, two attempts of the job run until its agent is back.",
    )
    fence.add_argument("host", metavar="HOST")
    forget = actions.add_parser(
        "forget",
        help="take a host that will not come back off the list",
        description="Take a host that will not come back off the list. It is refused while its "
        "agent is connected and while something may run there; `muster hosts fence HOST` comes "
        "before it then. An agent that calls again makes it a new host, which is not drained.",
    )
    forget.add_argument("host", metavar="HOST")


async def run(args: argparse.Namespace) -> int:
    async with coordinator(args) as there:
        match args.action:
            case "describe":
                return await _describe(there, args)
            case "drain" | "resume" | "fence":
                return await _change(there, args)
            case "forget":
                request = ForgetHostRequest(host_id=args.host)
                await there.hosts.ForgetHost(request, timeout=ANSWER_SECONDS)
                print(f"forgot host {args.host}")
                return 0
        reply = await _all(there)
    if args.output == "json":
        from cli.jsonout import show

        show(reply)
    else:
        if reply.notice:
            print(f"muster: {reply.notice}", file=sys.stderr)
        print("\n".join(_table(reply, Style.of(sys.stdout))))
        sys.stdout.flush()
        for agent in reply.refused:
            who = f"{plain(agent.host_id)} ({plain(agent.private_ipv4_address)})"
            when, why = ago(agent.at, now_ms()), plain(agent.reason)
            print(f"muster: the agent {who} was refused {when}: {why}", file=sys.stderr)
    return 0


async def _all(there: Coordinator) -> ListHostsResponse:
    whole, request = ListHostsResponse(), ListHostsRequest()
    while True:
        page = await there.hosts.ListHosts(request, timeout=ANSWER_SECONDS)
        whole.hosts.extend(page.hosts)
        whole.refused.extend(page.refused)
        whole.notice = page.notice
        if not page.next_token:
            return whole
        request.next_token = page.next_token


def _table(reply: ListHostsResponse, style: Style) -> list[str]:
    if not reply.hosts:
        return ["no hosts; muster-agent --coordinator HOST:PORT makes a machine one"]
    now = now_ms()
    cells = [_cells(host, now) for host in reply.hosts]
    remarks = [_remark(host) for host in reply.hosts]
    whole = [(*row, remark) for row, remark in zip(cells, remarks, strict=True)]
    headers = (*_HEADERS, "REMARK")
    if style.width is None or _width(headers, whole) <= style.width:
        return rows(headers, whole, style)
    return _narrow(cells, remarks, style.width, style)


def _narrow(
    cells: list[tuple[object, ...]], remarks: list[str], width: int, style: Style
) -> list[str]:
    """For a terminal that is too narrow: without the columns that say what a machine is, as far as
    need be, and what there is to say of a host in full below it."""
    headers = list(_HEADERS)
    for spared in (None, *_SPARED):
        if spared is not None:
            headers.remove(spared)
        at = [_HEADERS.index(header) for header in headers]
        shown = [[row[column] for column in at] for row in cells]
        if _width(headers, shown) <= width:
            break
    first, *lines = rows(headers, shown, style)
    told = [first]
    for line, remark in zip(lines, remarks, strict=True):
        told.append(line)
        wrapped = textwrap.wrap(plain(remark), max(width - 4, 20), break_on_hyphens=False)
        told += [f"    {part}" for part in wrapped]
    return told


def _width(headers: Sequence[str], cells: Iterable[Sequence[object]]) -> int:
    return max(map(len, rows(headers, cells, Style())))


def _cells(host: Host, now: float) -> tuple[object, ...]:
    return (
        host.host_id,
        HostState.Name(host.state),
        host.job_id,
        host.private_ipv4_address,
        host.instance_type,
        host.vcpus,
        host.memory_mib,
        host.gpus,
        host.engine,
        ago(host.last_contact_at, now),
    )


def _remark(host: Host) -> str:
    said = "draining" in host.reason
    return "; ".join(filter(None, ("draining" if host.draining and not said else "", host.reason)))


def _details(host: Host, style: Style) -> list[str]:
    return fields(
        (
            ("host", host.host_id),
            ("state", HostState.Name(host.state)),
            ("draining", "yes" if host.draining else "no"),
            ("reason", host.reason),
            ("node", host.job_id),
            ("address", host.private_ipv4_address),
            ("instance type", host.instance_type),
            ("vCPUs", host.vcpus),
            ("memory", f"{host.memory_mib} MiB"),
            ("GPUs", host.gpus),
            ("engine", host.engine),
            ("labels", ", ".join(f"{key}={host.labels[key]}" for key in sorted(host.labels))),
            ("agent", host.agent_version),
            ("boot id", host.boot_id),
            ("last contact", ago(host.last_contact_at, now_ms())),
        ),
        style,
    )


async def _describe(there: Coordinator, args: argparse.Namespace) -> int:
    request = DescribeHostsRequest(host_ids=args.hosts)
    reply = await there.hosts.DescribeHosts(request, timeout=ANSWER_SECONDS)
    if args.output == "json":
        from cli.jsonout import show

        show(reply)
    else:
        style = Style.of(sys.stdout)
        print("\n\n".join("\n".join(_details(host, style)) for host in reply.hosts))
    known = [host.host_id for host in reply.hosts]
    unknown = [host for host in args.hosts if host not in known]
    if unknown:
        raise Failure(
            f"there is no host {', '.join(unknown)}; `muster hosts` shows all", ExitCode.NOT_FOUND
        )
    return 0


async def _change(there: Coordinator, args: argparse.Namespace) -> int:
    host_id: str = args.host
    reply: DrainHostResponse | ResumeHostResponse | FenceHostResponse
    match args.action:
        case "drain":
            reply = await there.hosts.DrainHost(
                DrainHostRequest(host_id=host_id, reason=args.reason), timeout=ANSWER_SECONDS
            )
        case "resume":
            reply = await there.hosts.ResumeHost(
                ResumeHostRequest(host_id=host_id), timeout=ANSWER_SECONDS
            )
        case _:
            reply = await there.hosts.FenceHost(
                FenceHostRequest(host_id=host_id), timeout=ANSWER_SECONDS
            )
    if args.output == "json":
        from cli.jsonout import show

        show(reply)
    else:
        print("\n".join(_table(ListHostsResponse(hosts=[reply.host]), Style.of(sys.stdout))))
        if isinstance(reply, FenceHostResponse):
            gone = f"counts as gone: {reply.gone}" if reply.gone else "nothing could run there"
            print(f"muster: {gone}", file=sys.stderr)
    return 0
