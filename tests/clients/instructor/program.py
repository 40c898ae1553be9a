"""A type from an answer: by a schema, by a tool, and piece by piece."""

import json

import instructor
from pydantic import BaseModel
from setup import client, openai_client

ABOUT = [{"role": "user", "content": "Is Paris a capital? Answer in JSON."}]
ASK = {"model": "smollm2-135m-instruct", "messages": ABOUT, "temperature": 0, "max_tokens": 120, "max_retries": 0}


class City(BaseModel):
    city: str
    is_capital: bool


by_tool = instructor.from_openai(openai_client, mode=instructor.Mode.TOOLS)
said = {
    "object": client.create(response_model=City, **ASK).model_dump(),
    "object by tool": by_tool.create(response_model=City, **ASK).model_dump(),
    "streamed object": [part.model_dump() for part in client.create_partial(response_model=City, **ASK)],
}
print(json.dumps({"Chat": said}))
