"""Key files: only a private regular file of this user is read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.vault import create_key_file
from synqx_dagster.vault.key_file import read_key_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "vault.key")
    return tmp_path / "vault.key"


def test_a_new_key_file_is_private_and_holds_a_key(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(read_key_file(path)) == 32


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        create_key_file(tmp_path / "vault.key")
    finally:
        os.umask(before)
    assert (tmp_path / "vault.key").stat().st_mode & 0o777 == 0o600


def test_two_key_files_differ(path: Path, tmp_path: Path) -> None:
    create_key_file(tmp_path / "other.key")
    assert read_key_file(path) != read_key_file(tmp_path / "other.key")


def test_an_existing_file_is_never_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        create_key_file(path)
    assert path.read_bytes() == before


def test_a_symlink_is_not_followed_when_writing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError):
        create_key_file(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        create_key_file(tmp_path / "missing" / "vault.key")


def test_a_read_only_key_file_is_read(path: Path) -> None:
    path.chmod(0o400)
    assert read_key_file(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o700, 0o4600])
def test_a_file_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}") as caught:
        read_key_file(path)
    assert caught.value.exit_code == 2
    assert caught.value.hint == f"chmod 600 {path}"


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match=f"belongs to user {owner}"):
        read_key_file(path)


def test_a_symlink_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        read_key_file(tmp_path / "link")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/null")):
        with pytest.raises(ConfigurationError, match="not a regular file"):
            read_key_file(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_key_file(tmp_path / "socket")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.key cannot be read"):
        read_key_file(tmp_path / "absent.key")


@pytest.mark.parametrize(
    "content",
    [b"", b"SYNQX-KEY-1 ", b"SYNQX-KEY-2 " + b"0" * 64, b"0" * 64, b"SYNQX-KEY-1 " + b"G" * 64, b"x" * 5000],
)
def test_a_file_without_a_key_is_refused_and_not_quoted(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_key_file(path)
    assert "0000" not in str(caught.value)


def test_a_key_cut_by_one_digit_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ConfigurationError, match="does not hold a key"):
        read_key_file(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of root's")
def test_what_systemd_passed_to_this_service_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o440)
    with pytest.raises(ConfigurationError, match="0440"):
        read_key_file(path)

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert len(read_key_file(path)) == 32

    path.chmod(0o444)
    with pytest.raises(ConfigurationError, match="0444"):
        read_key_file(path)
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent.parent))
    with pytest.raises(ConfigurationError, match="0440"):
        read_key_file(path)


def test_what_lies_where_systemd_passes_credentials_is_judged_by_its_owner(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    status = os.stat_result((0o100440, 0, 0, 1, 4712, 4712, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda descriptor: status)
    with pytest.raises(ConfigurationError, match="belongs to user 4712"):
        read_key_file(path)
    status = os.stat_result((0o100440, 0, 0, 1, 0, 4712, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda descriptor: status)
    assert len(read_key_file(path)) == 32
