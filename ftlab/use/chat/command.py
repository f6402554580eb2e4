"""``ftlab chat [RUN...]``: loads the runs, and lets them answer until the user leaves."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftlab.base.libraries import quiet_libraries
from ftlab.errors import FtlabError, Interrupted
from ftlab.policy.given import Given
from ftlab.schema import ChatTask, Run
from ftlab.use.models.settings import first_settings

if TYPE_CHECKING:
    from ftlab.use.chat.reader import PipeReader
    from ftlab.use.chat.session import Session

# What a chat may have otherwise than the run.
_GROUPS = ("quant", "hardware")
_KEYS = ("seed", "model.attention", "eval.max_new_tokens")


def chat(run: Run, overrides: Sequence[str]) -> None:
    """Talk with what runs have trained: in a terminal, or with the lines of a pipe.

    :raises ConfigError: keys that a run has for good. :raises RunDirError: a run that is none, or has no weights.
    :raises NotReadyError: a base is missing, or there is no memory. :raises DataError: the file of a conversation.
    """
    task = run.task
    assert isinstance(task, ChatTask)
    given = Given.read(run, overrides, _GROUPS, _KEYS)
    quiet_libraries()
    with warnings.catch_warnings(action="ignore"):  # of libraries, to whoever calls them
        session = _session(run, task, given)
        reader = _reader(task, session)
        try:
            _talk(session, reader)
        finally:
            reader.close()
    if session.screen.failed and not reader.is_terminal:
        sys.exit(1)  # each was told where it happened


def _session(run: Run, task: ChatTask, given: Given) -> Session:
    from ftlab.use.chat.commands import load
    from ftlab.use.chat.screen import Screen, is_terminal
    from ftlab.use.chat.session import Session
    from ftlab.use.models.loading import Models

    screen = Screen(is_terminal(), task.format)
    models = Models(task.runs, given, task.phase, run.run.checkpoint)
    speakers = models.load()
    session = Session(models, speakers, first_settings(task, given, run.seed), task.system, screen)
    for speaker, folder in zip(speakers, models.folders):
        weights = speaker.policy.weights
        if not task.runs:
            screen.note(f"{folder} is the latest run.")
        if weights.remark:
            screen.note(f"{speaker.name}: {weights.remark}")
        if speaker.tokens.warning:
            screen.note(f"{speaker.name}: {speaker.tokens.warning}")
        if speaker.continues_text:
            screen.note(f"{speaker.name} has no chat template (stage=pt): it goes on with the text that is typed.")
    if models.base_count > 1:
        screen.note(f"The runs have {models.base_count} base models, all of them in memory.")
    if task.compare is not None:
        session.compare(True)
    if task.load is not None:
        load(session, task.load, None)
    return session


def _reader(task: ChatTask, session: Session) -> PipeReader:
    from ftlab.use.chat.commands import completions
    from ftlab.use.chat.reader import PipeReader, TerminalReader

    if not session.screen.is_terminal:
        return PipeReader()
    names = " and ".join(speaker.name for speaker in session.answering)
    session.screen.note(f"{names} answer{'s' * (len(session.answering) == 1)}. /help lists commands, Ctrl-D leaves.")
    history = None if task.history is None else Path(task.history).expanduser()
    return TerminalReader(history, lambda line, word: completions(session, line, word))


def _talk(session: Session, reader: PipeReader) -> None:
    from ftlab.use.chat.commands import execute

    while not session.is_over:
        try:
            line = reader.read()
            if line is None:
                break
            if line.startswith("/"):
                execute(session, line.rstrip())
            elif line.strip():
                session.ask(line.strip())
            if session.is_stopped and not reader.is_terminal:
                raise Interrupted("Stopped.")
        except Interrupted:
            raise
        except KeyboardInterrupt:
            if not reader.is_terminal:
                raise Interrupted("Stopped.") from None
            session.screen.note("\n(Ctrl-D or /quit leaves)")
        except FtlabError as error:
            session.screen.error(error)
    if reader.is_terminal and not session.is_over:
        session.screen.note("")  # Ctrl-D leaves the cursor behind the prompt
