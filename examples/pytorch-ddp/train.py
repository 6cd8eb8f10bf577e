"""Data-parallel training that can be checked: a small network learns a function, each node from its
own samples. Ends with 1 if the loss did not fall or if the nodes' weights are not equal."""

import argparse
import hashlib
import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def weights_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()[:16]


def train(steps: int, rank: int) -> tuple[float, float, torch.nn.Module]:
    """(first loss, last loss, model); the losses are means over all nodes."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters(), lr=0.01)
    samples = torch.Generator().manual_seed(1 + rank)
    losses = []
    for _ in range(steps):
        x = torch.rand(256, 4, generator=samples)
        loss = ((parallel(x) - x.prod(dim=1, keepdim=True).sqrt()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / dist.get_world_size())
    return losses[0], losses[-1], model


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    first, last, model = train(steps, rank)
    mine = weights_hash(model)
    everybody = [None] * world
    dist.all_gather_object(everybody, mine)
    node = os.environ["AWS_BATCH_JOB_NODE_INDEX"]
    print(f"rank {rank} of {world} on node {node}: weights {mine}", flush=True)
    # Nobody leaves while another still reads: main's exit ends the job.
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(f"loss {first:.5f} -> {last:.5f} in {steps} steps on {world} nodes", flush=True)
    if len(set(everybody)) != 1:
        print(f"weights differ: {everybody}", file=sys.stderr)
        return 1
    return 0 if last < first / 2 else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The work is done, and gloo's threads can abort an interpreter that takes itself apart.
    os._exit(code)
