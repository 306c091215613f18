"""How a command ends: one sentence and an exit code for what a user can mend, a traceback for a bug."""

import signal

import pytest

from train_utils.errors import InputError, LossNotFinite, one_sentence_errors, sentence

IN_A_LOADER = """Caught InputError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 1, in fetch
datasets.errors.InputError: a.xml: no object, see line 3: mend it
"""


def ending(error, *kinds):
    """The exit code of a command in which `error` is raised."""
    with pytest.raises(SystemExit) as left, one_sentence_errors(*kinds):
        raise error
    return left.value.code


@pytest.mark.parametrize("error", [InputError("--lr 0: give more"), LossNotFinite("nan"), FileNotFoundError("a.pth: absent")])
def test_a_mistake_is_one_sentence(error, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert ending(error) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_further_kinds_and_the_process_are_named(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert ending(KeyError("no such class"), KeyError) == 2
    assert capsys.readouterr().err == "[process 1] error: 'no such class'\n"


def test_an_interrupt_is_one_line_and_no_traceback(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as left, one_sentence_errors():
        signal.raise_signal(signal.SIGINT)
    assert left.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_leaving_on_purpose_and_bugs_pass_as_they_are(capsys):
    class Requeue(SystemExit):
        pass

    with pytest.raises(Requeue) as left, one_sentence_errors():
        raise Requeue(75)
    assert left.value.code == 75
    with pytest.raises(ZeroDivisionError), one_sentence_errors():
        raise ZeroDivisionError
    with one_sentence_errors():
        pass
    assert capsys.readouterr().err == ""


def test_an_error_of_a_loader_process_is_told_without_its_traceback():
    assert sentence(InputError(IN_A_LOADER)) == "a.xml: no object, see line 3: mend it"
    assert sentence(InputError("")) == ""
