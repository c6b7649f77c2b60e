"""`moec serve`, asked by the openai client: a tiny model with a tokenizer of its own, written by the test."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from click.testing import CliRunner
from fastapi import HTTPException
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedTokenizerFast,
)

import moec.cli
from moec import CompileError
from moec.cli import serve
from moec.integrations.serving import Chat, GenerationState, Models

ROOT = Path(__file__).parents[2]
LINES = ("a token chooses its experts", "the experts answer, and their answers are added")
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=TEMPLATE
    )
    whole.save_pretrained(path)
    return whole


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("olmoe")
    tokenizer = write_tokenizer(path)
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        num_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES,
    )
    OlmoeForCausalLM(config).save_pretrained(path)
    return path


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def own_answer(path: Path, text: str, tokens: int) -> str:
    """What the model says by its own code."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    given = tokenizer.apply_chat_template(ask(text), add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**given, max_new_tokens=tokens, do_sample=False)[0, given["input_ids"].shape[1] :]
    return tokenizer.decode(said, skip_special_tokens=True)


def address(process: subprocess.Popen[str]) -> str:
    """Where a server listens, as uvicorn says it."""
    assert process.stderr is not None
    told = list[str]()
    for line in process.stderr:
        told.append(line)
        if "running on http" in line:
            return line.split("running on ")[1].split()[0]
    raise AssertionError("".join(told))


def test_clients_are_answered_and_an_interrupt_ends_the_server(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "moec", "serve", str(checkpoint), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        try:
            client = openai.OpenAI(base_url=f"{address(process)}/v1", api_key="none", max_retries=0, timeout=60)
            assert [each.id for each in client.models.list()] == [str(checkpoint)]
            check_answers(client, checkpoint)
            check_mistakes(client, str(checkpoint))
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def check_answers(client: openai.OpenAI, checkpoint: Path) -> None:
    """Whole, in pieces, and for two clients at once: what the model says by its own code."""

    def complete(text: str, **options: Any) -> Any:
        return client.chat.completions.create(
            model=str(checkpoint), messages=ask(text), max_tokens=12, temperature=0, **options
        )

    texts = ("the experts answer", "a token")
    truth = [own_answer(checkpoint, text, 12) for text in texts]
    assert truth[0] and truth[0] != truth[1]
    answer = complete(texts[0])
    assert answer.choices[0].message.content == truth[0]
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 12
    pieces = [chunk.choices[0].delta.content or "" for chunk in complete(texts[0], stream=True)]
    assert "".join(pieces) == truth[0] and len([piece for piece in pieces if piece]) > 1
    with ThreadPoolExecutor(2) as both:
        answers = both.map(complete, texts)
    assert [each.choices[0].message.content for each in answers] == truth


def check_mistakes(client: openai.OpenAI, model: str) -> None:
    wrong: list[tuple[int, dict[str, Any]]] = [
        (400, {"model": "another"}),
        (422, {"extra_body": {"temprature": 1}}),
        (422, {"messages": []}),
        (422, {"messages": "hello"}),
        (422, {"messages": [{"content": "hello"}]}),
        (422, {"temperature": "hot"}),
    ]
    for status, options in wrong:
        with pytest.raises(openai.APIStatusError) as error:
            client.chat.completions.create(**{"model": model, "messages": ask("hello"), "max_tokens": 1, **options})
        assert error.value.status_code == status, options


def test_a_model_without_a_chat_template_answers_completions_only(checkpoint: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(checkpoint, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    for path, chats in ((checkpoint, True), (plain, False)):
        models = Models(str(path))
        assert models.chats == chats
        handler, body = Chat(models, GenerationState()), {"model": str(path), "messages": ask("hello")}
        with nullcontext() if chats else pytest.raises(HTTPException, match="no chat template"):
            handler._validate_request(body)


def test_experts_are_stored_and_the_model_s_own_let_go(checkpoint: Path) -> None:
    served = Models(str(checkpoint), storage={"experts": "q8_0"})
    assert served.report == ["2 OlmoeSparseMoeBlock, by olmoe.moe"]
    model, _ = served.load_model_and_processor(f"{checkpoint}@main")
    with pytest.raises(CompileError, match="let go"):
        model.model.layers[0].mlp.experts.down_proj.sum()
    exact, _ = Models(str(checkpoint)).load_model_and_processor(f"{checkpoint}@main")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        stored, truth = model(ids).logits, exact(ids).logits
    errors = (stored - truth).norm(dim=-1) / truth.norm(dim=-1)
    assert 1e-4 < errors.median() < 5e-2  # the median: a token that then chooses another expert differs much
    with pytest.raises(CompileError, match="not a multiple of 256"):
        Models(str(checkpoint), storage={"experts": "q4_K"})


def test_a_block_that_no_file_describes_has_its_experts_computed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacing = import_module("moec.integrations.transformers.replace")  # the name is also that of its function
    monkeypatch.setattr(replacing, "rows", dict)
    assert Models(str(checkpoint)).report == [
        "2 OlmoeSparseMoeBlock, its experts by moec: no .moe file describes this class; "
        "`experts_implementation` may still be moec"
    ]


def test_a_model_without_experts_is_refused(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(tmp_path)
    with pytest.raises(CompileError, match=r"nothing of .*: it has no experts"):
        Models(str(tmp_path))


def test_the_command_says_what_is_missing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = CliRunner()
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"of another kind")
    done = runner.invoke(moec.cli.main, ["serve", str(broken), "--port", "0"])
    assert done.exit_code == 1 and f"`{broken}` cannot be loaded: " in done.stderr
    done = runner.invoke(moec.cli.main, ["serve", str(tmp_path), "--port", "0"])
    assert done.exit_code == 1 and f"`{tmp_path}` cannot be loaded: " in done.stderr
    done = runner.invoke(moec.cli.main, ["serve", str(tmp_path), "--storage", "q4_9"])
    assert done.exit_code == 1 and done.stderr.startswith("error[E0306]: `q4_9` is not a storage format")
    done = runner.invoke(moec.cli.main, ["serve", str(tmp_path / "nothing")])
    assert (done.exit_code, done.stderr) == (1, f"error: `{tmp_path / 'nothing'}` is no directory\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = runner.invoke(moec.cli.main, ["serve", str(tmp_path), "--port", str(port := taken.getsockname()[1])])
    assert done.exit_code == 1
    assert done.stderr == f"error: nothing can listen at 127.0.0.1, port {port}: address already in use\n"
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name in ("fastapi", "openai") else name)
    done = runner.invoke(moec.cli.main, ["serve", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr == "error: `moec serve` needs fastapi, openai: pip install 'moec[serve]'\n"
