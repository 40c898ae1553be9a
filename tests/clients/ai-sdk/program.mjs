// Both providers: plain, streamed, with a tool, an object.
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { chat, messages } from "./setup.mjs";

const city = z.object({ city: z.string(), is_capital: z.boolean() });

async function withTool(model) {
  const calls = [];
  const get_weather = tool({
    description: "The weather in a city",
    inputSchema: z.object({ city: z.string().max(20) }),
    execute: async (input) => {
      calls.push(input);
      return "21 degrees, sunny";
    },
  });
  const { text } = await generateText({
    model,
    prompt: "What is the weather in Paris?",
    tools: { get_weather },
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "auto" : "required" }),
    stopWhen: stepCountIs(2),
    temperature: 0,
    maxOutputTokens: 200,
  });
  return { calls, text };
}

async function streamed(model, prompt, maxOutputTokens) {
  const pieces = [];
  const onError = ({ error }) => { throw error; };
  for await (const piece of streamText({ model, prompt, temperature: 0, maxOutputTokens, onError }).textStream) {
    pieces.push(piece);
  }
  return pieces;
}

async function run(model, prompt, maxOutputTokens) {
  const about = { model, prompt: "Is Paris a capital? Answer in JSON.", temperature: 0, maxOutputTokens: 120 };
  return {
    plain: (await generateText({ model, prompt, temperature: 0, maxOutputTokens })).text,
    stream: await streamed(model, prompt, maxOutputTokens),
    tool: await withTool(model),
    object: (await generateText({ ...about, output: Output.object({ schema: city }) })).output,
  };
}

const [question, limit] = process.argv.slice(2);
const said = { Chat: await run(chat, question, Number(limit)), Messages: await run(messages, question, Number(limit)) };
console.log(JSON.stringify(said));
