import json
import os
import subprocess
import sys
import time

import pytest

from experiments import claims, files, store
from experiments.reading import InputError, load_runs

from .test_store import at, claimed, write

STALE = 120.0


def take(place):
    claim = claims.take(place, STALE, {})
    assert claim is not None
    return claim


def is_taken(place, stale=STALE):
    return claims.take(place, stale, {}) is None


def owner(place):
    found = claims.owner(place, STALE)
    assert found is not None
    return found


def silence(work, seconds):
    """Put the last heartbeat of a claim into the past."""
    before = time.time() - seconds
    os.utime(work / "status.json", (before, before))


def finish(claim, text="result"):
    files.write(claim.work / "result.txt", text)
    claim.end("DONE")
    claim.commit()


def result(place):
    return (place / "result.txt").read_text()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "study" / "r0123456789ab"


def test_a_claim_is_given_once_and_ends_with_the_result_in_its_place(place):
    claim = take(place)
    assert is_taken(place)
    assert claims.read(claim.work)["status"] == "RUNNING"
    assert not place.exists()
    finish(claim)
    assert result(place) == "result"
    assert store.status(place) == "DONE"
    assert os.listdir(place.parent / "_running") == []


def test_a_claim_given_up_is_free_again_and_leaves_nothing(place):
    claim = take(place)
    claim.release()
    assert os.listdir(place.parent / "_running") == []
    take(place)


def test_a_silent_claim_is_taken_over_and_its_owner_loses_what_it_has(place):
    first = take(place)
    silence(first.work, STALE - 20)
    assert is_taken(place)
    silence(first.work, STALE + 20)
    second = take(place)
    assert first.lost and not second.lost
    with pytest.raises(FileNotFoundError):
        files.write(first.work / "result.txt", "stale")
    with pytest.raises(claims.Lost):
        first.commit()
    first.release()
    finish(second, "mine")
    assert result(place) == "mine"


def test_an_owner_that_awakes_before_it_is_taken_over_keeps_its_run(place):
    first = take(place)
    silence(first.work, STALE + 20)
    with first.alive(every=0.01):
        while not owner(place).alive:
            time.sleep(0.01)
        assert is_taken(place)
    finish(first)
    assert store.status(place) == "DONE"


def test_a_heart_that_beats_keeps_a_claim_for_longer_than_its_stale_time(place):
    claim = take(place)
    with claim.alive(every=0.05):
        for _ in range(10):
            time.sleep(0.1)
            assert is_taken(place, stale=0.6)
    assert not claim.lost


def test_the_heart_notices_that_a_claim_was_taken_over(place):
    claim = take(place)
    with claim.alive(every=0.01):
        files.discard(claim.work)
        time.sleep(0.2)
    assert claim.lost


def test_a_dead_owner_on_this_machine_is_not_waited_for(place):
    code = (
        "import os, sys; from pathlib import Path; from experiments import claims;"
        f"claims.take(Path({str(place)!r}), 120, {{}}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (work,) = (place.parent / "_running").iterdir()
    assert owner(place).alive is False
    take(place)
    assert not work.exists()


def test_an_owner_on_another_machine_is_waited_for(place):
    claim = take(place)
    about = claims.read(claim.work) | {"machine": "elsewhere", "pid": 1}
    files.replace(claim.work / "status.json", json.dumps(about))
    assert is_taken(place)
    silence(claim.work, STALE + 20)
    take(place)


def test_the_time_is_that_of_the_disk(place, monkeypatch):
    # The clock of this machine is wrong by an hour, that of the disk is not.
    claim = take(place)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert is_taken(place)
    assert owner(place).silent < 10
    finish(claim)


def test_a_run_that_was_written_but_not_put_in_its_place_is_finished_by_the_next(place):
    claim = take(place)
    files.write(claim.work / "result.txt", "whole")
    claim.end("DONE")
    silence(claim.work, STALE + 20)
    take(place)
    assert result(place) == "whole"


def test_of_two_results_of_one_run_the_first_stays(place):
    first = take(place)
    silence(first.work, STALE + 20)
    second = take(place)
    finish(second, "second")
    os.mkdir(first.work)  # as if it had not been moved away yet
    files.write(first.work / "result.txt", "first")
    first.end("DONE")
    with pytest.raises(claims.Lost):
        first.commit()
    assert result(place) == "second"
    assert os.listdir(place.parent / "_running") == []


class Killed(BaseException):
    """Ends a process at once; no `except Exception` catches it."""


@pytest.mark.parametrize("n_renamed", [0, 1, 2])
def test_a_kill_at_any_rename_of_a_repetition_leaves_one_whole_result(
    tmp_path, monkeypatch, n_renamed
):
    # The new result does not fit over the old one, which is moved aside; then it does.
    run = at(tmp_path)
    write(run, value=1.0)
    write(at(tmp_path, "seed=1"), value=3.0)
    claim = claimed(run)
    renames, rename = [], os.rename

    def kill(source, target):
        if {source, target} & {store.directory(run)}:
            if len(renames) == n_renamed:
                raise Killed
            renames.append(target)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", kill)
        with pytest.raises(Killed):
            write(run, 2.0, claim)
    claims.recover(tmp_path / "mine")
    summaries, curves = load_runs(tmp_path)
    assert sorted(summaries["rmse_test"]) == [1.0, 3.0]
    assert len(curves) == len(summaries)
    # whoever comes next finds the new result whole, and puts it in its place
    silence(claim.work, STALE + 20)
    again = claimed(run)
    again.release()
    assert sorted(load_runs(tmp_path)[0]["rmse_test"]) == [2.0, 3.0]
    assert os.listdir(tmp_path / "mine" / "_running") == []


@pytest.mark.parametrize("n_synced", range(9))
def test_a_kill_while_writing_leaves_the_run_whole_or_not_at_all(
    tmp_path, monkeypatch, n_synced
):
    run = at(tmp_path)
    claim = claimed(run)
    synced, fsync = [], os.fsync

    def kill(file):
        if len(synced) == n_synced:
            raise Killed
        synced.append(fsync(file))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", kill)
        with pytest.raises(Killed):
            write(run, 2.0, claim)
    # Four files, the status, its name, the directory; then it is put in its place.
    if n_synced < 7:
        assert store.status(store.directory(run)) is None
        with pytest.raises(InputError, match="There are no runs in"):
            load_runs(tmp_path)
        silence(claim.work, STALE + 20)
        claimed(run).release()
    else:
        assert load_runs(tmp_path)[0]["rmse_test"].tolist() == [2.0]


def test_an_error_while_writing_is_raised_and_leaves_no_run(tmp_path, monkeypatch):
    def full(file):
        raise OSError("No space left on device")

    run = at(tmp_path)
    claim = claimed(run)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(run, 1.0, claim)
    claim.release()
    assert os.listdir(tmp_path / "mine") == ["_running"]
    assert os.listdir(tmp_path / "mine" / "_running") == []


def test_of_many_processes_at_once_one_gets_the_claim(place, tmp_path):
    stale = take(place)
    about = claims.read(stale.work) | {"process": "ended"}
    files.replace(stale.work / "status.json", json.dumps(about))
    code = (
        "import sys; from pathlib import Path; from experiments import claims\n"
        f"while not Path({str(tmp_path / 'go')!r}).exists(): pass\n"
        f"claim = claims.take(Path({str(place)!r}), {STALE}, {{}})\n"
        "print(claim is not None, flush=True); sys.stdin.read()"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    time.sleep(1)
    (tmp_path / "go").touch()
    won = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
    for racer in racers:
        racer.communicate()
    assert sorted(won) == ["False", "False", "False", "True"]
