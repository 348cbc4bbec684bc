from __future__ import annotations

import base64
import hashlib
import multiprocessing
import os
import re
import secrets
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import CasebookError, StoreError, UnknownNameError, UsageError
from service.keyring import FILE, Keyring, KeyRow, Scope


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "store" / FILE)


@contextmanager
def plain(keyring: Keyring) -> Iterator[sqlite3.Connection]:
    """The file as anybody's SQLite opens it."""
    keyring.path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(keyring.path)) as file, file:
        yield file


def altered(text: str, place: int) -> str:
    return text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :]


def test_a_key_is_known_again(keyring: Keyring) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    key = keyring.add("  Ward 3, Ärztin  ", Scope.READ)
    row = keyring.check(key)
    assert row is not None
    assert (row.name, row.scope, row.revoked) == ("Ward 3, Ärztin", Scope.READ, None)
    assert before <= datetime.fromisoformat(row.created) <= datetime.now(UTC)
    assert row.created.endswith("+00:00")
    assert re.fullmatch("cb_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", key)
    assert key.startswith(f"cb_{row.id}_")
    assert len(base64.urlsafe_b64decode(f"{key[12:]}=")) == 32


def test_keys_differ_and_each_is_its_own(keyring: Keyring) -> None:
    keys = [keyring.add("same", scope) for scope in (Scope.READ, Scope.WRITE, Scope.READ)]
    assert len(set(keys)) == 3
    rows = [keyring.check(key) for key in keys]
    assert [row.scope for row in rows if row] == ["read", "write", "read"]
    assert rows == keyring.rows()
    assert keyring.check(keys[0][:12] + keys[1][12:]) is None


def test_writing_includes_reading() -> None:
    assert [(held, asked) for held in Scope for asked in Scope if held.covers(asked)] == [
        ("read", "read"),
        ("write", "read"),
        ("write", "write"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "", "cb_", "cb_01234567_", "cb_01234567_" + 43 * "A", "cb_0123456g_" + 43 * "A",
        "cb_01234567_" + 42 * "A" + "\n", "cb_01234567_" + 43 * "é", "cb_٠١٢٣٤٥٦٧_" + 43 * "A",
        "cb_01234567_" + 42 * "A" + "\0", "cb_01234567_" + 42 * "A" + "\ud800",
        "cb_01234567_" + 8_000_000 * "A", "\0" * 55, "' OR 1=1 --",
    ],
    ids=range(13),
)  # fmt: skip
def test_other_texts_are_no_keys(keyring: Keyring, text: str) -> None:
    assert keyring.check(text) is None
    keyring.add("somebody", Scope.WRITE)
    assert keyring.check(text) is None


@given(st.text() | st.from_regex("cb_[0-9a-f]{8}_[A-Za-z0-9_-]{43}"))
def test_any_text_is_safe(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    keyring = Keyring(tmp_path_factory.getbasetemp() / "any-text" / FILE)
    if keyring.is_empty():
        keyring.add("somebody", Scope.WRITE)
    assert keyring.check(text) is None


def test_every_character_of_a_key_counts(keyring: Keyring) -> None:
    key = keyring.add("somebody", Scope.READ)
    for place in range(len(key)):
        assert keyring.check(altered(key, place)) is None
    for text in (key[:-1], f"{key}=", f"{key}\n", f" {key}", key.upper(), f"{key}{key}"):
        assert keyring.check(text) is None
    assert keyring.check(key) is not None


def test_a_revoked_key_is_invalid_at_once_for_all(keyring: Keyring) -> None:
    server = Keyring(keyring.path)
    first, second = (keyring.add(name, Scope.READ) for name in ("first", "second"))
    assert server.check(first) is not None
    row = keyring.revoke(first[3:11])
    assert row.revoked is not None
    assert datetime.fromisoformat(row.revoked) >= datetime.fromisoformat(row.created)
    assert server.check(first) is None
    assert server.check(second) is not None
    assert [row.revoked is None for row in server.rows()] == [False, True]
    assert server.rows()[0] == row


def test_revoking_what_cannot_be(keyring: Keyring) -> None:
    with pytest.raises(UnknownNameError, match="holds no keys; casebook keys add makes one"):
        keyring.revoke("01234567")
    key = keyring.add("somebody", Scope.READ)
    key_id = key[3:11]
    with pytest.raises(UnknownNameError, match=f"did you mean {key_id}"):
        keyring.revoke(altered(key_id, 3))
    with pytest.raises(UsageError) as caught:
        keyring.revoke(key)
    assert str(caught.value) == f"name the key by its id alone: {key_id}"
    assert keyring.check(key) is not None
    keyring.revoke(key_id)
    with pytest.raises(CasebookError, match=rf"key {key_id} \(somebody\) is revoked already"):
        keyring.revoke(key_id)


def test_empty_means_no_valid_key(keyring: Keyring) -> None:
    assert keyring.is_empty()
    key = keyring.add("somebody", Scope.READ)
    assert not keyring.is_empty()
    keyring.revoke(key[3:11])
    assert keyring.is_empty()


def test_reading_makes_no_file(keyring: Keyring) -> None:
    assert keyring.check("cb_01234567_" + 43 * "A") is None
    assert keyring.rows() == []
    assert keyring.is_empty()
    assert not keyring.path.parent.exists()


@pytest.mark.parametrize(
    "name", ["", " ", "a\nb", "a\0b", "a\u2028b", "a\ud800", "a\u202eb", 101 * "x"]
)
def test_names_that_cannot_be_shown_are_refused(keyring: Keyring, name: str) -> None:
    with pytest.raises(UsageError, match="one line of 1 to 100 printable characters"):
        keyring.add(name, Scope.READ)
    assert not keyring.path.exists()


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=100))
def test_names_come_back_as_given(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    keyring = Keyring(tmp_path_factory.getbasetemp() / "names" / FILE)
    try:
        key = keyring.add(name, Scope.READ)
    except UsageError:
        assert not (name.isprintable() and name.strip())
        return
    row = keyring.check(key)
    assert row is not None
    assert row.name == name.strip()


def test_only_the_owner_may_read_the_file(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    connect = sqlite3.connect

    def watched(*arguments: object, **options: object) -> sqlite3.Connection:
        file: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        modes.append(stat.S_IMODE(keyring.path.stat().st_mode))
        return file

    monkeypatch.setattr(sqlite3, "connect", watched)
    before = os.umask(0)
    try:
        keyring.add("somebody", Scope.READ)
    finally:
        os.umask(before)
    assert set(modes) == {0o600}
    assert [path.name for path in keyring.path.parent.iterdir()] == [FILE]


def test_the_file_holds_no_key_and_no_secret(keyring: Keyring) -> None:
    keys = [keyring.add(f"name {n}", Scope.READ) for n in range(20)]
    keyring.revoke(keys[3][3:11])
    content = b"".join(path.read_bytes() for path in keyring.path.parent.iterdir())
    assert b"name 19" in content
    for key in keys:
        secret = key[12:]
        assert key[3:11].encode() in content
        for trace in (key, secret, secret[:16], secret[-16:]):
            assert trace.encode() not in content
        assert base64.urlsafe_b64decode(f"{secret}=") not in content


def test_the_file_is_as_the_docs_say(keyring: Keyring) -> None:
    key = keyring.add("somebody", Scope.WRITE)
    keyring.revoke(keyring.add("else", Scope.READ)[3:11])
    with plain(keyring) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
        assert file.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [
            ("keys",)
        ]
        found = file.execute(
            "SELECT id, name, scope, created, revoked, sha256 FROM keys ORDER BY rowid"
        ).fetchall()
    first, second = keyring.rows()
    digest = hashlib.sha256(key.encode("ascii")).hexdigest()
    assert found[0] == (key[3:11], "somebody", "write", first.created, None, digest)
    assert found[1][:5] == (second.id, "else", "read", second.created, second.revoked)
    assert all(re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}\+00:00", row[3]) for row in found)


def test_a_file_made_as_the_docs_say_is_read(keyring: Keyring) -> None:
    key = "cb_89abcdef_" + 43 * "Z"
    time = "2026-05-04T10:20:30+00:00"
    with plain(keyring) as file:
        file.execute("PRAGMA user_version = 1")
        file.execute(
            "CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT, scope TEXT, created TEXT, "
            "revoked TEXT, sha256 TEXT)"
        )
        digest = hashlib.sha256(key.encode()).hexdigest()
        for key_id, revoked in (("89abcdef", None), ("00000000", time)):
            row = (key_id, "by hand", "write", time, revoked, digest)
            file.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", row)
    assert keyring.check(key) == KeyRow("89abcdef", "by hand", Scope.WRITE, time, None)
    assert keyring.check(altered(key, 20)) is None
    assert [row.id for row in keyring.rows()] == ["89abcdef", "00000000"]


def test_an_id_that_is_taken_is_not_given_again(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["01234567", "01234567", "01234567", "89abcdef"])
    monkeypatch.setattr(secrets, "token_hex", lambda size: next(ids))
    keys = [keyring.add("somebody", Scope.READ) for _ in range(2)]
    assert [key[:12] for key in keys] == ["cb_01234567_", "cb_89abcdef_"]
    assert all(keyring.check(key) for key in keys)


def test_an_empty_file_holds_no_keys_and_takes_some(keyring: Keyring) -> None:
    keyring.path.parent.mkdir()
    keyring.path.touch()
    assert keyring.is_empty()
    assert keyring.check("cb_01234567_" + 43 * "A") is None
    assert keyring.check(keyring.add("somebody", Scope.READ)) is not None


USES = {
    "add": lambda keyring: keyring.add("somebody", Scope.READ),
    "rows": Keyring.rows,
    "is_empty": Keyring.is_empty,
    "revoke": lambda keyring: keyring.revoke("01234567"),
    "check": lambda keyring: keyring.check("cb_01234567_" + 43 * "A"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_is_no_keyring_is_refused_and_left_alone(tmp_path: Path, use: object) -> None:
    assert callable(use)
    text = tmp_path / "text"
    text.write_bytes(b"no database at all " * 100)
    newer, foreign, nameless = (tmp_path / name for name in ("n", "f", "t"))
    statements = {
        newer: ["PRAGMA user_version = 2"],
        foreign: ["CREATE TABLE cats (id)"],
        nameless: ["CREATE TABLE cats (id)", "PRAGMA user_version = 1"],
    }
    for path, lines in statements.items():
        with plain(Keyring(path)) as file:
            for line in lines:
                file.execute(line)
    folder = tmp_path / "folder"
    folder.mkdir()
    for path, message in (
        (text, "damaged or no database"),
        (newer, "is no keyring of schema 1; move it away, or use the casebook that made it"),
        (foreign, "is no keyring of schema 1"),
        (nameless, "no such table: keys; check --store"),
        (folder, "unable to open database file; check --store"),
        (text / FILE, "cannot use"),
    ):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(StoreError, match=message) as caught:
            use(Keyring(path))
        assert str(path) in str(caught.value)
        assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_scope_that_is_none_gives_no_right(keyring: Keyring) -> None:
    key = keyring.add("somebody", Scope.READ)
    with plain(keyring) as file:
        file.execute("UPDATE keys SET scope = 'all'")
    with pytest.raises(StoreError, match=f"key {key[3:11]} has scope 'all', not read or write"):
        keyring.check(key)
    assert keyring.check(altered(key, 20)) is None


@pytest.mark.parametrize("stored", [None, b"\xff", "", "é", 5])
def test_a_hash_that_is_none_opens_nothing(keyring: Keyring, stored: object) -> None:
    key = keyring.add("somebody", Scope.READ)
    with plain(keyring) as file:
        file.execute("CREATE TABLE other AS SELECT * FROM keys")
        file.execute("DROP TABLE keys")
        file.execute("ALTER TABLE other RENAME TO keys")
        file.execute("UPDATE keys SET sha256 = ?", (stored,))
    assert keyring.check(key) is None


def test_a_file_that_another_holds_is_said_to_be_busy(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keyring._PATIENCE", 0.01)
    key = keyring.add("somebody", Scope.READ)
    with plain(keyring) as file:
        file.execute("BEGIN IMMEDIATE")
        assert keyring.check(key) is not None
        with pytest.raises(StoreError, match="another process is writing"):
            keyring.add("else", Scope.READ)
        file.execute("ROLLBACK")
        file.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="another process is writing"):
            keyring.check(key)
        file.execute("ROLLBACK")
    assert len(keyring.rows()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions_are_said(keyring: Keyring) -> None:
    key = keyring.add("somebody", Scope.READ)
    keyring.path.chmod(0o400)
    assert keyring.check(key) is not None
    with pytest.raises(StoreError, match="readonly database; check --store"):
        keyring.add("else", Scope.READ)
    keyring.path.chmod(0)
    with pytest.raises(StoreError, match="unable to open database file; check --store"):
        keyring.check(key)


def test_a_folder_name_means_nothing_to_sqlite(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "a?mode=memory&x#y %41'é" / "deeper" / FILE)
    key = keyring.add("somebody", Scope.READ)
    assert keyring.check(key) is not None
    assert keyring.path.is_file()


def add_some(path: Path, count: int) -> list[str]:
    return [Keyring(path).add("somebody", Scope.READ) for _ in range(count)]


def test_several_processes_add_at_once(keyring: Keyring) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        keys = pool.starmap(add_some, [(keyring.path, 8)] * 4, chunksize=1)
    found = {row.id for row in keyring.rows()}
    assert found == {key[3:11] for some in keys for key in some}
    assert len(found) == 32


def test_threads_check_while_keys_are_added(keyring: Keyring) -> None:
    key = keyring.add("somebody", Scope.READ)
    stop = threading.Event()
    counts: list[int] = []

    def check() -> None:
        count = 0
        while not stop.is_set() and keyring.check(key) is not None:
            count += 1
        counts.append(count if stop.is_set() else -1)

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    add_some(keyring.path, 20)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert len(counts) == 4
    assert min(counts) > 0
