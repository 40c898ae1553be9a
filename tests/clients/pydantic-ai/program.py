"""An agent that is asked, streamed, given a tool, and held to a type in each of the ways that pydantic-ai has."""

import asyncio
import json
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from setup import model, provider

LONGER = {"temperature": 0, "max_tokens": 120}


class City(BaseModel):
    city: str
    is_capital: bool


async def streamed(question: str) -> list[str]:
    async with Agent(model, model_settings=SHORT).run_stream(question) as result:
        return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]


async def tool() -> dict:
    agent = Agent(OpenAIChatModel("written", provider=provider))
    called = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append({"city": city})
        return "21 degrees, sunny"

    return {"text": (await agent.run("What is the weather in Paris?")).output, "calls": called}


async def typed(output_type: object) -> dict:
    agent = Agent(model, output_type=output_type, model_settings=LONGER, retries=0)
    return (await agent.run("Is Paris a capital? Answer in JSON.")).output.model_dump()


async def main(question: str) -> None:
    said = {
        "plain": (await Agent(model, model_settings=SHORT).run(question)).output,
        "stream": await streamed(question),
        "tool": await tool(),
        "object": await typed(NativeOutput(City)),
        "object by tool": await typed(ToolOutput(City)),
    }
    print(json.dumps({"Chat": said}))


SHORT = {"temperature": 0, "max_tokens": int(sys.argv[2])}
asyncio.run(main(sys.argv[1]))
