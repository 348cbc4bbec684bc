from __future__ import annotations

import importlib

import pytest

import casebook


@pytest.mark.parametrize("command", casebook.COMMANDS.values(), ids=lambda c: c.name)
def test_every_command_can_be_called(
    command: casebook.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, function = command.target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(SystemExit) as left:
        casebook.main([command.name, "--help"])
    assert left.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        casebook.main(["--help"])
    output = capsys.readouterr().out
    assert all(command.summary in output for command in casebook.COMMANDS.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which command? one of embed, knn-eval"),
        (["knn"], "unknown command 'knn'; did you mean knn-eval"),
        (["--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_wrong_use_is_one_line_and_status_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert casebook.main(words) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        casebook.main(["--version"])
    assert capsys.readouterr().out == "casebook 0.1.0\n"
