import pytest

from hapo_lit.storage.atomic import appearing, draft_of, drop_drafts, publish


def write(path, kind, text):
    if kind == "folder":
        path.mkdir()
        path = path / "file"
    path.write_text(text)


def read(path):
    return (path / "file" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("synced", [False, True])
def test_it_appears_at_the_end_and_replaces_what_was_there(tmp_path, kind, synced):
    path = tmp_path / "deep" / "result"
    for text in ("first", "second"):
        with appearing(path, synced=synced) as draft:
            write(draft, kind, text)
            assert not path.exists() or read(path) == "first"
        assert read(path) == text
    assert [found.name for found in path.parent.iterdir()] == ["result"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("shared", [False, True])
def test_an_error_leaves_everything_as_it_was(tmp_path, kind, shared):
    path = tmp_path / "result"
    write(path, kind, "old")

    def fail():
        with appearing(path, shared) as draft:
            write(draft, kind, "new")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert read(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_of_shared_folders_the_first_stays(tmp_path):
    path = tmp_path / "result"
    with appearing(path, shared=True) as draft:
        write(draft, "folder", "mine")
        write(path, "folder", "theirs")
    assert read(path) == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_drafts_that_a_kill_left_behind_are_replaced_and_dropped(tmp_path):
    path = tmp_path / "result"
    write(draft_of(path), "folder", "torn")
    with appearing(path) as draft:
        write(draft, "file", "whole")
    assert read(path) == "whole"
    write(draft_of(path), "folder", "torn")
    write(draft_of(path, shared=True), "file", "torn")
    drop_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_is_beside_its_place_and_hidden(tmp_path):
    assert draft_of(tmp_path / "a.csv") == tmp_path / ".a.csv.unfinished"
    assert draft_of(tmp_path / "a.csv", shared=True).name.startswith(".a.csv-")


def test_publish_fails_where_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        publish(draft_of(tmp_path / "a"), tmp_path / "a")
