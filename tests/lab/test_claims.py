"""One writer for a study's folder: a second is told who has it, and a dead one has nothing."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from optlab import cli
from optlab.lab import claims
from optlab.lab.claims import claim
from optlab.lab.errors import StudyError
from optlab.lab.folder import FOLDER
from optlab.lab.tasks import TASKS
from optlab.outside import system

ELSEWHERE = f"""
import sys
from pathlib import Path
from optlab.lab.claims import claim
with claim(Path(sys.argv[1]) / {FOLDER!r}, print):
    print("mine", flush=True)
    sys.stdin.read()
"""


def claimed(folder: Path) -> contextlib.AbstractContextManager[None]:
    return claim(folder / FOLDER, pytest.fail)


@contextlib.contextmanager
def another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has claimed the folder."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ELSEWHERE, str(folder)], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with another(tmp_path) as process, pytest.raises(StudyError) as error, claimed(tmp_path):
        pytest.fail("two writers")
    who = f"{tmp_path} is being written by process {process.pid} on {socket.gethostname()}, since 20"
    assert str(error.value).startswith(who)
    assert str(error.value).endswith("; wait for it, or give another folder")


def test_within_one_process_too(tmp_path: Path) -> None:
    with claimed(tmp_path):
        with pytest.raises(StudyError, match=f"is being written by process {os.getpid()} on"), claimed(tmp_path):
            pytest.fail("two writers")
        (tmp_path / FOLDER / claims.WRITER).unlink()  # as it is for a moment, at the beginning and at the end
        with pytest.raises(StudyError, match="is being written by another process; wait"), claimed(tmp_path):
            pytest.fail("two writers")


def test_a_claim_ends_with_the_block_and_leaves_nothing(tmp_path: Path) -> None:
    with contextlib.suppress(KeyError), claimed(tmp_path / "new"):
        raise KeyError
    assert list((tmp_path / "new").iterdir()) == []
    with claimed(tmp_path):
        (tmp_path / FOLDER / "00000.npz").touch()
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["00000.npz"]


def test_a_dead_one_s_claim_ends_by_itself(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert json.loads((tmp_path / FOLDER / claims.WRITER).read_text())["pid"] == process.pid
        with claimed(tmp_path):
            assert json.loads((tmp_path / FOLDER / claims.WRITER).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_last_holder_has_just_deleted_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, locked = tmp_path / FOLDER / claims.LOCK, []

    def late(descriptor: int, real: Any = system.lock) -> bool:
        locked.append(descriptor)
        if len(locked) == 1:
            path.unlink()
        if len(locked) == 2:
            path.unlink()
            path.touch()
        return real(descriptor)

    monkeypatch.setattr(system, "lock", late)
    with claimed(tmp_path):
        assert len(locked) == 3
        assert os.path.samestat(os.stat(path), os.fstat(locked[-1]))


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_spoken_of(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(descriptor: int) -> bool:
        raise OSError(code, os.strerror(code))

    said: list[str] = []
    monkeypatch.setattr(system, "lock", lock)
    with claim(tmp_path / FOLDER, said.append):
        assert said == [
            f"{tmp_path} is on a file system without locks ({os.strerror(code)}): let nothing else write there"
        ]


@pytest.mark.parametrize(
    ("owner", "name", "code"),
    [
        (Path, "mkdir", errno.EROFS),
        (Path, "mkdir", errno.EACCES),
        (os, "open", errno.EROFS),
        (os, "fsync", errno.ENOSPC),
    ],
)
def test_a_folder_that_can_t_be_written_is_one_line(
    owner: Any, name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(owner, name, failing)
        with pytest.raises(StudyError, match=rf"can't be written: {os.strerror(code)}$"), claimed(tmp_path):
            pytest.fail("written")
    with claimed(tmp_path):  # and nothing is held
        pass


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="can't be written: Not a directory"), claimed(tmp_path / "file"):
        pytest.fail("written")


def test_the_command_is_refused_with_status_2_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.tiny)
    (tmp_path / "small.toml").write_text('task = "tiny"\nsites = ["update"]\nseeds = 1')
    out = tmp_path / "out"
    with another(out) as process:
        (out / "results.nc").write_text("earlier")
        before = {path: path.read_bytes() for path in out.glob("**/*") if path.is_file()}
        assert cli.main(["study", str(tmp_path / "small.toml"), "--output", str(out), "--overwrite", "--json"]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"optlab study: {out} is being written by process {process.pid} on ")
        assert (printed.err.count("\n"), printed.out) == (1, "")
        assert {path: path.read_bytes() for path in out.glob("**/*") if path.is_file()} == before
