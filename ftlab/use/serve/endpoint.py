"""The OpenAI-compatible endpoint of transformers' own server (``transformers serve``), over the models of runs.

Its handlers read requests, generate, stream and answer. Which models there are, how a prompt is written and when an
answer ends is the runs' own: no adapter has to be merged for it, and nothing else can be loaded through it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import BaseHandler, GenerationState, Modality

from ftlab.data.formats import CONVERTERS, Columns, Prompt, RowError
from ftlab.errors import nearest
from ftlab.use.models.speaker import PromptError
from ftlab.use.serve.access import HEALTH
from ftlab.use.serve.served import ServedModel, ServedTokenizer

# What transformers' server passes over, and what of it is no change.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "logprobs": (False, 0), "top_logprobs": (0,), "suffix": (),
    "presence_penalty": (0,), "response_format": ({"type": "text"},), "tool_choice": ("auto",), "functions": (),
    "function_call": (),
}  # fmt: skip


def endpoint(models: Sequence[ServedModel]) -> FastAPI:
    """``/v1/chat/completions``, ``/v1/completions``, ``/v1/models`` and ``/health``."""
    manager, state = _Models(models), GenerationState()
    chat, completion = _Chat(manager, state), _Completion(manager, state)
    app = FastAPI(title="ftlab serve", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: dict[str, Any]) -> Any:
        manager.check(body)
        asked = _read_messages(body)
        body = {**body, "messages": asked.messages, "tools": asked.tools}
        return await chat.handle_request(body, f"chatcmpl-{uuid.uuid4().hex}")

    @app.post("/v1/completions")
    async def completions(body: dict[str, Any]) -> Any:
        manager.check(body)
        return await completion.handle_request(body, f"cmpl-{uuid.uuid4().hex}")

    @app.get("/v1/models")
    async def list_models() -> Any:
        return {"object": "list", "data": manager.listed}

    @app.get(HEALTH)
    async def health() -> Any:
        return {"status": "ok"}

    @app.exception_handler(PromptError)
    async def refused(_: Request, error: PromptError) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail))

    return app


def _error(status: int, reason: str) -> JSONResponse:
    """As clients of OpenAI's API read it."""
    code = "model_not_found" if status == 404 else None
    return JSONResponse({"error": {"message": reason, "type": "invalid_request_error", "code": code}}, status)


def _read_messages(body: Mapping[str, Any]) -> Prompt:
    """:raises PromptError: the messages of a request are none, or end with an answer."""
    messages = body.get("messages")
    try:
        asked = CONVERTERS["prompts"](Columns({"messages": messages, "tools": body.get("tools")}, {}))
    except RowError as error:
        raise PromptError(f"{error}.") from None
    assert isinstance(asked, Prompt)
    if isinstance(messages, list) and messages[-1].get("role") == "assistant":
        raise PromptError("the last message is an assistant's: nothing is asked.")
    return asked


class _Models(ModelManager):
    """The runs by their names, and nothing else."""

    def __init__(self, models: Sequence[ServedModel]):
        super().__init__(model_timeout=-1)
        self._by_name = {model.speaker.name: (model, ServedTokenizer(model.speaker)) for model in models}
        began = int(time.time())
        self.listed = [{"id": name, "object": "model", "created": began, "owned_by": "ftlab"} for name in self._by_name]

    def check(self, body: Mapping[str, Any]) -> None:
        """:raises HTTPException: a request names no model of these, or wants what nobody does here."""
        name = body.get("model")
        if name not in self._by_name:
            known = list(self._by_name)
            near = nearest(name, known) if isinstance(name, str) else []
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise HTTPException(404, f"model={name}: no such model. There are: {', '.join(known)}.{hint}")
        for key, harmless in _UNSUPPORTED.items():
            if body.get(key) is not None and body[key] not in harmless:
                raise HTTPException(400, f"{key}={body[key]} is not supported here; leave it out.")

    @staticmethod
    def process_model_name(model_id: str) -> str:
        return model_id

    def load_model_and_processor(self, model_id_and_revision: str, *_: Any, **__: Any) -> Any:
        return self._by_name[model_id_and_revision]

    @staticmethod
    def get_model_modality(model: Any, processor: Any = None) -> Modality:
        return Modality.LLM


class _Drawing(BaseHandler):
    """A temperature in a request says whether its answer is drawn; transformers' server leaves that to the model."""

    def _build_generation_config(self, body: dict[str, Any], model_generation_config: Any, use_cb: bool = False) -> Any:
        found = super()._build_generation_config(body, model_generation_config, use_cb=use_cb)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or model_generation_config.max_new_tokens
        found.max_new_tokens = int(limit)  # where a request says nothing it would be 1,024 at least
        found.do_sample = bool(found.temperature)
        if not found.do_sample:
            found.temperature = found.top_k = found.top_p = None
        elif found.top_k is None:
            found.top_k = 0  # of all; nothing would be transformers' own 50
        return found


class _Chat(_Drawing, ChatCompletionHandler):
    @staticmethod
    def get_processor_inputs_from_messages(messages: Any, modality: Any) -> Any:
        return messages  # they are as templates take them


class _Completion(_Drawing, CompletionHandler):
    pass
