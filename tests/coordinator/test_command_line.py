"""The words that stand before the flags of `muster-coordinator`."""

from __future__ import annotations

import pytest

from coordinator import main


@pytest.mark.parametrize("command", ["check", "repair", "backup", "restore"])
def test_each_command_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"muster-coordinator {command} " in said
    assert "Without one of these words" not in said, "that begins what does not follow"


def test_help_alone_names_all_commands_and_then_the_flags(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["--help"])
    assert ended.value.code == 0
    commands, _, flags = capsys.readouterr().out.partition("Without one of these words")
    for command in ("check", "repair", "backup", "restore", "--accept-older-journal"):
        assert f"muster-coordinator {command} " in commands
    assert "--data-dir" in flags


@pytest.mark.parametrize(
    ("command", "right"),
    [
        ("bakcup", "did you mean backup?"),
        ("xyz", "there are check, repair, backup, restore"),
    ],
)
def test_a_command_that_there_is_not(
    command: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([command, "/a/file", "--data-dir", "/d"]) == 2
    said = capsys.readouterr().err
    assert said == f"muster-coordinator: there is no command {command}; {right}\n"
