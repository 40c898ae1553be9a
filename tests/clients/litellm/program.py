"""A loop that sends the client's own message objects back, as agents on litellm do."""

import json
import sys

import litellm
from pydantic import BaseModel
from setup import MODEL

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
        },
    },
}


class City(BaseModel):
    city: str
    is_capital: bool


def ask(messages: list, **options: object) -> object:
    return litellm.completion(**MODEL, messages=messages, temperature=0, **options)


def tool_loop() -> dict:
    messages: list = [{"role": "user", "content": "What is the weather in Paris?"}]
    called = []
    for choice in ("required", "auto"):
        message = ask(messages, tools=[WEATHER], tool_choice=choice, max_tokens=200).choices[0].message
        messages.append(message)
        for call in message.tool_calls or []:
            called.append(json.loads(call.function.arguments))
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "21 degrees, sunny"}
            )
    return {"calls": called, "text": messages[-1].content}


question = {"messages": [{"role": "user", "content": sys.argv[1]}], "max_tokens": int(sys.argv[2])}
about = [{"role": "user", "content": "Is Paris a capital? Answer in JSON."}]
answer = ask(about, response_format=City, max_tokens=120).choices[0].message.content
said = {
    "plain": ask(**question).choices[0].message.content,
    "stream": [chunk.choices[0].delta.content or "" for chunk in ask(**question, stream=True)],
    "tool": tool_loop(),
    "object": City.model_validate_json(answer).model_dump(),
}
print(json.dumps({"Chat": said}))
