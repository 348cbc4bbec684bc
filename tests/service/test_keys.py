from __future__ import annotations

import re
import resource
import subprocess
from pathlib import Path

import pytest

from service.keyring import FILE, Keyring, Scope
from tests.commands import BIN, environment, run

KEY = re.compile("cb_([0-9a-f]{8})_[A-Za-z0-9_-]{43}\n")


def keyring(folder: Path) -> Keyring:
    return Keyring(folder / "store" / FILE)


def made(folder: Path, *words: str) -> str:
    return run(folder, "casebook", "keys", "add", *words).stdout.strip()


def failure(folder: Path, *words: str, status: int) -> str:
    done = run(folder, "casebook", "keys", *words, status=status)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_key_is_printed_alone_and_works(tmp_path: Path) -> None:
    done = run(tmp_path, "casebook", "keys", "add", "Ward 3", "--scope", "write")
    assert KEY.fullmatch(done.stdout)
    assert done.stderr == "the key is shown only now; keep it where only its owner reads\n"
    row = keyring(tmp_path).check(done.stdout.strip())
    assert row is not None
    assert (row.name, row.scope) == ("Ward 3", Scope.WRITE)


def test_without_a_scope_a_key_reads(tmp_path: Path) -> None:
    row = keyring(tmp_path).check(made(tmp_path, "somebody"))
    assert row is not None
    assert row.scope is Scope.READ


def test_the_list_tells_all_but_the_keys(tmp_path: Path) -> None:
    assert run(tmp_path, "casebook", "keys", "list").stdout == (
        f"{tmp_path}/store/{FILE} holds no keys; casebook keys add makes one\n"
    )
    first, second = made(tmp_path, "Ward 3"), made(tmp_path, "x", "--scope", "write")
    done = run(tmp_path, "casebook", "keys", "revoke", first[3:11])
    assert done.stdout == f"revoked {first[3:11]} (Ward 3)\n"
    one, two = keyring(tmp_path).rows()
    shown = run(tmp_path, "casebook", "keys", "list").stdout
    assert [line.rstrip() for line in shown.splitlines()] == [
        "id        name    scope    created                    revoked",
        "--------  ------  -------  -------------------------  -------------------------",
        f"{one.id}  Ward 3  read     {one.created}  {one.revoked}",
        f"{two.id}  x       write    {two.created}  -",
    ]
    assert first[12:] not in shown
    assert second[12:] not in shown


def test_a_revoked_key_is_refused_and_revoked_once(tmp_path: Path) -> None:
    key = made(tmp_path, "somebody")
    run(tmp_path, "casebook", "keys", "revoke", key[3:11])
    assert keyring(tmp_path).check(key) is None
    message = failure(tmp_path, "revoke", key[3:11], status=1)
    assert message == f"error: key {key[3:11]} (somebody) is revoked already\n"


def test_another_store_has_other_keys(tmp_path: Path) -> None:
    key = made(tmp_path, "somebody", "--store", "elsewhere")
    assert Keyring(tmp_path / "elsewhere" / FILE).check(key) is not None
    assert not keyring(tmp_path).path.exists()
    shown = run(tmp_path, "casebook", "keys", "list", "--store", "elsewhere").stdout
    assert key[3:11] in shown


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    key = made(tmp_path, "somebody")
    for words, message in (
        ([], "the following arguments are required: add|list|revoke; see casebook keys --help"),
        (["add"], "the following arguments are required: NAME; see casebook keys add --help"),
        (["add", " "], "a key's name is one line of 1 to 100 printable characters"),
        (["add", "x\ny"], "a key's name is one line of 1 to 100 printable characters"),
        (["add", "x", "--scope", "all"], "invalid choice: 'all' (choose from 'read', 'write')"),
        (["revoke", key[3:10]], f"unknown key '{key[3:10]}'; did you mean {key[3:11]}?"),
        (["revoke", key], f"name the key by its id alone: {key[3:11]}"),
        (["revok", "x"], "invalid choice: 'revok'"),
    ):
        errors = failure(tmp_path, *words, status=2)
        assert message in errors
        assert key[12:] not in errors


def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    for words in (["add", "x"], ["list"], ["revoke", "x"]):
        assert f"cannot use {tmp_path}/store" in failure(tmp_path, *words, status=1)


@pytest.mark.parametrize("room", [0, 2000, 4096, 10000])
def test_a_full_disk_is_said_and_harms_no_key(tmp_path: Path, room: int) -> None:
    key = made(tmp_path, "somebody")
    for number in range(40):  # so that another key needs another page
        keyring(tmp_path).add(f"{number} {'x' * 90}", Scope.READ)
    before = keyring(tmp_path).rows()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    done = subprocess.run(
        [BIN / "casebook", "keys", "add", "one more"], cwd=tmp_path, env=environment(tmp_path),
        preexec_fn=limit, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: [^\n]*{tmp_path}[^\n]*\n", done.stderr)
    assert "unexpected" not in done.stderr
    assert keyring(tmp_path).rows() == before
    assert keyring(tmp_path).check(key) is not None
