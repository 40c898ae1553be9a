"""`POST /tokenize` and `POST /detokenize`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from genai.errors import ConfigError
from genai.replies.openai import token_text
from genai.requests.chat import described
from genai.requests.messages import is_begun, template_messages
from server.body import StrictRoute
from server.encoding import encoded
from server.openapi import GENERATING
from server.schemas.tokenize import Detokenized, DetokenizeRequest, Piece, Tokenized, TokenizeRequest
from server.state import State

if TYPE_CHECKING:
    from genai.llm.llm import LLM
    from genai.tokenizer.tokenizer import Tokenizer

router = APIRouter(tags=["tokens"], route_class=StrictRoute)


@router.post("/tokenize", responses=GENERATING)
async def tokenize(body: TokenizeRequest, state: State) -> Tokenized:
    """The token ids of a text or of a conversation."""
    llm = (await state.models.get(body.model)).llm.llm
    return await asyncio.to_thread(_tokenized, llm, body)


@router.post("/detokenize", responses=GENERATING)
async def detokenize(body: DetokenizeRequest, state: State) -> Detokenized:
    """The text of token ids."""
    llm = (await state.models.get(body.model)).llm.llm
    return await asyncio.to_thread(_detokenized, llm, body)


def _tokenized(llm: LLM, body: TokenizeRequest) -> Tokenized:
    tokenizer = llm.tokenizer
    if body.content is not None:
        tokens = encoded(tokenizer, body.content, add_special_tokens=bool(body.add_special))
    elif body.prompt is not None:
        tokens = encoded(tokenizer, body.prompt, add_special_tokens=body.add_special_tokens is not False)
    else:
        assert body.messages is not None, "there is either a prompt or messages"
        variables: dict[str, Any] = dict(body.chat_template_kwargs or {})
        text = tokenizer.render_chat(
            template_messages(body.messages),
            add_generation_prompt=body.add_generation_prompt is not False,
            continue_final_message=is_begun(body.messages, body.continue_final_message),
            tools=described(body.tools),
            **variables,
        )
        tokens = encoded(tokenizer, text, add_special_tokens=False)
    texts = [token_text(tokenizer.token_bytes(token)) for token in tokens] if body.return_token_strs else None
    return Tokenized(
        count=len(tokens),
        max_model_len=llm.max_seq_len,
        tokens=[_piece(tokenizer, token) for token in tokens] if body.with_pieces else tokens,
        token_strs=texts,
    )


def _piece(tokenizer: Tokenizer, token: int) -> Piece:
    return Piece(id=token, piece=token_text(tokenizer.token_bytes(token)))


def _detokenized(llm: LLM, body: DetokenizeRequest) -> Detokenized:
    limit = llm.config.vocab_size
    if (bad := max(body.tokens, default=0)) >= limit:
        raise ConfigError(f"token id {bad} is outside the vocabulary (0 to {limit - 1})")
    text = llm.tokenizer.decode(body.tokens, skip_special_tokens=bool(body.skip_special_tokens))
    return Detokenized(prompt=text, content=text)
