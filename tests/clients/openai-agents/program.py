"""Agents over Responses and over Chat Completions: asked, streamed, with a tool, held to a type."""

import asyncio
import json
import sys

from agents import Agent, ModelSettings, Runner, function_tool
from pydantic import BaseModel
from setup import chat_model, responses_model


class City(BaseModel):
    city: str
    is_capital: bool


async def tool(model: object) -> dict:
    called = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append({"city": city})
        return "21 degrees, sunny"

    settings = ModelSettings(temperature=0, max_tokens=200, tool_choice="required")
    agent = Agent(name="helper", model=model, tools=[get_weather], model_settings=settings)
    result = await Runner.run(agent, "What is the weather in Paris?", max_turns=4)
    return {"text": result.final_output, "calls": called}


async def streamed(agent: Agent, question: str) -> list[str]:
    events = [event async for event in Runner.run_streamed(agent, question).stream_events()]
    raw = [event.data for event in events if event.type == "raw_response_event"]
    return [event.delta for event in raw if event.type == "response.output_text.delta"]


async def run(model: object, question: str, limit: int) -> dict:
    short = Agent(name="helper", model=model, model_settings=ModelSettings(temperature=0, max_tokens=limit))
    settings = ModelSettings(temperature=0, max_tokens=120)
    typed = Agent(name="helper", model=model, output_type=City, model_settings=settings)
    return {
        "plain": (await Runner.run(short, question)).final_output,
        "stream": await streamed(short, question),
        "tool": await tool(model),
        "object": (await Runner.run(typed, "Is Paris a capital? Answer in JSON.")).final_output.model_dump(),
    }


async def main(question: str, limit: int) -> None:
    said = {"Responses": await run(responses_model, question, limit), "Chat": await run(chat_model, question, limit)}
    print(json.dumps(said))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
