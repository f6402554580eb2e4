"""A chat: who answers, the conversation so far, and what is asked of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ftlab.data.formats import Message
from ftlab.schema import Settings
from ftlab.use.chat.conversation import Conversation, Turn
from ftlab.use.chat.screen import Screen
from ftlab.use.models.loading import Models
from ftlab.use.models.speaker import Answer, PromptError, Speaker, StopAnswer


class Session:
    """:param models: loads what is asked for later. :param speakers: a model for each run, in their order.

    :ivar bases: what the runs began with, while it answers too. :ivar thinks: what templates with a thinking switch are
        told; None: nothing, as in training. :ivar is_over: the user has left. :ivar is_stopped: the last answer was
        stopped by Ctrl-C.
    """

    def __init__(self, models: Models, speakers: list[Speaker], settings: Settings, system: str | None, screen: Screen):
        self.models, self.speakers, self.settings, self.screen = models, speakers, settings, screen
        self.bases: list[Speaker] = []
        self.conversation = Conversation(system)
        self.thinks: bool | None = None
        self.is_over = self.is_stopped = False
        self._tries = 0  # of the last question

    @property
    def answering(self) -> list[Speaker]:
        """All who answer, in the order in which they do."""
        return [*self.bases, *self.speakers]

    def ask(self, text: str) -> None:
        """Ask all; a question that one of them cannot be asked is asked of none.

        :raises FtlabError: it cannot be asked.
        """
        self._tries = 0
        self.conversation.turns.append(Turn([{"role": "user", "content": text}]))
        self._answer_last()

    def retry(self) -> None:
        """Ask the last question again; a drawn answer is another one."""
        if not self.conversation.turns:
            raise PromptError("There is no question yet.")
        self._tries += 1
        self._answer_last()

    def undo(self) -> Turn:
        """Take the last question and its answers back."""
        if not self.conversation.turns:
            raise PromptError("There is nothing to take back.")
        self._tries = 0
        return self.conversation.turns.pop()

    def begin_anew(self) -> None:
        """A new conversation with the same system message."""
        self._tries = 0
        self.conversation = Conversation(self.conversation.system)

    def compare(self, is_on: bool) -> None:
        """Let what the runs began with answer too, or no more."""
        self.bases = self.models.load_bases() if is_on else []

    def _answer_last(self) -> None:
        """:raises FtlabError: a model cannot be asked; a question that nobody had answered is gone then."""
        turn = self.conversation.turns[-1]
        before = dict(turn.answers), set(turn.cut)
        self.is_stopped = False
        try:
            prompts = {speaker.name: self._prompt(speaker) for speaker in self.answering}
            turn.answers, turn.cut = {}, set()
            for speaker in self.answering:
                answer = self._answer(speaker, prompts[speaker.name])
                turn.answers[speaker.name] = {"role": "assistant", "content": answer.text}
                if answer.cut is not None:
                    turn.cut.add(speaker.name)
                if answer.cut == "stopped":
                    self.is_stopped = True
                    break
        except BaseException:
            if not turn.answers:
                turn.answers, turn.cut = before
            if not turn.answers:
                self.conversation.turns.pop()
            raise

    def _prompt(self, speaker: Speaker) -> list[int]:
        try:
            return speaker.prompt(
                self.conversation.asking(speaker.name), self.conversation.tools, self._thinks(speaker)
            )
        except PromptError as error:
            raise PromptError(f"{error} (/undo, /new or /system changes the conversation)") from None

    def _thinks(self, speaker: Speaker) -> bool | None:
        return self.thinks if speaker.has_thinking_switch else None

    def _answer(self, speaker: Speaker, prompt: Sequence[int]) -> Answer:
        turns = self.conversation.turns
        number = len(turns) - 1
        seed = [self.settings.seed, number, *([self._tries] if self._tries else [])]
        ends = speaker.tokens.tokenizer.decode(prompt[-8:]).rstrip()
        shown = self.screen.begin(speaker, len(self.answering) > 1, opens_thinking=ends.endswith("<think>"))
        with _stopped_by_ctrl_c(shown.write) as write:
            answer = speaker.answer(prompt, self.settings, seed, write)
        shown.end(_question(turns[-1].asked), answer, number)
        return answer


@contextmanager
def _stopped_by_ctrl_c(write: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Ctrl-C raises as ever, and where a library catches that, the next text is not written: the answer stops there."""
    is_asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        is_asked = True
        signal.default_int_handler(number, frame)

    def write_unless_asked(text: str) -> None:
        if is_asked:
            raise StopAnswer
        write(text)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield write_unless_asked
    finally:
        signal.signal(signal.SIGINT, before)


def _question(asked: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in asked)
