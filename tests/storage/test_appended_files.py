"""Values that many processes keep in one folder."""

from __future__ import annotations

import multiprocessing

from hapo_lit.storage.appended_files import AppendedFiles


def add(folder, first):
    store = AppendedFiles(folder)
    for number in range(first, first + 50):
        store.add({str(number): float(number)})


def test_processes_add_at_the_same_time_and_all_of_it_is_read(tmp_path):
    shared = AppendedFiles(tmp_path)
    shared.add({"parent": -1.0})
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=add, args=(tmp_path, first)) for first in (0, 50)]
    others.append(fork.Process(target=shared.add, args=({"child": -2.0},)))  # a fork of one that has a file already
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert dict(AppendedFiles(tmp_path).values()) == {
        **{str(number): float(number) for number in range(100)},
        "parent": -1.0,
        "child": -2.0,
    }
    assert len(list(tmp_path.iterdir())) == 4  # nobody writes to the file of another


def test_a_line_that_was_not_finished_costs_itself_alone(tmp_path):
    AppendedFiles(tmp_path).add({"a": 1.0, "b": 2.0})
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        found = dict(AppendedFiles(tmp_path).values())
        assert found.items() <= {"a": 1.0, "b": 2.0}.items()
    file.write_bytes(whole[:-4] + b"\0\0\0")
    with file.open("ab") as torn:
        torn.write(b'\n["c", 3.0]\n')
    assert dict(AppendedFiles(tmp_path).values()) == {"a": 1.0, "c": 3.0}


def test_a_folder_that_cannot_be_written_is_named_once_and_nothing_stops(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    store = AppendedFiles(tmp_path / "file" / "folder")
    store.add({"a": 1.0})
    store.add({"b": 2.0})
    assert dict(store.values()) == {"a": 1.0, "b": 2.0}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: nothing is kept in {tmp_path / 'file' / 'folder'}: ")
