"""The server of `transformers serve`, in this process, on a model whose blocks moec has compiled.

Requests, streaming, chat templates and generation are transformers' own (its extra `serving`: FastAPI and uvicorn, with
the interface of OpenAI's API); what stands here loads a model, has its blocks replaced, and starts it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final, cast

import torch
import uvicorn
from fastapi import HTTPException
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.systemone import SystemOneHandler
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import GenerationState

from moec.diagnostics import fail
from moec.dtypes import StorageLike
from moec.integrations.transformers import prepare, replace

#: Seconds that requests get to finish once the server has been told to end.
_GRACE: Final = 5

#: Fields of a request that are numbers.
_NUMBERS: Final = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "frequency_penalty", "seed")


class Chat(ChatCompletionHandler):
    """Chat completions that refuse what transformers' own would stumble over with a 500."""

    def _validate_request(self, body: dict[str, Any]) -> None:
        cast(Any, super())._validate_request(body)
        messages: Any = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise HTTPException(422, "`messages` is no list of messages")
        for message in cast("list[Any]", messages):
            if not isinstance(message, dict) or not isinstance(cast(Any, message).get("role"), str):
                raise HTTPException(422, "a message has no role")
        for name in _NUMBERS:
            if isinstance(value := body.get(name), bool) or not isinstance(value, int | float | None):
                raise HTTPException(422, f"`{name}` is no number")
        if not cast(Models, self.model_manager).chats:
            raise HTTPException(400, "the model has no chat template; `/v1/completions` needs none")


def give(model: Any, storage: StorageLike) -> list[str]:
    """Gives to moec what it can compute of a model, whole blocks or their experts; a line for each kind of block.

    Raises `CompileError` (E0902) where that is nothing.
    """
    report = replace(model, storage, release_weights=True)
    model.set_experts_implementation("moec")
    kinds = Counter(f"{each.block}, by {each.file}.moe" for each in report.replaced)
    for each in report.left:
        found = prepare(model.get_submodule(each.path), storage, release_weights=True)
        kinds[f"{each.block}, {'its experts by moec' if found else 'not by moec'}: {each.reason}"] += 1
    told = [f"{count} {kind}" for kind, count in kinds.items()]
    if all(", not by moec: " in kind for kind in kinds):
        what = "; ".join(told) or "it has no experts"
        raise fail("E0902", f"moec can compute nothing of `{model.name_or_path}`: {what}")
    return told


class Models(ModelManager):
    """The one model of a server, its blocks compiled and packed as soon as it is loaded, and never unloaded.

    `report` says of every kind of block what computes it now, `chats` whether the model has a chat template.

    `model` is a directory or a name on the hub, `dtype` what transformers is to load it in (`auto`: as it is stored),
    `storage` the experts' format, as for `moec.compile`. Raises `OSError` or `ValueError` (transformers' own) where
    there is no such model, `CompileError` (E0306, E0902) where moec cannot compute it.
    """

    def __init__(self, model: str, dtype: str = "auto", storage: StorageLike = None) -> None:
        self._storage = storage
        cast(Any, super()).__init__(device="cpu", dtype=dtype, force_model=model)

    def _load_processor(self, *args: Any, **options: Any) -> Any:
        processor = cast(Any, super())._load_processor(*args, **options)
        tokenizer = getattr(processor, "tokenizer", processor)
        self.chats = any(getattr(each, "chat_template", None) for each in (processor, tokenizer))
        return processor

    def _load_model(self, *args: Any, **options: Any) -> Any:
        model = cast(Any, super())._load_model(*args, **options)
        self.report = give(model, self._storage)
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.int64))  # which packs them now, not at the first request
        return model

    def get_gen_models(  # pyright: ignore[reportIncompatibleVariableOverride]: what is overridden keeps its answers
        self, cache_dir: str | None = None
    ) -> list[dict[str, Any]]:
        """What `/v1/models` lists: the model that is served, not those that the hub's cache holds."""
        place = Path(str(self.force_model))
        at = int(place.stat().st_mtime) if place.exists() else 0
        return [{"id": self.force_model, "object": "model", "owned_by": "", "created": at}]


def serve(models: Models, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves a model until SIGINT or SIGTERM, one request after the other; port 0 is any that is free."""
    manager: Any = models
    state: Any = GenerationState()
    app = build_server(
        manager,
        Chat(manager, state),
        completion_handler=CompletionHandler(manager, state),
        response_handler=ResponseHandler(manager, state),
        transcription_handler=TranscriptionHandler(manager, state),
        systemone_handler=SystemOneHandler(manager, state),
        generation_state=state,
    )
    config = uvicorn.Config(app, host=host, port=port, log_level="info", timeout_graceful_shutdown=_GRACE)
    try:
        uvicorn.Server(config).run()
    except KeyboardInterrupt:  # which uvicorn passes on once everything is closed
        pass
    finally:
        state.shutdown()
