"""The runtime unlock file: only in a private directory, only for its vault and seal epoch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.vault.runtime import RuntimeFile, default_runtime_directories, is_memory_backed

ROOT_KEY = bytes(range(32))
VAULT_ID = bytes(16)


@pytest.fixture
def file(tmp_path: Path) -> RuntimeFile:
    return RuntimeFile(tmp_path / "run", vault_id=VAULT_ID)


def test_what_is_written_is_read(file: RuntimeFile, tmp_path: Path) -> None:
    file.write(bytes(32), seal_epoch=2)
    file.write(ROOT_KEY, seal_epoch=3)
    assert file.read(seal_epoch=3) == ROOT_KEY
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    (only,) = (tmp_path / "run").iterdir()
    assert only.stat().st_mode & 0o777 == 0o600


def test_nothing_there_is_none(file: RuntimeFile) -> None:
    assert file.read(seal_epoch=0) is None
    file.remove()
    file.prepare()
    assert file.read(seal_epoch=0) is None
    file.remove()


def test_removed_is_gone(file: RuntimeFile, tmp_path: Path) -> None:
    file.write(ROOT_KEY, seal_epoch=0)
    file.remove()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_of_an_earlier_epoch_is_refused_and_removed(file: RuntimeFile, tmp_path: Path) -> None:
    file.write(ROOT_KEY, seal_epoch=0)
    assert file.read(seal_epoch=1) is None
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_of_another_vault_is_refused(file: RuntimeFile, tmp_path: Path) -> None:
    file.write(ROOT_KEY, seal_epoch=0)
    (written,) = (tmp_path / "run").iterdir()
    other = RuntimeFile(tmp_path / "run", vault_id=b"\x01" * 16)
    assert other.read(seal_epoch=0) is None
    written.rename(written.with_name(f"{'01' * 16}.key"))
    with pytest.raises(ConfigurationError, match="damaged"):
        other.read(seal_epoch=0)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o500, 0o777])
def test_a_directory_that_others_can_enter_is_refused(file: RuntimeFile, tmp_path: Path, mode: int) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    for act in (lambda: file.write(ROOT_KEY, seal_epoch=0), lambda: file.read(seal_epoch=0), file.remove):
        with pytest.raises(ConfigurationError, match=f"mode {mode:04o}"):
            act()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_symlink_in_place_of_the_directory_is_refused(file: RuntimeFile, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        file.write(ROOT_KEY, seal_epoch=0)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_directory_of_another_user_is_refused(
    file: RuntimeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(ROOT_KEY, seal_epoch=0)
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    with pytest.raises(ConfigurationError, match=f"must belong to user {stranger}"):
        file.read(seal_epoch=0)


def test_a_planted_file_is_refused(file: RuntimeFile, tmp_path: Path) -> None:
    file.write(ROOT_KEY, seal_epoch=0)
    (written,) = (tmp_path / "run").iterdir()
    written.chmod(0o644)
    with pytest.raises(ConfigurationError, match="mode 0644"):
        file.read(seal_epoch=0)
    written.rename(tmp_path / "aside")
    written.symlink_to(tmp_path / "aside")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        file.read(seal_epoch=0)


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be created"):
        RuntimeFile(tmp_path / "missing" / "run", vault_id=VAULT_ID).prepare()


def test_a_failed_write_leaves_nothing(file: RuntimeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(ConfigurationError, match="No space left"):
        file.write(ROOT_KEY, seal_epoch=0)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.skipif(not is_memory_backed(Path("/dev/shm")), reason="/dev/shm is not memory-backed here")
def test_the_default_directories_are_memory_backed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    shared = Path(f"/dev/shm/synqx-{os.geteuid()}")
    assert default_runtime_directories() == [shared]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev/shm")
    assert default_runtime_directories() == [Path("/dev/shm/synqx"), shared]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert default_runtime_directories() == [shared]


def test_a_disk_is_not_memory() -> None:
    assert not is_memory_backed(Path("/proc"))
    assert not is_memory_backed(Path("/does/not/exist"))
