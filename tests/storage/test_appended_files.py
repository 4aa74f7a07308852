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


def test_a_line_that_was_not_finished_costs_itself_alone(tmp_path, capsys):
    AppendedFiles(tmp_path).add({"a": 1.0, "b": 2.0})
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        found = dict(AppendedFiles(tmp_path).values())
        assert found.items() <= {"a": 1.0, "b": 2.0}.items()
    assert capsys.readouterr().err == ""  # a process may be writing it
    AppendedFiles(tmp_path / "other").add({"c": 3.0})
    (other,) = (tmp_path / "other").iterdir()
    file.write_bytes(whole[:-4] + b"\0\0\0" + other.read_bytes())
    assert dict(AppendedFiles(tmp_path).values()) == {"a": 1.0, "c": 3.0}
    assert f"warning: 1 of 3 lines in {file} are damaged" in capsys.readouterr().err
    assert dict(AppendedFiles(tmp_path).values()) == {"a": 1.0, "c": 3.0}
    assert capsys.readouterr().err == ""  # it has been taken out


def test_a_value_that_changed_is_never_read(tmp_path, capsys):
    """A verdict of 1 that became one of 7 was a reward of 7."""
    AppendedFiles(tmp_path).add({"a": 1.0, "b": 1.0})
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for changed in (whole.replace(b"1.0", b"7.0", 1), whole.replace(b'"a"', b'"c"'), whole.replace(b"1.0", b"true", 1)):
        file.write_bytes(changed)
        assert dict(AppendedFiles(tmp_path).values()) == {"b": 1.0}
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        found = dict(AppendedFiles(tmp_path).values())
        assert found.items() <= {"a": 1.0, "b": 1.0}.items()


def test_a_folder_that_cannot_be_written_is_named_once_and_nothing_stops(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    store = AppendedFiles(tmp_path / "file" / "folder")
    store.add({"a": 1.0})
    store.add({"b": 2.0})
    assert dict(store.values()) == {"a": 1.0, "b": 2.0}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: nothing is kept in {tmp_path / 'file' / 'folder'}: ")
