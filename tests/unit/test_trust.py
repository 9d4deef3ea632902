"""Whose code a model's file may name, and what its class may be given."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from physdiff import trust
from physdiff.trust import require_plain, require_trusted

CLASS = "class Mine: pass\n"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's folder, somewhere else than the current one, which is empty; a path of modules of the test's own."""
    here, theirs = tmp_path / "here", tmp_path / "download" / "model"
    for folder in (here, theirs):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "installed"), *sys.path])
    return theirs


def write(file: Path, text: str = CLASS) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_code_of_this_machine_is_trusted(model: Path, tmp_path: Path) -> None:
    here, installed = tmp_path / "here", tmp_path / "installed"
    write(here / "mine.py")
    write(here / "package" / "inner.py", "from elsewhere import Other as Mine\n")  # a folder without __init__.py
    write(here / "sometimes.py", "try:\n    import faster\nexcept ImportError:\n    class Mine: pass\n")
    write(installed / "lazy" / "__init__.py", "def __getattr__(name): ...\n")
    write(installed / "lazy" / "starry.py", "from other import *\n")
    write(installed / "compiled.so", "\0")
    for name in (
        "Registered", "mine.Mine", "mine.py:Mine", "package.inner.Mine", "package/inner.py:Mine", "sometimes.Mine",
        "lazy.Mine", "lazy.starry.Mine", "nowhere.Mine", "torch.nn.Conv2d",
    ):  # fmt: skip
        require_trusted(name, model, "network")
    assert "mine" not in sys.modules and "lazy" not in sys.modules


@pytest.mark.parametrize(
    ("file", "text", "name", "message"),
    [
        ("here/script.py", "print(1)\nMine = 3\n", "script.Mine", "defines no class 'Mine'; it was not run"),
        ("here/script.py", "from torch import *\n", "script.Mine", "defines no class 'Mine'"),
        ("here/script.py", "Mine (\n", "script.py:Mine", "defines no class 'Mine'"),
        ("here/script.py", CLASS, "script.py", "defines no class ''"),
        ("here/sub/__init__.py", "import Mine\n", "sub.Mine", "defines no class 'Mine'"),
        ("installed/tool/__main__.py", "main()\n", "tool.__main__.Mine", "__main__.py defines no class 'Mine'"),
        ("installed/tool.py", "main()\n", "tool.Mine", "tool.py defines no class 'Mine'"),
        ("elsewhere/mine.py", CLASS, "../elsewhere/mine.py:Mine", "outside the current folder; import it before"),
        ("download/model/mine.py", CLASS, "../download/model/mine.py:Mine", "outside the current folder"),
    ],
)
def test_what_is_no_class_of_this_machine_is_not_run(
    file: str, text: str, name: str, message: str, model: Path, tmp_path: Path
) -> None:
    write(tmp_path / file, text)
    known = set(sys.modules)
    with pytest.raises(ValueError, match=message):
        require_trusted(name, model, "network")
    assert set(sys.modules) == known


def test_a_package_is_not_hidden_by_one_that_is_imported(model: Path, tmp_path: Path) -> None:
    """A file of the name of an imported module is not that module."""
    write(tmp_path / "here" / "json.py", "print(1)\n")
    require_trusted("json.Mine", model, "network")  # imported already: Python's
    with pytest.raises(ValueError, match="defines no class 'Mine'"):
        require_trusted("json.py:Mine", model, "network")
    # One's own, imported from outside the current folder, is known.
    own = write(tmp_path / "elsewhere" / "physdiff_own_network.py")
    sys.path.insert(0, str(own.parent))
    import physdiff_own_network  # pyright: ignore[reportMissingImports]

    assert Path(physdiff_own_network.__file__ or "") == own
    require_trusted("../elsewhere/physdiff_own_network.py:Mine", model, "network")
    require_trusted("physdiff_own_network.Mine", model, "network")
    del sys.modules["physdiff_own_network"]


def test_the_folder_around_a_model_is_the_users_where_commands_are_typed_in_it(model: Path, tmp_path: Path) -> None:
    """A run's folder below the current one: the file beside the runs is one's own, that beside the model is not."""
    here = tmp_path / "here"
    run = here / "model"
    run.mkdir()
    write(here / "mine.py")
    require_trusted("mine.Mine", run, "network")
    write(run / "mine.py")
    with pytest.raises(ValueError, match=r"a file in .*/here/model. What comes with a model is not run"):
        require_trusted("model/mine.py:Mine", run, "network")
    deeper = run / "deeper"
    with pytest.raises(ValueError, match=r"a file in .*/here/model. What comes with a model is not run"):
        require_trusted("model.mine.Mine", deeper, "network")


def test_the_standard_library_is_refused_by_name_and_by_place(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own tests are in no list of its modules, and importing one of them runs them all."""
    with pytest.raises(ValueError, match="of Python's own library"):
        require_trusted("antigravity.Mine", model, "network")
    home = tmp_path / "python"
    monkeypatch.setattr(sys, "path", [str(home), str(home / "site-packages"), *sys.path])
    real = sysconfig.get_path
    monkeypatch.setattr(trust.sysconfig, "get_path", lambda name: str(home) if name == "stdlib" else real(name))
    write(home / "its_tests" / "__init__.py", "")
    write(home / "its_tests" / "autotest.py")
    write(home / "site-packages" / "of_others.py")
    assert "its_tests" not in sys.stdlib_module_names
    with pytest.raises(ValueError, match="of Python's own library"):
        require_trusted("its_tests.autotest.Mine", model, "network")
    require_trusted("of_others.Mine", model, "network")


@pytest.mark.parametrize("name", ["", 3, None, "a..b", "a b.C", "os.", ".C"])
def test_what_is_no_name_is_refused(name: Any, model: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a name, module.Class or file.py:Class"):
        require_trusted(name, model, "process")


def test_numbers_and_words_are_plain() -> None:
    require_plain({"a": [1, 2.5, None, True], "b": {"c": ("silu", "DownBlock2D", "hf-hub")}, "d": "1.5"}, "arguments")
    require_plain(None, "arguments")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": ["silu", "weights/of.pt"]}}, r"arguments\.a\.b\[1\] is 'weights/of\.pt', which looks like a path"),
        ({"a": "their\\weights"}, r"arguments\.a is 'their"),
        ({"a": "https:somewhere"}, "or an address"),
        ({"a": "~root"}, "looks like a path"),
        ({"a": "..."}, "looks like a path"),
        ({"a": print}, r"arguments\.a is a builtin_function_or_method; expected numbers, words"),
        ({1: 2}, "has the key 1; expected words as keys"),
    ],
)
def test_places_and_objects_are_not(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_plain(value, "arguments")
