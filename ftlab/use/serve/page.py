"""The page: one prompt to several runs and what they began with, side by side; curves and samples of the runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import gradio
from fastapi import FastAPI

from ftlab.data.formats import Message
from ftlab.errors import ConfigError, FtlabError
from ftlab.schema import Settings
from ftlab.use.models.settings import changed
from ftlab.use.models.speaker import StopAnswer
from ftlab.use.serve.served import ServedModel

REPORT = "/report"
_EVERY = 0.05  # seconds between two states of the page, at least
_FONT = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")
Chat = list[Message]


def add_page(app: FastAPI, models: Sequence[ServedModel], settings: Settings, report: str | None) -> FastAPI:
    """The application with the page at ``/``.

    :param settings: with which the page begins. :param report: HTML of curves and samples; None: there is none.
    """
    if report is not None:
        from fastapi.responses import HTMLResponse

        app.get(REPORT)(lambda: HTMLResponse(report))
    theme = gradio.themes.Base(font=_FONT, font_mono=_MONO)  # fonts of the system: none is fetched
    blocks = _blocks(models, settings, has_report=report is not None)
    return gradio.mount_gradio_app(
        app, blocks, path="/", theme=theme, ssr_mode=False, show_error=True, pwa=False, footer_links=[],
        enable_monitoring=False,
    )  # fmt: skip


def _blocks(models: Sequence[ServedModel], settings: Settings, has_report: bool) -> gradio.Blocks:
    names = [model.speaker.name for model in models]
    with gradio.Blocks(title="ftlab", analytics_enabled=False, fill_width=True) as blocks:
        with gradio.Tab("Ask"):
            with gradio.Row(equal_height=True):
                chats = [gradio.Chatbot(label=name, buttons=["copy"], feedback_options=None) for name in names]
            with gradio.Row():
                speeds = [gradio.Markdown("", elem_classes="speed") for _ in names]
            asked = gradio.Textbox(
                label="Prompt", lines=1, max_lines=12, placeholder="Enter asks, Shift+Enter breaks the line"
            )
            with gradio.Row():
                ask, stop = gradio.Button("Ask", variant="primary"), gradio.Button("Stop")
                clear = gradio.Button("New conversation")
            with gradio.Accordion("Settings", open=False):
                system = gradio.Textbox("", label="System message", lines=1)
                with gradio.Row():
                    fields = [
                        gradio.Textbox(label=name, value=_shown(value), elem_id=f"setting-{name}")
                        for name, value in settings.model_dump().items()
                    ]
        if has_report:
            with gradio.Tab("Runs"):
                gradio.HTML(
                    f'<iframe src="{REPORT}" title="runs" style="width: 100%; height: 85vh; border: 0"></iframe>'
                )
        answer = _Asking(models, settings).ask
        given = [asked, system, *fields, *chats]
        shown = [asked, *chats, *speeds]
        running = gradio.on([ask.click, asked.submit], answer, given, shown, show_progress="hidden")
        stop.click(None, cancels=[running])
        clear.click(lambda: [[] for _ in names] + ["" for _ in names], None, [*chats, *speeds], cancels=[running])
    return blocks


class _Asking:
    """Asks all models at once, and shows what each has written so far."""

    def __init__(self, models: Sequence[ServedModel], settings: Settings):
        self._models, self._settings = models, settings

    def ask(self, asked: str, system: str, *values: Any) -> Iterator[list[Any]]:
        """:param values: the settings, then the conversations. :return: states of the page: an empty prompt, the
        conversations, and how fast each answer was."""
        if not asked.strip():
            return
        count = len(Settings.model_fields)
        settings, chats = self._read(values[:count]), [list(chat) for chat in values[count:]]
        question: Message = {"role": "user", "content": asked.strip()}
        answers = [_Writing(model, [*_messages(system, chat), question], settings, len(chat) // 2)
                   for model, chat in zip(self._models, chats)]  # fmt: skip
        try:
            for one in answers:
                one.start()
            is_over = False
            while not is_over:
                states = [one.is_over(_EVERY / len(answers)) for one in answers]
                is_over = all(states)
                whole = [
                    [*chat, question, {"role": "assistant", "content": one.text}] for chat, one in zip(chats, answers)
                ]
                yield ["", *whole, *(one.told for one in answers)]
        finally:  # also where the page was closed, or asked to stop
            for one in answers:
                one.stop()

    def _read(self, values: Sequence[str]) -> Settings:
        settings = self._settings
        for name, value in zip(Settings.model_fields, values):
            try:
                settings = changed(settings, name, str(value).strip())
            except ConfigError as error:
                raise gradio.Error(str(error.mistakes[0]), print_exception=False) from None
        return settings


class _Writing:
    """One answer, which a thread of its own writes."""

    def __init__(self, model: ServedModel, messages: list[Message], settings: Settings, turn: int):
        self._model, self._messages, self._settings, self._turn = model, messages, settings, turn
        self._pieces: queue.Queue[str | None] = queue.Queue()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._write, name=f"answer of {model.speaker.name}", daemon=True)
        self._is_over = False
        self.text, self.told = "", "..."

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_stopped.set()

    def is_over(self, seconds: float) -> bool:
        """Take what was written by now, waiting that long for it; whether that is all."""
        wait: float | None = seconds
        while not self._is_over:
            try:
                piece = self._pieces.get(timeout=wait) if wait else self._pieces.get_nowait()
            except queue.Empty:
                break
            wait = None
            if piece is None:
                self._is_over = True
            else:
                self.text += piece
        return self._is_over

    def _write(self) -> None:
        speaker = self._model.speaker
        try:
            prompt = speaker.prompt(self._messages, None)
            with self._model.lock:
                answer = speaker.answer(prompt, self._settings, [self._settings.seed, self._turn], self._take)
            self.told = answer.told
        except FtlabError as error:
            self.told = str(error)
        except BaseException:
            self.told = "failed; the terminal says why"
            raise
        finally:
            self._pieces.put(None)

    def _take(self, text: str) -> None:
        if self._is_stopped.is_set():
            raise StopAnswer
        self._pieces.put(text)


def _messages(system: str, chat: Chat) -> list[Message]:
    """The conversation so far, as templates take it: the page's own has more to each message."""
    begin = [{"role": "system", "content": system.strip()}] if system.strip() else []
    return [*begin, *({"role": one["role"], "content": _text(one["content"])} for one in chat)]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part["text"] for part in content)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
