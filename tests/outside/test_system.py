"""What one operating system has and another lacks: hidden here, one after the other."""

import errno
import os
import sys
import types
from pathlib import Path

import pytest

from optlab.outside import system


def test_cores_are_those_of_the_process_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert system.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert system.cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.cores() == 1


def test_the_processor_has_a_name_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.processor()
    monkeypatch.setattr(Path, "read_text", lambda *_: "processor : 0\nmodel name\t: Example 9000 @ 3 GHz\n")
    assert system.processor() == "Example 9000 @ 3 GHz"
    monkeypatch.setattr(Path, "read_text", lambda *_: "Features : fp asimd\n")
    monkeypatch.setattr(system.platform, "processor", lambda: "")
    monkeypatch.setattr(system.platform, "machine", lambda: "aarch64")
    assert system.processor() == "aarch64"
    monkeypatch.setattr(Path, "read_text", lambda *_: os.open("/there/is/no/such/file", os.O_RDONLY))
    monkeypatch.setattr(system.platform, "processor", lambda: "arm")
    assert system.processor() == "arm"


def test_names_are_put_on_the_disk_where_folders_can_be_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    system.sync_folder(tmp_path)
    assert len(synced) == hasattr(os, "O_DIRECTORY")
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    system.sync_folder(tmp_path)
    assert len(synced) <= 1


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


def test_a_lock_is_one_s_own_until_the_file_is_closed(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "lock"), opened(tmp_path / "lock")
    assert system.lock(first)
    assert not system.lock(second)
    os.close(first)
    assert system.lock(second)
    os.close(second)


def test_windows_locks_by_other_means(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def locking(descriptor: int, mode: int, count: int) -> None:
        calls.append((descriptor, mode, count))
        if len(calls) > 1:
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    assert system.lock(7)
    assert not system.lock(7)
    assert calls == [(7, 2, 1)] * 2


def test_where_there_are_no_locks_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        system.lock(7)
