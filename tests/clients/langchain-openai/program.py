"""Plain, streamed, tools by hand, structured output both ways."""

import json
import sys

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel
from setup import model


class City(BaseModel):
    """A city."""

    city: str
    is_capital: bool


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    called.append({"city": city})
    return "21 degrees, sunny"


def tool_loop() -> dict:
    messages: list = [HumanMessage("What is the weather in Paris?")]
    answer = greedy.bind_tools([get_weather], tool_choice="required").invoke(messages, max_tokens=200)
    assert isinstance(answer, AIMessage)
    messages += [answer, *(get_weather.invoke(call) for call in answer.tool_calls)]
    return {"calls": called, "text": greedy.bind_tools([get_weather]).invoke(messages, max_tokens=24).content}


called: list[dict] = []
greedy = model.model_copy(update={"temperature": 0})
question, limit = sys.argv[1], int(sys.argv[2])
about = "Is Paris a capital? Answer in JSON."
said = {
    "plain": greedy.invoke(question, max_tokens=limit).content,
    "stream": [str(chunk.content) for chunk in greedy.stream(question, max_tokens=limit)],
    "tool": tool_loop(),
    "object": greedy.with_structured_output(City, method="json_schema").invoke(about).model_dump(),
    "object by tool": greedy.with_structured_output(City, method="function_calling").invoke(about).model_dump(),
}
print(json.dumps({"Chat": said}))
