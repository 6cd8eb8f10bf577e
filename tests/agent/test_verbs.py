"""What the engine says, as the machine hears it."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from agent.admission import Admission
from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import NodeKey
from agent.core.marks import Marks
from agent.engine.port import Engine, Exit
from agent.kit import Kit
from agent.lease_file import Leases
from agent.verbs import Verbs
from tests.wait import eventually

KEY = NodeKey.parse("muster-11111111-2222-3333-4444-555555555555-1-0")


class _EndsWell:
    async def wait(self, key: NodeKey, began_at_ms: int = 0) -> Exit:
        return Exit(exit_code=0, stopped_at_ms=1)


def _verbs(*, goes_down: bool) -> Verbs:
    def mark(effect: f.Start) -> Marks:
        raise AssertionError(effect)

    return Verbs(
        cast("Engine", _EndsWell()), cast("Admission", None), cast("Kit", None),
        cast("Leases", None), mark, pytest.fail, lambda: goes_down,
    )  # fmt: skip


async def test_an_end_while_the_machine_goes_down_is_told_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert KEY is not None
    caplog.set_level("INFO")
    waiting = asyncio.create_task(_verbs(goes_down=True).wait(f.Wait(key=KEY, began_at_ms=5)))
    await eventually(lambda: "as the machine goes down" in caplog.text, 10, lambda: caplog.text)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_end_on_a_machine_that_goes_on_is_told() -> None:
    assert KEY is not None
    ended = await _verbs(goes_down=False).wait(f.Wait(key=KEY, began_at_ms=5))
    assert isinstance(ended, i.Ended)
    assert ended.exit_code == 0
